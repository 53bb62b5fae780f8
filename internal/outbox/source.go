package outbox

import (
	"context"
	_ "embed" // the statements
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
)

//go:embed source.sql
var sourceSQL string

//go:embed source_columns.sql
var sourceColumnsSQL string

// Source says which table is looked at, how it is mapped, and by whom it is read.
type Source struct {
	Mapping     MappingOptions
	Publication string
	// Replicator is the role of database.replication_url; empty for that of database.url.
	Replicator string
}

// SourceDB is what a Source is asked of. A pgx connection or pool does.
type SourceDB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// source is a row of source.sql.
type source struct {
	kind, persistence, role              string
	hidden, owns                         bool // of role
	hiddenFromReplicator, replicatorOwns bool
	rules, children, foreign, unlogged   []string
	publishesGenerated                   bool
	columns                              []sourceColumn

	table, plainlyNamed     string // as SQL takes it, and as it is configured
	publication, replicator string
}

type sourceColumn struct{ name, typ, generated, base, category string }

// Check looks whether the stream and a SELECT both show every row of the table, and whether its rows can be mapped at all. ok
// is false when not, and the Condition says why, with the way out. A table that does not exist is fine here.
func (s Source) Check(ctx context.Context, db SourceDB) (c health.Condition, ok bool, err error) {
	m, err := NewMapper(s.Mapping, &Catalog{})
	if err != nil {
		return c, false, err
	}
	f := source{table: quotedTable(m.schema, m.table), publication: s.Publication, replicator: s.Replicator, plainlyNamed: m.schema + "." + m.table}
	err = db.QueryRow(ctx, sourceSQL, m.schema, m.table, s.Replicator, s.Publication).Scan(&f.kind, &f.persistence, &f.role, &f.hidden, &f.owns,
		&f.hiddenFromReplicator, &f.replicatorOwns, &f.rules, &f.children, &f.foreign, &f.unlogged, &f.publishesGenerated)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, true, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("look at table %s: %w", f.plainlyNamed, err)
	}
	rows, err := db.Query(ctx, sourceColumnsSQL, m.schema, m.table)
	if err != nil {
		return c, false, fmt.Errorf("look at columns of %s: %w", f.plainlyNamed, err)
	}
	var col sourceColumn
	if _, err := pgx.ForEachRow(rows, []any{&col.name, &col.typ, &col.generated, &col.base, &col.category}, func() error {
		f.columns = append(f.columns, col)
		return nil
	}); err != nil {
		return c, false, fmt.Errorf("look at columns of %s: %w", f.plainlyNamed, err)
	}
	for _, fault := range []health.Condition{f.ofKind(), f.ofRowSecurity(), f.ofShape(m)} {
		if fault.Sentence != "" {
			fault.State = health.Misconfigured
			return fault, false, nil
		}
	}
	return c, true, nil
}

// quotedTable is the name as SQL takes it, and as people write it.
func quotedTable(schema, table string) string {
	return health.Identifier(schema) + "." + health.Identifier(table)
}

// ofKind is about what no publication takes, and about rows that the table shows and the WAL does not have under its name.
func (f *source) ofKind() health.Condition {
	beneath := "set outbox.table to the table beneath it"
	switch {
	case f.kind == "v" || f.kind == "m":
		return health.Condition{Sentence: f.plainlyNamed + " is a view, and PostgreSQL streams rows of tables only", Remedy: beneath}
	case f.kind == "f":
		return health.Condition{Sentence: f.plainlyNamed + " is a foreign table, whose rows are not in the WAL of this server",
			Remedy: "set outbox.table to a table of this server"}
	case f.kind != "r" && f.kind != "p":
		return health.Condition{Sentence: f.plainlyNamed + " is no table", Remedy: beneath}
	case f.persistence == "t":
		return health.Condition{Sentence: f.plainlyNamed + " is a temporary table, whose rows are not in the WAL", Remedy: "set outbox.table to a lasting table"}
	case f.persistence == "u":
		return health.Condition{Sentence: f.plainlyNamed + " is unlogged: its rows are not in the WAL, and a crash empties it",
			Remedy: "ALTER TABLE " + f.table + " SET LOGGED"}
	case len(f.unlogged) > 0:
		return health.Condition{Sentence: "partitions of " + f.plainlyNamed + " are unlogged, so their rows are not in the WAL: " + strings.Join(f.unlogged, ", "),
			Remedy: "ALTER TABLE " + strings.Join(f.unlogged, " SET LOGGED; ALTER TABLE ") + " SET LOGGED"}
	case len(f.foreign) > 0:
		return health.Condition{Sentence: "partitions of " + f.plainlyNamed + " are foreign tables, whose rows are not in the WAL of this server: " + strings.Join(f.foreign, ", "),
			Remedy: "ALTER TABLE " + f.table + " DETACH PARTITION " + strings.Join(f.foreign, "; ALTER TABLE "+f.table+" DETACH PARTITION ")}
	case len(f.children) > 0:
		return health.Condition{Sentence: "tables inherit from " + f.plainlyNamed + ", and the stream does not show their rows as rows of it: " + strings.Join(f.children, ", "),
			Remedy: "ALTER TABLE " + strings.Join(f.children, " NO INHERIT "+f.table+"; ALTER TABLE ") + " NO INHERIT " + f.table + ", or make it a partitioned table"}
	case len(f.rules) > 0:
		rule := health.Identifier(f.rules[0])
		return health.Condition{Sentence: "rule " + rule + " on " + f.plainlyNamed + " does something else instead of an INSERT, so that what writers insert is not there",
			Remedy: "DROP RULE " + rule + " ON " + f.table + ", or set outbox.table to the table that gets the rows"}
	}
	return health.Condition{}
}

// ofRowSecurity is about policies that would let a SELECT show less than the stream does.
func (f *source) ofRowSecurity() health.Condition {
	switch {
	case f.hidden:
		return health.HiddenRows(f.plainlyNamed, f.role, f.owns)
	case f.hiddenFromReplicator:
		c := health.HiddenRows(f.plainlyNamed, f.replicator, f.replicatorOwns)
		c.Sentence += ", which database.replication_url names"
		return c
	}
	return health.Condition{}
}

// keys are the names of the columns in the configuration.
var keys = [columnCount]string{columnID: "id", columnTenantID: "tenant_id", columnAggregateType: "aggregate_type", columnAggregateID: "aggregate_id",
	columnEventType: "event_type", columnPayload: "payload", columnHeaders: "headers", columnCreatedAt: "created_at", columnXID: "xid"}

// expected says what the type of each column must be, for people.
var expected = [columnCount]string{columnID: "uuid, or text that holds a UUID", columnTenantID: "text", columnAggregateType: "text",
	columnAggregateID: "text, a number or uuid", columnEventType: "text", columnPayload: "json, jsonb, text or bytea",
	columnHeaders: "jsonb, json or text", columnCreatedAt: "timestamptz", columnXID: "xid8"}

// suits reports whether values of a type can be read as what the column is mapped to.
func (c sourceColumn) suits(column int) bool {
	text := c.category == "S" || c.category == "X"
	switch column {
	case columnID:
		return text || c.base == "uuid"
	case columnPayload:
		return text || slices.Contains([]string{"json", "jsonb", "bytea"}, c.base)
	case columnHeaders:
		return text || c.base == "json" || c.base == "jsonb"
	case columnCreatedAt:
		return text || c.base == "timestamptz" || c.base == "timestamp"
	case columnXID:
		return text || c.category == "N" || c.base == "xid8" || c.base == "xid"
	}
	return !strings.Contains("ABCDTRG", c.category) && !slices.Contains([]string{"json", "jsonb", "bytea", "xml"}, c.base)
}

// ofShape is about a mapping that cannot work: a column that is not there, that the stream leaves out, or of a type that
// cannot be read.
func (f *source) ofShape(m *Mapper) health.Condition {
	var faults, remedies []string
	var names []string
	for _, c := range f.columns {
		names = append(names, c.name)
	}
	for column, name := range m.names {
		if name == "" {
			continue
		}
		key := "outbox.columns." + keys[column]
		at := slices.IndexFunc(f.columns, func(c sourceColumn) bool { return c.name == name })
		switch {
		case at < 0 && column == columnXID: // only the audit needs it, and says so
		case at < 0:
			faults = append(faults, fmt.Sprintf("there is no column %s (%s)", show(name), key))
			if near := nearest(name, names); near != "" {
				remedies = append(remedies, fmt.Sprintf("set %s to %s, the nearest column there is", key, plain(near, maxShown)))
			} else {
				remedies = append(remedies, fmt.Sprintf("set %s to the column that has it, or ALTER TABLE %s ADD COLUMN %s (%s)", key, f.table, health.Identifier(name), expected[column]))
			}
		case f.columns[at].generated != "" && (f.columns[at].generated != "s" || !f.publishesGenerated):
			faults = append(faults, fmt.Sprintf("column %s (%s) is a generated column, which the stream leaves out", show(name), key))
			remedies = append(remedies, f.ungenerate(column, name, f.columns[at].generated))
		case !f.columns[at].suits(column):
			faults = append(faults, fmt.Sprintf("column %s (%s) is %s, and must be %s", show(name), key, f.columns[at].typ, expected[column]))
			remedy := fmt.Sprintf("set %s to a column of that type", key)
			if column == columnID {
				remedy += fmt.Sprintf(", as of ALTER TABLE %s ADD COLUMN event_id uuid NOT NULL DEFAULT gen_random_uuid()", f.table)
			}
			remedies = append(remedies, remedy)
		}
	}
	if len(faults) == 0 {
		return health.Condition{}
	}
	return health.Condition{Sentence: "rows of " + f.plainlyNamed + " cannot be mapped: " + strings.Join(faults, ", and "), Remedy: strings.Join(slices.Compact(remedies), "; ")}
}

// ungenerate says how the stream comes to have a generated column.
func (f *source) ungenerate(column int, name, kind string) string {
	if column == columnXID {
		return fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s DROP EXPRESSION", f.table, health.Identifier(name))
	}
	remedy := fmt.Sprintf("set outbox.columns.%s to a plain column that a default, a trigger or the writer fills", keys[column])
	if kind == "s" {
		remedy += fmt.Sprintf(" (ALTER TABLE %s ALTER COLUMN %s DROP EXPRESSION makes this one plain), or, on PostgreSQL 18 and later, "+
			"ALTER PUBLICATION %s SET (publish_generated_columns = stored)", f.table, health.Identifier(name), health.Identifier(f.publication))
	}
	return remedy
}
