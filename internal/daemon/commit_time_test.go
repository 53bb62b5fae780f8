package daemon_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A replication origin may give its transactions any commit time, or none: that is the first of January 2000 then. A dead
// letter of such a transaction is kept for as long as any other.
func TestRetention_KeepsADeadLetterWhoseCommitTimeIsAbsurd(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_DELIVER_RETRY_SCHEDULE=0s")
	rec := newReceiver(t)
	rec.setAnswer(func(arrival, int) int { return 503 })
	sub := r.subscribe("acme", rec.URL, "*")
	d := r.start()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	origin := "o" + strings.ToLower(conn.Config().Database)
	do := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	do("SELECT pg_replication_origin_create($1)", origin)
	defer func() {
		do("SELECT pg_replication_origin_session_reset()")
		do("SELECT pg_replication_origin_drop($1)", origin)
	}()
	do("SELECT pg_replication_origin_session_setup($1)", origin)
	times := []string{"2000-01-01", "1900-01-01", "2150-01-01", "infinity", "-infinity", "9000-01-01"}
	for i, at := range times {
		do("BEGIN")
		do("SELECT pg_replication_origin_xact_setup('0/1', $1::text::timestamptz)", at)
		do(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', $1,
			'sales_order.confirmed', '{"order_id": "1", "order_number": "1", "amount": "1.00", "currency": "EUR"}')`, at)
		do("COMMIT")
		r.eventually("it is dead", func() bool {
			return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DEAD'") == i+1
		})
	}
	r.order("acme", "now", 1)
	r.eventually("the next is dead", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DEAD'") == len(times)+1
	})
	if n := r.number("SELECT count(*) FROM relay.deliveries WHERE aggregate_id = 'now' AND mark IS NULL"); n != 1 {
		t.Error("what is committed now counts as late, because of one that was committed in the future")
	}
	d.stop()
	d = r.start() // partitions are maintained at the start
	r.eventually("partitions are maintained", func() bool {
		return r.number("SELECT count(*) FROM pg_class WHERE relname = 'deliveries_p20000101'") == 1 && d.log.Count(`msg="partitions maintained" of=deliveries`) > 0
	})
	if n := r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DEAD'"); n != len(times)+1 {
		t.Errorf("%d dead letters are left, want %d", n, len(times)+1)
	}
	rec.setAnswer(nil)
	before := len(rec.arrivals())
	r.exec("INSERT INTO relay.requests (kind, target) SELECT 'retry_delivery', id FROM relay.deliveries WHERE subscription_id = $1", sub)
	r.eventually("all arrive when they are retried", func() bool { return len(rec.arrivals()) == before+len(times)+1 })
	rec.mustVerify(t)
	d.stop()
}
