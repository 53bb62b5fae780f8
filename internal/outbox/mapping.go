package outbox

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/cdc"
)

// Columns names the column of the outbox table that holds each part of an event.
type Columns struct {
	ID, TenantID, AggregateType, AggregateID, EventType, Payload string
	// Headers, CreatedAt and XID may be empty: then the table has no such column. XID may also be named and
	// absent, because only the audit depends on it, which finds that out by itself.
	Headers, CreatedAt, XID string
}

// DefaultColumns returns the names of outbox.events.
func DefaultColumns() Columns {
	return Columns{
		ID: "id", TenantID: "tenant_id", AggregateType: "aggregate_type", AggregateID: "aggregate_id",
		EventType: "event_type", Payload: "payload", Headers: "headers", CreatedAt: "created_at", XID: "xid",
	}
}

const (
	// DefaultTable is the outbox table that the relay's own migration makes.
	DefaultTable = "outbox.events"
	// DefaultMaxPayload is the largest payload in bytes, unless set otherwise.
	DefaultMaxPayload = 1 << 20
	// MaxHeaders is the largest headers value in bytes.
	MaxHeaders = 64 << 10
)

// MappingOptions says where the events lie.
type MappingOptions struct {
	// Table is schema.table; a part may be quoted as in SQL, and is otherwise taken as it is, case included.
	// Empty means DefaultTable.
	Table string
	// Columns with no name at all mean DefaultColumns. Otherwise a required one that is empty has its default
	// name, and an optional one that is empty is not there.
	Columns Columns
	// MaxPayload is the largest payload in bytes, as the writer gave it; zero means DefaultMaxPayload.
	MaxPayload int
	// Retained is for rows that the stream has brought before: what was an event when it was committed stays one, whatever the
	// catalog and the limits say by now. What never was one is in relay.rejected.
	Retained bool
}

// Mapper turns rows into events. It remembers where the columns of the last relation are and reuses a buffer:
// one goroutine at a time may use it.
type Mapper struct {
	schema, table string
	names         [columnCount]string
	maxPayload    int
	retained      bool
	catalog       *Catalog

	relation *cdc.Relation
	at       [columnCount]int // position in the row, -1 when absent
	absent   string           // the first mapped column that relation lacks
	members  []member
}

// The parts of an event, as indexes of Mapper.names and Mapper.at.
const (
	columnID = iota
	columnTenantID
	columnAggregateType
	columnAggregateID
	columnEventType
	columnPayload
	columnHeaders
	columnCreatedAt
	columnXID
	columnCount
)

const byteaOID = 17

// NewMapper checks the options and returns a Mapper that validates by the catalog.
func NewMapper(o MappingOptions, c *Catalog) (*Mapper, error) {
	if c == nil {
		return nil, errors.New("map outbox rows: no catalog")
	}
	if o.Table == "" {
		o.Table = DefaultTable
	}
	schema, table, err := splitTable(o.Table)
	if err != nil {
		return nil, fmt.Errorf("map outbox rows: table %s: %w", show(o.Table), err)
	}
	switch {
	case o.MaxPayload < 0:
		return nil, fmt.Errorf("map outbox rows: largest payload of %d bytes: must be positive", o.MaxPayload)
	case o.MaxPayload == 0:
		o.MaxPayload = DefaultMaxPayload
	}
	m := &Mapper{schema: schema, table: table, maxPayload: o.MaxPayload, retained: o.Retained, catalog: c, names: o.Columns.list()}
	defaults := DefaultColumns().list()
	for i, name := range defaults {
		if m.names[i] == "" && (o.Columns == Columns{} || i <= columnPayload) {
			m.names[i] = name
		}
	}
	used := map[string]bool{}
	for _, name := range m.names {
		if name != "" && used[name] {
			return nil, fmt.Errorf("map outbox rows: column %s is mapped twice", show(name))
		}
		used[name] = true
	}
	return m, nil
}

func (c Columns) list() [columnCount]string {
	return [columnCount]string{
		columnID: c.ID, columnTenantID: c.TenantID, columnAggregateType: c.AggregateType,
		columnAggregateID: c.AggregateID, columnEventType: c.EventType, columnPayload: c.Payload,
		columnHeaders: c.Headers, columnCreatedAt: c.CreatedAt, columnXID: c.XID,
	}
}

// splitTable splits schema.table; within quotation marks dots do not split, and two marks stand for one.
func splitTable(name string) (schema, table string, err error) {
	var parts []string
	for rest := name; ; {
		var part string
		if strings.HasPrefix(rest, `"`) {
			rest = rest[1:]
			for {
				end := strings.IndexByte(rest, '"')
				if end < 0 {
					return "", "", errors.New("a quotation mark is not closed")
				}
				part += rest[:end]
				rest = rest[end+1:]
				if !strings.HasPrefix(rest, `"`) {
					break
				}
				part += `"`
				rest = rest[1:]
			}
		} else {
			end := strings.IndexByte(rest, '.')
			if end < 0 {
				end = len(rest)
			}
			part, rest = rest[:end], rest[end:]
		}
		parts = append(parts, part)
		if rest == "" {
			break
		}
		if rest[0] != '.' {
			return "", "", errors.New("a dot must follow the quotation mark")
		}
		rest = rest[1:]
	}
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return "", "", errors.New("must be schema.table")
	}
	return parts[0], parts[1], nil
}

// Map turns a row into an event. Columns are found by name: their order, and columns that are not mapped, do
// not matter, and the table may change while rows come.
//
// The error is a [*Rejection], or [ErrSuppressed] with the event filled in. Payload and Headers of the event
// alias the row.
func (m *Mapper) Map(row cdc.Row) (Event, error) {
	if row.Relation == nil {
		return Event{}, &Rejection{Reason: ReasonUnexpectedTable, Detail: "row of no table"}
	}
	if row.Relation != m.relation {
		m.learn(row.Relation)
	}
	if r := row.Relation; r.Schema != m.schema || r.Name != m.table {
		return Event{}, m.reject(row, ReasonUnexpectedTable,
			"row of table "+show(r.Schema+"."+r.Name)+", expected "+show(m.schema+"."+m.table))
	}
	if len(row.Values) != len(row.Relation.Columns) {
		return Event{}, m.reject(row, ReasonInvalidColumn,
			fmt.Sprintf("row has %d values for %d columns", len(row.Values), len(row.Relation.Columns)))
	}
	if m.absent != "" {
		return Event{}, m.reject(row, ReasonUnmappedColumn, "table has no column "+show(m.absent))
	}
	var e Event
	typ, rejection := m.identity(row, &e)
	if rejection == nil {
		rejection = m.optional(row, &e)
	}
	if rejection == nil {
		rejection = m.payload(row, &e)
	}
	if rejection != nil {
		return Event{}, m.named(row, rejection)
	}
	var err error
	if m.retained {
		m.members, err = typ.recall(e.Payload, m.members)
	} else {
		m.members, err = typ.check(e.Payload, m.members)
	}
	if err != nil {
		if r, ok := err.(*Rejection); ok {
			return Event{}, m.named(row, r)
		}
		return e, err
	}
	return e, nil
}

// learn finds the columns of a relation.
func (m *Mapper) learn(r *cdc.Relation) {
	m.relation, m.absent = r, ""
	for i, name := range m.names {
		m.at[i] = -1
		if name == "" {
			continue
		}
		for at := range r.Columns {
			if r.Columns[at].Name == name {
				m.at[i] = at
				break
			}
		}
		if m.at[i] < 0 && i != columnXID && m.absent == "" {
			m.absent = name
		}
	}
}

// text returns the text of a column; null tells that it is NULL, or not there.
func (m *Mapper) text(row cdc.Row, column int) (data []byte, null bool, rejection *Rejection) {
	at := m.at[column]
	if at < 0 {
		return nil, true, nil
	}
	switch v := row.Values[at]; v.Kind {
	case cdc.KindText:
		return v.Data, false, nil
	case cdc.KindNull:
		return nil, true, nil
	}
	return nil, false, m.invalid(column, errors.New("was not sent as text"))
}

// required is text for a column that must not be NULL or empty.
func (m *Mapper) required(row cdc.Row, column int) ([]byte, *Rejection) {
	data, null, rejection := m.text(row, column)
	switch {
	case rejection != nil:
		return nil, rejection
	case null:
		return nil, &Rejection{Reason: ReasonMissingField, Detail: m.label(column) + ": required, but NULL"}
	case len(data) == 0:
		return nil, &Rejection{Reason: ReasonMissingField, Detail: m.label(column) + ": required, but empty"}
	}
	return data, nil
}

func (m *Mapper) name(row cdc.Row, column int) ([]byte, *Rejection) {
	data, rejection := m.required(row, column)
	if rejection != nil {
		return nil, rejection
	}
	if err := checkName(data); err != nil {
		return nil, m.invalid(column, err)
	}
	return data, nil
}

// identity reads what says which event it is, and finds its type.
func (m *Mapper) identity(row cdc.Row, e *Event) (*entry, *Rejection) {
	id, rejection := m.required(row, columnID)
	if rejection != nil {
		return nil, rejection
	}
	var err error
	if e.ID, err = parseUUID(id); err != nil {
		return nil, m.invalid(columnID, err)
	}
	var names [columnCount][]byte
	size := 0
	for column := columnTenantID; column <= columnEventType; column++ {
		if names[column], rejection = m.name(row, column); rejection != nil {
			return nil, rejection
		}
		if column != columnEventType {
			size += len(names[column])
		}
	}
	typ := m.catalog.resolve(names[columnAggregateType], names[columnEventType])
	switch {
	case typ != nil:
		e.Type = typ.Name
	case m.retained:
		e.Type = wholeName(string(names[columnAggregateType]), string(names[columnEventType]))
	default:
		return nil, &Rejection{Reason: ReasonUnknownType, Detail: m.unknown(names)}
	}
	// One allocation for three strings that live and die together.
	var b strings.Builder
	b.Grow(size)
	b.Write(names[columnTenantID])
	b.Write(names[columnAggregateType])
	b.Write(names[columnAggregateID])
	all := b.String()
	first, second := len(names[columnTenantID]), len(names[columnTenantID])+len(names[columnAggregateType])
	e.TenantID, e.AggregateType, e.AggregateID = all[:first], all[first:second], all[second:]
	return typ, nil
}

func (m *Mapper) unknown(names [columnCount][]byte) string {
	return m.catalog.unknown(wholeName(string(names[columnAggregateType]), string(names[columnEventType])))
}

// wholeName is the name of a type that the catalog does not know, or knows no longer.
func wholeName(aggregateType, eventType string) string {
	if strings.Contains(eventType, ".") {
		return eventType
	}
	return aggregateType + "." + eventType
}

// optional reads the columns that may be NULL or not there.
func (m *Mapper) optional(row cdc.Row, e *Event) *Rejection {
	created, null, rejection := m.text(row, columnCreatedAt)
	if rejection != nil {
		return rejection
	}
	var err error
	if null {
		e.CreatedAt = TimeOfID(e.ID)
	} else if e.CreatedAt, err = parseTimestamp(created); err != nil {
		return m.invalid(columnCreatedAt, err)
	}
	xid, null, rejection := m.text(row, columnXID)
	if rejection != nil {
		return rejection
	}
	if !null {
		if e.XID, err = parseXID(xid); err != nil {
			return m.invalid(columnXID, err)
		}
	}
	headers, null, rejection := m.text(row, columnHeaders)
	if rejection != nil || null {
		return rejection
	}
	if len(headers) > MaxHeaders && !m.retained {
		return m.tooLarge(columnHeaders, len(headers), MaxHeaders)
	}
	var doc document
	if doc, err = scanDocument(headers, m.members); err != nil {
		return m.invalid(columnHeaders, errors.New("must be a JSON object in UTF-8"))
	}
	m.members = doc.members
	switch doc.kind {
	case kindObject:
		e.Headers = headers
	case kindNull:
	default:
		return m.invalid(columnHeaders, errors.New("must be a JSON object"))
	}
	return nil
}

func (m *Mapper) payload(row cdc.Row, e *Event) *Rejection {
	data, rejection := m.required(row, columnPayload)
	if rejection != nil {
		return rejection
	}
	size := len(data)
	binary := row.Relation.Columns[m.at[columnPayload]].TypeOID == byteaOID
	if binary {
		size = max(0, size-2) / 2
	}
	if size > m.maxPayload && !m.retained {
		return m.tooLarge(columnPayload, size, m.maxPayload)
	}
	if binary {
		var err error
		if data, err = parseBytea(data); err != nil {
			return m.invalid(columnPayload, err)
		}
		if len(data) == 0 {
			return &Rejection{Reason: ReasonMissingField, Detail: m.label(columnPayload) + ": required, but empty"}
		}
	}
	e.Payload = data
	return nil
}

func (m *Mapper) label(column int) string { return "column " + plain(m.names[column], maxShown) }

func (m *Mapper) invalid(column int, err error) *Rejection {
	return &Rejection{Reason: ReasonInvalidColumn, Detail: m.label(column) + ": " + err.Error()}
}

func (m *Mapper) tooLarge(column, size, limit int) *Rejection {
	return &Rejection{
		Reason: ReasonTooLarge,
		Detail: fmt.Sprintf("%s: %d bytes, the limit is %d", m.label(column), size, limit),
	}
}

func (m *Mapper) reject(row cdc.Row, reason Reason, detail string) *Rejection {
	return m.named(row, &Rejection{Reason: reason, Detail: detail})
}

// named fills in what can be read of the row's names, whatever is wrong with the rest.
func (m *Mapper) named(row cdc.Row, r *Rejection) *Rejection {
	read := func(column int) []byte {
		if at := m.at[column]; at >= 0 && at < len(row.Values) && row.Values[at].Kind == cdc.KindText {
			return row.Values[at].Data
		}
		return nil
	}
	r.EventID = storable(read(columnID))
	if id, err := uuid.Parse(r.EventID); err == nil {
		r.EventID = id.String()
	}
	r.TenantID = storable(read(columnTenantID))
	r.EventType = storable(read(columnEventType))
	if typ := m.catalog.resolve(read(columnAggregateType), read(columnEventType)); typ != nil {
		r.EventType = typ.Name
	}
	return r
}
