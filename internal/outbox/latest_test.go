package outbox_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/outbox"
)

// Rows of a tenant stand in the default partition and in two of its own, between those of another.
func TestReadLatest_FindsATenantsLastRowsInEveryPartition(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	mustRun(t, pool, `CREATE TABLE outbox.events_p20260101 PARTITION OF outbox.events FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-02 00:00+00')`)
	mustRun(t, pool, `CREATE TABLE outbox.events_p20260102 PARTITION OF outbox.events FOR VALUES FROM ('2026-01-02 00:00+00') TO ('2026-01-03 00:00+00')`)
	insert := func(tenant, at, label string, n int) {
		mustRun(t, pool, `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, created_at)
			SELECT $1, 'payment', $2 || lpad(g::text, 5, '0'), 'payment.received', json_build_object('pad', repeat('x', 500)), $3::timestamptz + g * interval '1 second'
			  FROM generate_series(1, $4) g`, tenant, label, at, n)
	}
	insert("acme", "2026-01-01 00:00+00", "a", 300)
	insert("other", "2026-01-01 01:00+00", "x", 3000)
	insert("acme", "2026-01-02 00:00+00", "b", 300)
	insert("other", "2026-01-02 01:00+00", "x", 3000)
	insert("acme", "2026-03-01 00:00+00", "c", 10)
	read := func(tenant string, n int) []string {
		var got []string
		tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		if err := outbox.ReadLatest(t.Context(), tx, "outbox.events", outbox.DefaultColumns(), tenant, n, func(row cdc.Row) {
			i := slices.IndexFunc(row.Relation.Columns, func(c cdc.Column) bool { return c.Name == "aggregate_id" })
			got = append(got, string(row.Values[i].Data))
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := func(label string, from, to int) (list []string) {
		for i := from; i >= to; i-- {
			list = append(list, fmt.Sprintf("%s%05d", label, i))
		}
		return list
	}
	for n, expected := range map[int][]string{
		5:   want("c", 10, 6),
		12:  append(want("c", 10, 1), want("b", 300, 299)...),
		400: slices.Concat(want("c", 10, 1), want("b", 300, 1), want("a", 300, 211)),
		999: slices.Concat(want("c", 10, 1), want("b", 300, 1), want("a", 300, 1)),
	} {
		if got := read("acme", n); !slices.Equal(got, expected) {
			t.Errorf("the last %d: %d rows, %.200s; want %.200s", n, len(got), strings.Join(got, " "), strings.Join(expected, " "))
		}
	}
	if got := read("nobody", 10); len(got) != 0 {
		t.Errorf("%d rows of nobody", len(got))
	}
	// A table that has no partitions, as those of other people.
	mustRun(t, pool, "CREATE TABLE outbox.plain AS SELECT * FROM outbox.events WHERE tenant_id = 'acme' ORDER BY created_at")
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	n := 0
	if err := outbox.ReadLatest(t.Context(), tx, "outbox.plain", outbox.DefaultColumns(), "acme", 20, func(cdc.Row) { n++ }); err != nil || n != 20 {
		t.Errorf("%d rows of a plain table, %v", n, err)
	}
}
