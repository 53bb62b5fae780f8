package e2e_test

import (
	"testing"
	"time"
)

// fewHundred is how many deliveries a crash may repeat that comes while nothing can be recorded: 200, and what is on the
// wire then.
const fewHundred = 300

func TestRelay_RepeatsAFewHundredWhenKilledWhileNothingCanBeRecorded(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 40)
	r := s.start("RELAY_LOG_LEVEL=debug") // which tells each try
	l.add(0, 1)
	l.settle(patience, all)
	l.books(all)
	before := len(s.recv.arrivals("all"))
	s.exec("ALTER TABLE relay.progress RENAME TO progress_elsewhere")
	const refused = "progress\\\" does not exist"
	l.add(0, 1)
	eventually(t, "recording fails", func() bool { return r.log.Count(refused) > 0 })
	for range 25 {
		for k := range l.keys {
			l.add(k, 1)
		}
	}
	eventually(t, "recording fails time and again", func() bool { return r.log.Count(refused) >= 8 })
	if sent := len(s.recv.arrivals("all")) - before; sent > fewHundred {
		t.Errorf("%d deliveries while nothing could be recorded, want at most %d", sent, fewHundred)
	}
	r.kill()
	killed := time.Now()
	s.exec("ALTER TABLE relay.progress_elsewhere RENAME TO progress")
	r = s.start()
	l.settle(patience, all)
	repeats := l.check([]fault{{killed, time.Minute}}, all)
	if repeats > fewHundred {
		t.Errorf("%d repeats, want at most %d", repeats, fewHundred)
	}
	l.books(all)
	r.terminate()
}
