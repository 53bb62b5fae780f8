package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// A rescue, and its dry run, are made on a server that has trouble already. They read what came
// since the marker, also when the planner knows nothing of the table yet.
func TestRescue_ReadsANarrowGapInPart(t *testing.T) {
	t.Parallel()
	// Of its own: what runs elsewhere in the cluster, and ends, makes the gap wider.
	url, err := pgtest.NewCluster(t).CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	number := func(sql string) (n int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return n
	}
	const insert = `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'acme', 'a', 'b', 'c', '{}' FROM generate_series(1, $1)`
	exec("ALTER TABLE outbox.events_default SET (autovacuum_enabled = false)")
	for range 20 {
		exec(insert, 5000)
	}
	exec("SELECT brin_summarize_new_values(indexrelid) FROM pg_stat_user_indexes WHERE relname = 'events_default'")
	exec("INSERT INTO relay.progress (slot, system_id, timeline, end_lsn, marker, marker_at) VALUES ('gap', '1', 1, '0/1', pg_current_snapshot(), now())")
	exec(insert, 10)
	pages := number("SELECT pg_relation_size('outbox.events_default') / 8192")
	cfg, err := config.Load(config.LoadOptions{Environ: []string{"RELAY_DATABASE_URL=" + url, "RELAY_CDC_SLOT=gap"}})
	if err != nil {
		t.Fatal(err)
	}
	reads := func(what string, read func(pool *pgxpool.Pool)) {
		t.Helper()
		exec("SELECT pg_stat_force_next_flush()") // of what conn itself has written
		exec("SELECT pg_stat_reset()")
		pool, err := pgxpool.New(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		read(pool)
		pool.Close() // and with it, what it has read is counted
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			exec("SELECT pg_stat_clear_snapshot()")
			if number("SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relid = 'outbox.events_default'::regclass") > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the table is not read", what)
			}
		}
		n := number("SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables WHERE relid = 'outbox.events_default'::regclass")
		if n > pages/4 {
			t.Errorf("%s reads %d of %d pages for 10 rows", what, n, pages)
		}
	}
	reads("a dry run", func(pool *pgxpool.Pool) {
		gap, err := ReadGap(t.Context(), pool, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if gap.Rows != 10 || gap.Fault == "" {
			t.Errorf("%+v; want 10 rows, and that there is no slot", gap)
		}
	})
	reads("the look for ids that are still to come", func(pool *pgxpool.Pool) {
		d := &Daemon{pool: pool}
		d.settings.Store(cfg)
		if err := d.checkIDs(t.Context()); err != nil {
			t.Error(err)
		}
	})
	reads("a rescue", func(pool *pgxpool.Pool) {
		d := &Daemon{pool: pool}
		d.settings.Store(cfg)
		c, err := d.direct(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		var marker, now string
		if err := c.QueryRow(t.Context(), "SELECT marker::text, pg_current_snapshot()::text FROM relay.progress").Scan(&marker, &now); err != nil {
			t.Fatal(err)
		}
		n := 0
		q := outbox.TableQuery{Where: d.auditTable().Between(), Args: []any{now, marker}}
		if err := d.tableRows(t.Context(), c, q, func(cdc.Row, []byte) error { n++; return nil }); err != nil || n != 10 {
			t.Errorf("%d rows, %v", n, err)
		}
	})
}
