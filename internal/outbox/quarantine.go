package outbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotQuarantined is returned for a number that no quarantined row has.
var ErrNotQuarantined = errors.New("no such quarantined row")

// Quarantined is a row that could not become an event, or whose deliveries could not be recorded.
type Quarantined struct {
	ID          int64     `json:"id"`
	Reason      string    `json:"reason"`
	Detail      string    `json:"detail"`
	EventID     *string   `json:"event_id"`
	TenantID    *string   `json:"tenant_id"`
	EventType   *string   `json:"event_type"`
	CommittedAt time.Time `json:"committed_at"`
	CommitLSN   string    `json:"commit_lsn"`
	RowIndex    int       `json:"row_index"`
	// OnlyFor are the subscriptions whose delivery it is; none: the row, for all of them.
	OnlyFor []string `json:"only_for"`
	// RowBytes is the size of what is not kept.
	RowBytes *int64 `json:"row_bytes"`
	// Raw is the whole row as EncodeRow wrote it; nil when it is in the outbox only. List leaves it out.
	Raw []byte `json:"-"`
}

// quarantineDB is the part of a connection or pool that Quarantine uses.
type quarantineDB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Quarantine reads and discards quarantined rows.
type Quarantine struct{ DB quarantineDB }

const quarantineColumns = "id, reason, detail, event_id, tenant_id, event_type, committed_at, commit_lsn::text, row_index, coalesce(only_for::text[], '{}'), row_bytes"

func (q *Quarantined) fields() []any {
	return []any{&q.ID, &q.Reason, &q.Detail, &q.EventID, &q.TenantID, &q.EventType, &q.CommittedAt, &q.CommitLSN, &q.RowIndex, &q.OnlyFor, &q.RowBytes}
}

// typeMember is how EncodeRow writes the type of a column. No text has it: quotes in a text are escaped.
var typeMember = regexp.MustCompile(`"type":([0-9]{1,10})(?:,"modifier":(-?[0-9]{1,10}))?`)

// NameTypes puts the names of types where a row that EncodeRow wrote has their numbers, for people to read. A type that is no
// longer there keeps its number.
func (q Quarantine) NameTypes(ctx context.Context, raw []byte) ([]byte, error) {
	var oids, modifiers []int64
	for _, m := range typeMember.FindAllSubmatch(raw, -1) {
		oid, err := strconv.ParseInt(string(m[1]), 10, 64)
		if err != nil || oid > math.MaxUint32 {
			continue
		}
		modifier, err := strconv.ParseInt(string(m[2]), 10, 32)
		if err != nil {
			modifier = -1
		}
		oids, modifiers = append(oids, oid), append(modifiers, modifier)
	}
	if len(oids) == 0 {
		return raw, nil
	}
	rows, err := q.DB.Query(ctx, `SELECT t.oid::bigint, m.modifier, format_type(t.oid, m.modifier::integer)
		FROM unnest($1::bigint[], $2::bigint[]) AS m(type, modifier) JOIN pg_catalog.pg_type t ON t.oid = m.type::oid`, oids, modifiers)
	if err != nil {
		return nil, fmt.Errorf("name types of the row: %w", err)
	}
	names := make(map[string]string)
	var oid, modifier int64
	var name string
	if _, err := pgx.ForEachRow(rows, []any{&oid, &modifier, &name}, func() error {
		key := fmt.Sprintf(`"type":%d`, oid)
		if modifier != -1 {
			key += fmt.Sprintf(`,"modifier":%d`, modifier)
		}
		names[key] = name
		return nil
	}); err != nil {
		return nil, fmt.Errorf("name types of the row: %w", err)
	}
	return typeMember.ReplaceAllFunc(raw, func(member []byte) []byte {
		if name, ok := names[string(member)]; ok {
			return appendText(nil, "type", name)
		}
		return member
	}), nil
}

// List returns quarantined rows, oldest first, without their bytes.
func (q Quarantine) List(ctx context.Context, limit int) ([]Quarantined, error) {
	rows, err := q.DB.Query(ctx, "SELECT "+quarantineColumns+" FROM relay.quarantine ORDER BY id LIMIT $1", limit)
	if err != nil {
		return nil, fmt.Errorf("list quarantined rows: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Quarantined, error) {
		var e Quarantined
		err := row.Scan(e.fields()...)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("list quarantined rows: %w", err)
	}
	return list, nil
}

// Get returns one quarantined row with its bytes.
func (q Quarantine) Get(ctx context.Context, id int64) (*Quarantined, error) {
	var e Quarantined
	err := q.DB.QueryRow(ctx, "SELECT "+quarantineColumns+", raw FROM relay.quarantine WHERE id = $1", id).Scan(append(e.fields(), &e.Raw)...)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("quarantined row %d: %w", id, ErrNotQuarantined)
	}
	if err != nil {
		return nil, fmt.Errorf("read quarantined row %d: %w", id, err)
	}
	return &e, nil
}

// Count returns how many rows are quarantined.
func (q Quarantine) Count(ctx context.Context) (int, error) {
	var n int
	if err := q.DB.QueryRow(ctx, "SELECT count(*) FROM relay.quarantine").Scan(&n); err != nil {
		return 0, fmt.Errorf("count quarantined rows: %w", err)
	}
	return n, nil
}

// Discard deletes a quarantined row for good. That it never was an event stays on record, for as long as
// the outbox holds it; a delivery that could not be recorded is one of an event.
func (q Quarantine) Discard(ctx context.Context, id int64) error {
	var n int
	err := q.DB.QueryRow(ctx, `
WITH gone AS (DELETE FROM relay.quarantine WHERE id = $1 RETURNING *),
     told AS (INSERT INTO relay.discarded (event_id, tenant_id, reason, detail, committed_at)
              SELECT event_id, tenant_id, reason, detail, committed_at FROM gone WHERE event_id IS NOT NULL AND only_for IS NULL)
SELECT count(*) FROM gone`, id).Scan(&n)
	if err != nil {
		return fmt.Errorf("discard quarantined row %d: %w", id, err)
	}
	if n == 0 {
		return fmt.Errorf("quarantined row %d: %w", id, ErrNotQuarantined)
	}
	return nil
}

// Rejected says why a row of the outbox is no event.
type Rejected struct {
	Status string // quarantined or discarded
	Reason string
	Detail string
}

// ReadRejected returns those of some ids whose rows never became events.
func ReadRejected(ctx context.Context, db rowsQuerier, ids []string) (map[string]Rejected, error) {
	rows, err := db.Query(ctx, "SELECT event_id, status, reason, detail FROM relay.rejected WHERE event_id = ANY ($1::text[])", ids)
	if err != nil {
		return nil, fmt.Errorf("read rejected rows: %w", err)
	}
	found := make(map[string]Rejected)
	var id string
	var r Rejected
	if _, err := pgx.ForEachRow(rows, []any{&id, &r.Status, &r.Reason, &r.Detail}, func() error {
		found[id] = r
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read rejected rows: %w", err)
	}
	return found, nil
}

// ForgetDiscarded removes what is on record of discarded rows that were committed before a time.
func (q Quarantine) ForgetDiscarded(ctx context.Context, before time.Time) (int64, error) {
	tag, err := q.DB.Exec(ctx, "DELETE FROM relay.discarded WHERE committed_at < $1", before)
	if err != nil {
		return 0, fmt.Errorf("forget discarded rows: %w", err)
	}
	return tag.RowsAffected(), nil
}
