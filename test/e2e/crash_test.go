package e2e_test

import (
	"fmt"
	"testing"
	"time"
)

// recordWindow bounds what a crash repeats: the recording interval, and the time that a busy machine takes to write.
const recordWindow = 2 * time.Second

func TestRelay_LosesNothingWhenKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	some := s.subscribe("some", "acme", "sales_order.confirmed")
	none := s.subscribe("none", "other", "*")
	l := newLedger(s, "acme", 40)
	r := s.start()
	const rows = 10_000
	l.write(4, rows)
	var faults []fault
	for _, at := range []int{500, 2_000, 4_000, 6_000, 8_000} {
		eventually(t, fmt.Sprintf("%d rows have arrived", at), func() bool { return s.recv.count("all") >= at })
		r.kill()
		faults = append(faults, fault{time.Now(), recordWindow})
		r = s.start()
	}
	l.wait()
	l.settle(patience, all, some)
	repeats := l.check(faults, all, some, none)
	if most := 1000 * len(faults); repeats > most {
		t.Errorf("%d repeats after %d kills, want at most %d", repeats, len(faults), most)
	}
	l.books(all, some)
	r.terminate()
}
