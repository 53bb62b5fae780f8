package e2e_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestRelay_RepeatsNothingAfterStopsUnderLoad(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	some := s.subscribe("some", "acme", "sales_order.created")
	l := newLedger(s, "acme", 30)
	r := s.start()
	l.write(3, 5_000)
	for _, at := range []int{300, 1_500, 2_500, 3_500} {
		eventually(t, fmt.Sprintf("%d rows have arrived", at), func() bool { return s.recv.count("all") >= at })
		r.terminate()
		r = s.start()
	}
	l.wait()
	l.settle(patience, all, some)
	if repeats := l.check(nil, all, some); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all, some)
	r.terminate()
}

func TestRelay_WaitsForSlowEndpointsBeforeItStops(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	slow := s.subscribe("slow", "acme", "*")
	s.recv.set("slow", behaviour{status: http.StatusOK, delay: time.Second})
	l := newLedger(s, "acme", 20)
	r := s.start()
	for k := range l.keys {
		l.add(k, 2)
	}
	eventually(t, "attempts are on the wire", func() bool { return s.recv.inFlight("slow") == 8 })
	r.terminate()
	s.recv.mu.Lock()
	started, finished := len(s.recv.records["slow"]), s.recv.finished["slow"]
	s.recv.mu.Unlock()
	if started != finished {
		t.Errorf("%d attempts were begun and %d answered", started, finished)
	}
	s.recv.set("slow", behaviour{status: http.StatusOK})
	r = s.start()
	l.settle(patience, slow)
	if repeats := l.check(nil, slow); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(slow)
	r.terminate()
}

func TestRelay_DeliversRowsFromBeforeItsFirstStart(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 30)
	l.write(3, 4_000)
	eventually(t, "rows are committed", func() bool { return l.committed.Load() >= 1_500 })
	r := s.start() // while writers are at it
	eventually(t, "rows arrive", func() bool { return s.recv.count("all") >= 200 })
	r.terminate() // in the middle of the rows from before
	r = s.start()
	eventually(t, "more arrive", func() bool { return s.recv.count("all") >= 600 })
	r.kill()
	killed := time.Now()
	r = s.start()
	l.wait()
	l.settle(patience, all)
	l.check([]fault{{killed, recordWindow}}, all)
	l.books(all)
	r.terminate()
}
