package e2e_test

import (
	"testing"
	"time"
)

// The slot is lost together with the relay, and the relay is killed again while it
// reads the gap.
func TestRelay_RescuesTheGapAlthoughItIsKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_CDC_MARKER_INTERVAL=200ms")
	all := s.subscribe("all", "acme", "*")
	some := s.subscribe("some", "acme", "sales_order.confirmed")
	l := newLedger(s, "acme", 40)
	r := s.start()
	l.write(3, 3_000)
	eventually(t, "some rows have arrived", func() bool { return s.recv.count("all") >= 1_000 })
	r.kill()
	faults := []fault{{time.Now(), recordWindow}}
	eventually(t, "the slot is dropped", func() bool {
		return s.number("SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE slot_name = $1 AND NOT active", s.slot) == 1
	})
	s.rescued = true
	l.wait()
	before := s.recv.count("all")
	for _, more := range []int{300, 900} {
		r = s.launch()
		eventually(t, "it reads the gap", func() bool { return s.recv.count("all") >= before+more })
		r.kill()
		faults = append(faults, fault{time.Now(), recordWindow})
	}
	r = s.start()
	l.write(2, 4_000)
	l.wait()
	l.settle(patience, all, some)
	repeats := l.check(faults, all, some)
	if most := 1000 * len(faults); repeats > most {
		t.Errorf("%d repeats after %d kills, want at most %d", repeats, len(faults), most)
	}
	l.books(all, some)
	// Its count is of the last reading, which finds nothing when all was on record before the last kill.
	if n := s.number("SELECT count(*) FROM relay.incidents WHERE kind = 'rescue' AND ended_at IS NOT NULL"); n != 1 {
		t.Errorf("%d rescues on record, want 1", n)
	}
	if n := s.number("SELECT count(*) FROM relay.incidents WHERE kind = 'audit'"); n != 0 {
		t.Errorf("the audit complained %d times", n)
	}
	r.terminate()
}

// Deliveries that were on record above the recorded position are not sent again when the
// audit finds that somebody has moved the slot over them.
func TestRelay_RepeatsNothingOnRecordWhenTheSlotWasMovedOn(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_CDC_MARKER_INTERVAL=200ms", "RELAY_DELIVER_HANDOVER_AFTER=25s", "RELAY_DELIVER_TIMEOUT=30s")
	slow := s.subscribe("slow", "acme", "sales_order.created")
	fast := s.subscribe("fast", "acme", "*")
	l := newLedger(s, "acme", 30)
	hung := make(chan struct{})
	s.recv.set("slow", behaviour{status: answerHang, until: hung})
	r := s.start()
	for key := range 30 {
		l.add(key, 4)
	}
	eventually(t, "the fast endpoint has all, on record", func() bool {
		return s.number("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1", fast.id) == 120
	})
	r.kill()
	killed := time.Now()
	close(hung)
	s.recv.set("slow", behaviour{status: 204})
	eventually(t, "the slot is moved on", func() bool {
		_, err := s.db.Exec(t.Context(), "SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", s.slot)
		return err == nil
	})
	r = s.start()
	l.settle(patience, slow, fast)
	eventually(t, "the audit has found the rows", func() bool {
		return s.number("SELECT count(*) FROM relay.incidents WHERE kind = 'audit' AND ended_at IS NOT NULL") == 1
	})
	l.check([]fault{{killed, 0}}, fast) // explains none: all of it was on record for long
	r.terminate()
}
