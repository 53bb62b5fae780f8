package daemon_test

import (
	"testing"
)

// A subscription is removed and put back under its id, as from a copy, while a delivery of it is on the wire: recording goes
// on, and no two deliveries have one number.
func TestNumbers_OfASubscriptionThatIsPutBackGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	release := make(chan struct{})
	rec.setAnswer(func(_ arrival, n int) int {
		if n == 2 || n == 3 {
			<-release
		}
		return 200
	})
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.order("acme", "o0", 0)
	r.eventually("the first is recorded", func() bool { return r.number("SELECT count(*) FROM relay.deliveries") == 1 })
	r.order("acme", "o1", 1)
	r.eventually("the second is on the wire", func() bool { return len(rec.arrivals()) == 2 })
	r.exec("CREATE TABLE public.copy AS SELECT * FROM relay.subscriptions")
	r.exec("DELETE FROM relay.subscriptions")
	r.handled()
	r.exec("INSERT INTO relay.subscriptions SELECT * FROM public.copy")
	r.order("acme", "o2", 2)
	r.eventually("the third is on the wire", func() bool { return len(rec.arrivals()) == 3 })
	close(release)
	r.order("acme", "o3", 3)
	r.eventually("all are recorded", func() bool {
		return r.number("SELECT count(DISTINCT event_id) FROM relay.deliveries") == 4
	})
	if n := d.log.Count("will be tried again"); n != 0 {
		t.Errorf("%d batches failed", n)
	}
	if n := r.number("SELECT count(*) - count(DISTINCT sequence) FROM relay.deliveries WHERE sequence IS NOT NULL"); n != 0 {
		t.Errorf("%d numbers are given twice", n)
	}
	if n := r.number("SELECT recorded FROM relay.sequences WHERE ahead = '{}'"); n < 3 {
		t.Errorf("the numbers are on record up to %d, and began anew", n)
	}
}
