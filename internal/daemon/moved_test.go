package daemon_test

import (
	"fmt"
	"testing"
)

// An UPDATE that moves rows to another partition is published as inserts. They are not sent again; rows that only name
// another transaction are.
func TestIntake_SendsNothingAgainThatAnUpdateMoves(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"at once":              "",
		"behind a marker":      "marker",
		"after a restart":      "restart",
		"while it waits":       "wait",
		"when it was restored": "restore",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "RELAY_CDC_MARKER_INTERVAL=200ms", "RELAY_DELIVER_RETRY_SCHEDULE=0s,1h")
			rec := newReceiver(t)
			r.subscribe("acme", rec.URL, "*")
			if before == "wait" {
				rec.setAnswer(func(arrival, int) int { return 503 })
			}
			d := r.start()
			defer func() { d.stop() }()
			// Where there is only the default partition, an UPDATE moves nothing.
			r.eventually("there are partitions", func() bool {
				return r.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.events'::regclass") > 1
			})
			const n = 40
			for i := range n {
				r.order("acme", fmt.Sprint("o", i), i)
			}
			recorded := func() int {
				return r.number("SELECT (SELECT count(*) FROM relay.deliveries) + (SELECT count(*) FROM relay.parked) + (SELECT count(*) FROM relay.quarantine)")
			}
			r.eventually("all are on record", func() bool { return recorded() == n })
			behindMarker := func() {
				first := r.number("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
				r.eventually("a marker has passed", func() bool {
					return r.number("SELECT count(*) FROM relay.progress WHERE pg_snapshot_xmax(marker)::text::bigint >= $1", first) == 1
				})
			}
			switch before {
			case "marker":
				behindMarker()
			case "restart":
				d.stop()
				d = r.start()
			case "restore":
				r.exec("CREATE TABLE kept AS SELECT * FROM outbox.events")
				r.exec("INSERT INTO outbox.events SELECT * FROM kept")
			}
			if before != "restore" {
				r.exec("UPDATE outbox.events SET created_at = created_at - interval '400 days', payload = '{\"changed\": true}'")
			}
			// This one was never here, and says that it is of a transaction that was. While that is being audited, the audit
			// may find it before the stream brings it.
			behindMarker()
			r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, xid)
				SELECT 'acme', 'sales_order', 'made up', 'sales_order.confirmed',
				       '{"order_id": "made up", "order_number": "1", "amount": "1.00", "currency": "EUR"}', min(xid::text)::xid8 FROM outbox.events`)
			r.order("acme", "last", 1)
			r.eventually("the last two are on record", func() bool {
				return r.number(`SELECT (SELECT count(*) FROM relay.deliveries WHERE aggregate_id IN ('made up', 'last'))
					+ (SELECT count(*) FROM relay.bodies WHERE aggregate_id IN ('made up', 'last'))`) == 2
			})
			if got := recorded(); got != n+2 {
				t.Errorf("%d on record, want %d", got, n+2)
			}
			if got := len(rec.arrivals()); got != n+2 && before != "wait" { // then the breaker lets a few through
				t.Errorf("%d arrivals, want %d", got, n+2)
			}
			if d.log.Count("rows moved to another partition") == 0 {
				t.Error("the log does not say so")
			}
			rec.mustVerify(t)
		})
	}
}
