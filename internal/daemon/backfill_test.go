package daemon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The first leader is stopped while it reads rows from before the slot, and a row that it has
// parked is deleted from the table, with what stood beside it, before the second one begins. Each row of the second one
// has a place of its own among those that wait.
func TestBackfill_GivesNoRowThePlaceOfOneThatWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers, "RELAY_DELIVER_WINDOW_EVENTS=4", "RELAY_DELIVER_HANDOVER_AFTER=2s")
	down, slow := newReceiver(t), newReceiver(t)
	down.setAnswer(func(arrival, int) int { return 503 })
	slow.setAnswer(func(arrival, int) int { time.Sleep(100 * time.Millisecond); return 200 })
	sub := r.subscribe("acme", down.URL, "*")
	r.subscribe("other", slow.URL, "*")
	const n = 60
	for i := range n {
		r.order("acme", "same", i) // one lane
		for range 5 {
			r.order("other", fmt.Sprint("o", i), i)
		}
	}
	waiting := func() int {
		return r.number("SELECT count(*) FROM relay.parked WHERE subscription_id = $1::text::uuid", sub)
	}
	d := r.launch()
	r.eventually("some wait", func() bool { return waiting() >= 5 })
	d.stop()
	if n := r.number("SELECT count(*) FROM relay.progress WHERE backfill IS NOT NULL"); n != 1 || waiting() == n {
		t.Fatal("all rows are read already: this test is about the middle")
	}
	r.exec("DELETE FROM outbox.events WHERE payload ->> 'order_number' = '0'")
	slow.setAnswer(nil)
	d = r.start()
	r.eventually("all rows are read", func() bool { return r.number("SELECT count(*) FROM relay.progress WHERE backfill IS NULL") == 1 })
	if got := waiting(); got != n {
		t.Errorf("%d rows wait, want %d", got, n)
	}
	down.setAnswer(nil)
	r.exec("UPDATE relay.parked SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")
	r.eventually("all arrive", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1::text::uuid AND status = 'DELIVERED'", sub) >= n
	})
	d.stop()
}

// Before there were markers nothing said what was recorded when the slot was lost. The records
// of the deliveries do.
func TestRescue_WithoutAMarkerLeavesOutWhatIsOnRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec, down := newReceiver(t), newReceiver(t)
	down.setAnswer(func(arrival, int) int { return 503 })
	r.subscribe("acme", rec.URL, "*")
	sub := r.subscribe("acme", down.URL, "*")
	d := r.start()
	r.orders(0, 30)
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o', 'sales_order.confirmed', '{"order_id": 7}')`)
	r.eventually("all is settled", func() bool {
		return len(rec.arrivals()) == 30 && r.number("SELECT count(*) FROM relay.parked") == 30 && r.number("SELECT count(*) FROM relay.quarantine") == 1
	})
	r.audited(d)
	d.stop()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.exec("UPDATE relay.progress SET marker = NULL")
	r.exec("DELETE FROM relay.accounted")
	r.exec("DELETE FROM relay.settled")
	r.orders(30, 40)
	down.setAnswer(nil)
	before := len(down.arrivals())
	d = r.start()
	r.eventually("the gap arrives", func() bool { return len(rec.orderNumbers(t)) == 40 })
	r.eventually("what waited arrives", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1::text::uuid AND status = 'DELIVERED'", sub) >= 40
	})
	r.audited(d)
	if !strings.Contains(d.log.String(), "no marker tells what was recorded before") {
		t.Error("the log does not say that there was no marker")
	}
	d.stop()
	if n := r.mustHaveEach(rec, 40); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
	if n := len(down.arrivals()) - before; n != 40 {
		t.Errorf("%d arrivals of 40 rows that waited or are new", n)
	}
	if n := r.number("SELECT count(*) FROM relay.quarantine"); n != 1 {
		t.Errorf("%d rows in quarantine, want 1", n)
	}
}

// A rescue without a marker is cut off, and begun again. What is in quarantine is passed over then,
// and keeps its place all the same: a row that is read for the first time would get it, and
// take it from the quarantine.
func TestRescue_BegunAgainLeavesWhatIsInQuarantineThere(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers, "RELAY_DELIVER_WINDOW_EVENTS=4", "RELAY_DELIVER_HANDOVER_AFTER=2s")
	slow := newReceiver(t)
	r.subscribe("acme", slow.URL, "*")
	d := r.start()
	r.orders(0, 1)
	r.eventually("the first row arrives", func() bool { return len(slow.arrivals()) == 1 })
	d.stop()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.exec("UPDATE relay.progress SET marker = NULL")
	r.exec("DELETE FROM relay.accounted")
	invalid := func(n int) {
		time.Sleep(5 * time.Millisecond) // they are read in the order of their times
		r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
SELECT 'acme', 'sales_order', 'o', 'sales_order.confirmed', '{"order_id": 7}' FROM generate_series(1, $1::int)`, n)
		time.Sleep(5 * time.Millisecond)
	}
	invalid(10)
	r.orders(1, 6)
	invalid(5)
	slow.setAnswer(func(arrival, int) int { time.Sleep(1500 * time.Millisecond); return 200 })
	quarantined := func() int { return r.number("SELECT count(*) FROM relay.quarantine") }
	d = r.launch()
	r.eventually("the window is full", func() bool { return len(slow.arrivals()) >= 5 })
	d.stop()
	if n := quarantined(); n != 10 {
		t.Fatalf("%d rows are in quarantine, want 10: this test is about the middle", n)
	}
	slow.setAnswer(nil)
	d = r.start()
	r.eventually("the rescue ends", func() bool { return r.number("SELECT count(*) FROM relay.progress WHERE backfill IS NULL") == 1 })
	d.stop()
	if n := quarantined(); n != 15 {
		t.Errorf("%d rows are in quarantine, want 15", n)
	}
	if n := r.mustHaveEach(slow, 6); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
}
