package e2e_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/migrate"
)

// A subscription fills the outbox from another database. Rows get the id of the transaction that inserts them here when the
// publication leaves it out; otherwise they are sent, and the relay says that it cannot vouch for them.
func TestRelay_ReadsALogicalReplica(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	url, err := s.cluster.CreateDatabase(t.Context(), s.slot+"_writers")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	writers, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = writers.Close(context.Background()) })
	commit := func(sql string, args ...any) {
		t.Helper()
		if _, err := writers.Exec(context.Background(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	feed := s.slot + "_feed"
	commit("CREATE PUBLICATION " + feed + ` FOR TABLE outbox.events (id, tenant_id, aggregate_type, aggregate_id, event_type, payload, headers, created_at)
		WITH (publish = 'insert', publish_via_partition_root = true)`)
	commit("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", feed)
	s.exec("CREATE SUBSCRIPTION " + feed + " CONNECTION '" + url + "' PUBLICATION " + feed + " WITH (create_slot = false, copy_data = false, slot_name = " + feed + ")")
	t.Cleanup(func() {
		s.exec("ALTER SUBSCRIPTION " + feed + " DISABLE")
		s.exec("ALTER SUBSCRIPTION " + feed + " SET (slot_name = NONE)")
		s.exec("DROP SUBSCRIPTION " + feed)
		eventually(t, "the slot of the feed is dropped", func() bool {
			_, err := writers.Exec(context.Background(), "SELECT pg_drop_replication_slot($1)", feed)
			return err == nil
		})
	})
	r := s.start()
	insert := func(key string) {
		t.Helper()
		commit(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			VALUES ('acme', 'customer', $1::text, 'customer.created', json_build_object('customer_id', $1::text, 'customer_name', 'n'))`, key)
	}
	arrived := func(n int) func() bool { return func() bool { return len(s.recv.arrivals(all.name)) == n } }

	insert("own id")
	eventually(t, "a row arrives", arrived(1))
	if n := r.metrics()["relay_unproven_rows_total"]; n != 0 {
		t.Errorf("%v rows are unproven, want none", n)
	}
	marked := s.number("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
	eventually(t, "a marker has passed", func() bool {
		return s.number("SELECT count(*) FROM relay.progress WHERE pg_snapshot_xmax(marker)::text::bigint >= $1", marked) == 1
	})
	r.kill()
	s.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active", s.slot)
	s.rescued = true
	insert("in the gap")
	eventually(t, "it is here", func() bool { return s.number("SELECT count(*) FROM outbox.events") == 2 })
	r = s.start()
	eventually(t, "the rescue finds it", arrived(2))

	commit("ALTER PUBLICATION " + feed + " SET TABLE outbox.events")
	insert("another id")
	eventually(t, "a row with the id of another database's transaction arrives", arrived(3))
	eventually(t, "it is counted", func() bool { return r.metrics()["relay_unproven_rows_total"] == 1 })
	if r.log.Count("neither the audit nor a rescue can vouch") == 0 {
		t.Error("the log does not say so")
	}
	r.terminate()
}
