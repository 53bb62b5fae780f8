package daemon_test

import (
	"strings"
	"testing"
)

// What the database refuses to record is set aside, is sent when it is asked for, and leaves no trace then.
func TestQuarantine_SendsWhatCouldNotBeRecordedOnceItIsAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good, bad := newReceiver(t), newReceiver(t)
	bad.setAnswer(func(arrival, int) int { return 503 })
	r.subscribe("acme", good.URL, "*")
	sub := r.subscribe("acme", bad.URL, "*")
	d := r.start()
	defer d.stop()
	r.exec("ALTER TABLE relay.bodies ADD CONSTRAINT not_this CHECK (aggregate_id <> 'o2')")
	for i, id := range []string{"o1", "o2", "o3"} {
		r.order("acme", id, i)
	}
	r.eventually("it is set aside", func() bool {
		return r.number("SELECT count(*) FROM relay.quarantine WHERE reason = 'unrecordable'") == 1
	})
	r.eventually("the others wait", func() bool { return r.number("SELECT count(*) FROM relay.parked") == 2 })
	r.eventually("the other endpoint has all", func() bool { return len(good.arrivals()) == 3 })
	if got := r.number("SELECT count(*) FROM relay.quarantine WHERE only_for = ARRAY[$1::uuid] AND xid IS NOT NULL AND raw IS NULL", sub); got != 1 {
		t.Errorf("%d references to the one subscription, want 1", got)
	}
	if !strings.Contains(d.log.String(), "record set aside") {
		t.Error("the log does not say so")
	}
	bad.setAnswer(nil)
	r.eventually("the others arrive", func() bool { return r.number("SELECT count(*) FROM relay.parked") == 0 })
	ask := func() {
		r.exec("INSERT INTO relay.requests (kind, target) SELECT 'retry_quarantine', id::text FROM relay.quarantine")
		r.eventually("the request is carried out", func() bool { return r.number("SELECT count(*) FROM relay.requests") == 0 })
	}
	tried := func() (n int) {
		for _, a := range bad.arrivals() {
			if strings.Contains(a.Body, `"o2"`) {
				n++
			}
		}
		return n
	}
	before := tried()
	ask() // it is refused once more, and stays
	if got := r.number("SELECT count(*) FROM relay.quarantine WHERE only_for = ARRAY[$1::uuid]", sub); got != 1 {
		t.Errorf("%d references after a retry that was refused, want 1", got)
	}
	r.exec("ALTER TABLE relay.bodies DROP CONSTRAINT not_this")
	ask()
	r.eventually("it arrives", func() bool { return tried() == before+1 })
	r.eventually("nothing is left", func() bool {
		return r.number("SELECT (SELECT count(*) FROM relay.quarantine) + (SELECT count(*) FROM relay.parked)") == 0
	})
	if n := len(good.arrivals()); n != 3 {
		t.Errorf("%d arrivals at the other endpoint, want 3", n)
	}
	good.mustVerify(t)
	bad.mustVerify(t)
}
