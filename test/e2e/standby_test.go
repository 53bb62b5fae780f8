package e2e_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRelay_StandsByAndTakesOver(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 20)
	first := s.start()
	l.write(2, 5_000)

	// awaitStandby makes sure that a relay waits and says so.
	awaitStandby := func(r *relay) {
		t.Helper()
		eventually(t, "the second relay stands by", func() bool { return r.state() == "standby_waiting" })
		if code := r.httpCode("/readyz"); code != http.StatusServiceUnavailable {
			t.Errorf("/readyz of the standby answers %d", code)
		}
		if code := r.httpCode("/healthz"); code != http.StatusOK {
			t.Errorf("/healthz of the standby answers %d", code)
		}
	}
	awaitLead := func(r *relay, since time.Time) {
		t.Helper()
		eventually(t, "the standby leads", func() bool { return r.httpCode("/readyz") == http.StatusOK })
		t.Logf("took over after %s", time.Since(since).Round(time.Millisecond))
		l.settle(patience, all) // what has committed by now
	}

	second := s.launch()
	awaitStandby(second)
	eventually(t, "the first delivers", func() bool { return s.recv.count("all") > 500 })
	first.terminate()
	awaitLead(second, time.Now())

	third := s.launch()
	awaitStandby(third)
	l.write(2, 9_000)
	n := s.recv.count("all")
	eventually(t, "the second delivers", func() bool { return s.recv.count("all") > n+500 })
	second.kill()
	killed := time.Now()
	awaitLead(third, killed)

	l.wait()
	l.settle(patience, all)
	l.check([]fault{{killed, recordWindow}}, all) // the clean hand-over explains none
	l.books(all)
	third.terminate()
}

func TestRelay_RefusesASecondSlotOnOneOutbox(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 2)
	first := s.start()
	second := s.launch("RELAY_CDC_SLOT=" + s.slot + "_second")
	eventually(t, "the second refuses", func() bool { return second.state() == "misconfigured" })
	_, status := second.get("/status")
	for _, want := range []string{"the relay's identity has changed", "slot " + s.slot + ",", "correct cdc.slot"} {
		if !strings.Contains(status, want) {
			t.Errorf("the status does not say %q: %s", want, status)
		}
	}
	l.add(0, 5)
	l.settle(patience, all)
	second.terminate()
	first.terminate()
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	if n := s.number("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"); n != 1 {
		t.Errorf("%d slots", n)
	}
}
