package e2e_test

import (
	"net/http"
	"testing"
	"time"
)

func TestRelay_KeepsEverythingInOrderThroughAnOutageOfTheReceiver(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	healthy := s.subscribe("healthy", "acme", "*")
	refusing := s.subscribe("refusing", "acme", "*")
	broken := s.subscribe("broken", "acme", "sales_order.confirmed")
	s.recv.set("refusing", behaviour{status: http.StatusServiceUnavailable})
	s.recv.set("broken", behaviour{status: answerReset})
	l := newLedger(s, "acme", 12)
	r := s.start()
	before := s.confirmed()
	l.write(4, 1_500)
	l.wait()
	head := s.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
	l.settle(patience, healthy) // the others cost it nothing
	eventually(t, "the slot passes what waits", func() bool { return s.confirmed() >= head })
	if s.confirmed() <= before {
		t.Error("the slot has not moved")
	}
	if n := s.recv.count("refusing") + s.recv.count("broken"); n != 0 {
		t.Fatalf("%d rows were taken by endpoints that are down", n)
	}
	if n := s.number("SELECT count(*) FROM relay.parked WHERE subscription_id = $1", refusing.id); n != len(l.rows()) {
		t.Errorf("%d deliveries are parked, want %d", n, len(l.rows()))
	}
	s.recv.set("refusing", behaviour{status: http.StatusOK})
	s.recv.set("broken", behaviour{status: http.StatusOK})
	l.write(4, 2_500) // and traffic goes on
	l.wait()
	l.settle(patience, healthy, refusing, broken)
	if repeats := l.check(nil, healthy, refusing, broken); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(healthy, refusing, broken)
	r.terminate()
}

func TestRelay_RemembersWhatWaitsWhenKilledDuringAnOutage(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	down := s.subscribe("down", "acme", "*")
	s.recv.set("down", behaviour{status: http.StatusServiceUnavailable})
	l := newLedger(s, "acme", 12)
	r := s.start()
	l.write(4, 1_000)
	eventually(t, "some wait in the table", func() bool { return s.number("SELECT count(*) FROM relay.parked") > 100 })
	r.kill()
	faults := []fault{{time.Now(), recordWindow}}
	r = s.start()
	l.wait()
	s.recv.set("down", behaviour{status: http.StatusOK})
	eventually(t, "some are taken", func() bool { return s.recv.count("down") > 200 })
	r.kill()
	faults = append(faults, fault{time.Now(), recordWindow})
	r = s.start()
	l.settle(patience, down)
	l.check(faults, down)
	l.books(down)
	r.terminate()
}
