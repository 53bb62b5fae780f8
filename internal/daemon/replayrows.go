package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
)

// replayTable reads the outbox for replays. The table has no index, so it is read
// by whole ranges: a page of keys for a scan, then the rows that are wanted by
// their place, a few at a time. No transaction stays open in between. A scan must
// not miss rows that are on their way to a partition: see audit.Table.
type replayTable struct {
	columns outbox.Columns
	outbox  audit.Table
	table   string // quoted
	schema  string
	name    string
	catalog *outbox.Catalog
}

func newReplayTable(c *Settings, catalog *outbox.Catalog) *replayTable {
	schema, name, _ := strings.Cut(c.Outbox.Table, ".")
	return &replayTable{columns: mappingOptions(c).Columns, outbox: AuditTable(c), table: c.Outbox.Identifier().Sanitize(), schema: schema, name: name,
		catalog: catalog}
}

// order is the expression by which rows are ordered: the time in an id of version
// 7, which is when the row was inserted, or else when it was created. For one key
// that is the order of commits when writers lock what the key stands for and
// their ids are the table's default. created_at alone is not: it is when the
// transaction began, before the lock was waited for.
func (t *replayTable) order() string {
	id := pgx.Identifier{t.columns.ID}.Sanitize() + "::text"
	return fmt.Sprintf(`CASE WHEN %[1]s ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-'
	THEN ('x' || substr(%[1]s, 1, 8) || substr(%[1]s, 10, 4) || substr(%[1]s, 16, 3))::bit(60)::bigint
	ELSE (extract(epoch FROM %[2]s) * 4096000)::bigint END`, id, pgx.Identifier{t.columns.CreatedAt}.Sanitize())
}

// span is the condition for the rows of a tenant that were created between two
// times, which are $1 to $3.
func (t *replayTable) span() string {
	return fmt.Sprintf("%[1]s >= $1 AND %[1]s < $2 AND %[2]s = $3", pgx.Identifier{t.columns.CreatedAt}.Sanitize(),
		pgx.Identifier{t.columns.TenantID}.Sanitize())
}

// replayKey is one row that a replay may send, without its data.
type replayKey struct {
	cursor   deliver.ReplayCursor
	wanted   bool // its type is one that the replay sends
	leaf, at string
	size     int // of the payload, as it is stored
}

// keys returns the next rows in order, at most limit. Fewer mean that there are
// no more.
func (t *replayTable) keys(ctx context.Context, db audit.Beginner, r *deliver.RunningReplay, sub *deliver.Subscription,
	after deliver.ReplayCursor, limit int) ([]replayKey, error) {
	tx, err := t.outbox.BeginReading(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	id := pgx.Identifier{t.columns.ID}.Sanitize() + `::text COLLATE "C"`
	rows, err := tx.Query(ctx, fmt.Sprintf(`
SELECT k, id, type, aggregate, leaf, at, size
  FROM (SELECT %[1]s AS k, %[2]s AS id, %[3]s AS type, %[4]s AS aggregate, tableoid::regclass::text AS leaf, ctid::text AS at,
               pg_column_size(%[5]s) AS size
          FROM %[6]s WHERE %[7]s) AS r
 WHERE (k, id) > ($4, $5)
 ORDER BY k, id LIMIT $6`, t.order(), id, pgx.Identifier{t.columns.EventType}.Sanitize(),
		pgx.Identifier{t.columns.AggregateType}.Sanitize(), pgx.Identifier{t.columns.Payload}.Sanitize(), t.table, t.span()),
		r.From, r.To, r.TenantID, after.Key, after.ID, limit)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (replayKey, error) {
		var k replayKey
		var typ, aggregate string
		if err := row.Scan(&k.cursor.Key, &k.cursor.ID, &typ, &aggregate, &k.leaf, &k.at, &k.size); err != nil {
			return k, err
		}
		k.wanted = sub.MatchesReplay(r.Events, t.catalog.NameOf(aggregate, typ))
		if !k.wanted {
			k.leaf, k.at = "", ""
		}
		return k, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return list, nil
}

// countQuery counts rows by type, and gives those one by one that have to be looked at: those of the types $4, those that never
// became events, and with each all of them.
func (t *replayTable) countQuery(each bool) string {
	c := func(name string) string { return "e." + pgx.Identifier{name}.Sanitize() }
	count, group := "count(*)", "GROUP BY 1, 2, 4, 5, 6, 7"
	if each {
		count, group = "1::bigint", ""
	}
	return fmt.Sprintf(`
SELECT %[1]s::text, %[2]s::text, %[8]s, CASE WHEN alone THEN %[3]s::text END, rejected_status, rejected_why,
       CASE WHEN alone AND rejected_status IS NULL THEN %[4]s::text END
  FROM %[5]s AS e
  LEFT JOIN (SELECT DISTINCT ON (event_id) event_id AS rejected_id, status AS rejected_status, reason || ': ' || detail AS rejected_why
               FROM relay.rejected ORDER BY event_id, status) AS r ON rejected_id = %[3]s::text
 CROSS JOIN LATERAL (SELECT %[7]t OR rejected_id IS NOT NULL OR %[2]s::text = ANY ($4::text[])
                         OR %[1]s::text || '.' || %[2]s::text = ANY ($4::text[]) AS alone) AS a
 WHERE %[6]s %[9]s`, c(t.columns.AggregateType), c(t.columns.EventType), c(t.columns.ID), c(t.columns.Payload), t.table, t.span(), each, count, group)
}

type replayQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// rows reads the rows of keys as the stream would bring them, by the id of their
// event. A row that is not in its place any more is not among them.
func (t *replayTable) rows(ctx context.Context, db replayQuerier, keys []replayKey) (map[string]cdc.Row, error) {
	found := make(map[string]cdc.Row, len(keys))
	wanted := make(map[string]bool, len(keys))
	byLeaf := make(map[string][]string)
	for _, k := range keys {
		wanted[k.cursor.ID] = true
		byLeaf[k.leaf] = append(byLeaf[k.leaf], `"`+k.at+`"`)
	}
	for leaf, places := range byLeaf {
		err := t.read(ctx, db, found, wanted, "SELECT NULL, * FROM ONLY "+leaf+" WHERE ctid = ANY ($1::text::tid[])",
			"{"+strings.Join(places, ",")+"}")
		if err != nil && !isUndefinedTable(err) {
			return nil, err
		}
	}
	return found, nil
}

// lookFor reads those rows of keys that are not found yet by their ids, which
// takes a scan.
func (t *replayTable) lookFor(ctx context.Context, db audit.Beginner, r *deliver.RunningReplay, keys []replayKey, found map[string]cdc.Row) error {
	wanted := make(map[string]bool)
	var moved []string
	for _, k := range keys {
		if _, ok := found[k.cursor.ID]; !ok {
			moved, wanted[k.cursor.ID] = append(moved, k.cursor.ID), true
		}
	}
	tx, err := t.outbox.BeginReading(ctx, db)
	if err != nil {
		return fmt.Errorf("look for rows: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	query := fmt.Sprintf("SELECT NULL, * FROM %s WHERE %s AND %s::text = ANY ($4::text[])", t.table,
		strings.NewReplacer("$1", "$1::timestamptz", "$2", "$2::timestamptz").Replace(t.span()), pgx.Identifier{t.columns.ID}.Sanitize())
	return t.read(ctx, tx, found, wanted, query, r.From, r.To, r.TenantID, moved)
}

// read puts wanted rows into found. The simple protocol returns values as text,
// which is the form that they have in the stream.
func (t *replayTable) read(ctx context.Context, db replayQuerier, found map[string]cdc.Row, wanted map[string]bool, sql string, args ...any) error {
	rows, err := db.Query(ctx, sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	at := -1
	if err := outbox.EachRow(rows, t.schema, t.name, func(row cdc.Row, _ []byte) error {
		if at < 0 {
			at = slices.IndexFunc(row.Relation.Columns, func(c cdc.Column) bool { return c.Name == t.columns.ID })
		}
		if id := string(row.Values[at].Data); wanted[id] {
			found[id] = row
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read rows: %w", err)
	}
	return nil
}
