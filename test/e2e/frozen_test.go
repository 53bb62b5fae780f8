package e2e_test

import (
	"syscall"
	"testing"
	"time"
)

// A leader that is stopped while it has much to send, and wakes up when another has
// taken over, sends nothing of it.
func TestRelay_FindsOutThatAnotherLeadsBeforeItSends(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 40)
	s.recv.set("all", behaviour{status: 204, delay: 20 * time.Millisecond})
	first := s.start("RELAY_DELIVER_HANDOVER_AFTER=25s", "RELAY_DELIVER_TIMEOUT=30s")
	for key := range 40 {
		l.add(key, 50)
	}
	eventually(t, "the first is in the middle", func() bool { return s.recv.count("all") >= 200 })
	first.signal(syscall.SIGSTOP)
	stopped := time.Now()
	eventually(t, "its connection is cut", func() bool {
		return s.number("SELECT count(*) FROM pg_replication_slots s, pg_terminate_backend(s.active_pid) WHERE slot_name = $1", s.slot) == 1
	})
	s.recv.set("all", behaviour{status: 204})
	second := s.start()
	l.settle(patience, all)
	l.books(all)
	// The test does not go on before what the process had been told is old.
	eventually(t, "it has stood still for long", func() bool { return time.Since(stopped) > 3*time.Second })
	before := len(s.recv.arrivals("all"))
	first.signal(syscall.SIGCONT)
	eventually(t, "the first stands by", func() bool { return first.state() == "standby_waiting" })
	if n := len(s.recv.arrivals("all")) - before; n > 8 { // what was on its way when it was stopped
		t.Errorf("it has sent %d more", n)
	}
	l.check([]fault{{stopped, recordWindow}, {time.Now(), time.Hour}}, all)
	l.books(all)
	first.terminate()
	second.terminate()
}
