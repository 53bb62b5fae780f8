package e2e_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"
)

// replayed is what `relay replay -o json` prints.
type replayed struct {
	ID     int64
	Found  int
	Events []struct {
		Event string
		Rows  int
	}
}

// replay asks for a replay of what was created before to.
func (s *stage) replay(sub *subscription, to string, args ...string) (out replayed) {
	s.t.Helper()
	text := s.command(append([]string{"replay", "--subscription", sub.id, "--from", "24h", "--to", to, "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
	return out
}

// now is the time by the server's clock.
func (s *stage) now() string {
	s.t.Helper()
	var now time.Time
	if err := s.db.QueryRow(s.t.Context(), "SELECT clock_timestamp()").Scan(&now); err != nil {
		s.t.Fatal(err)
	}
	return now.Format(time.RFC3339Nano)
}

// handled waits until the relay has gone through all that is committed.
func (s *stage) handled() {
	s.t.Helper()
	head := s.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
	eventually(s.t, "the stream is handled", func() bool { return s.confirmed() >= head })
}

// between returns those of a subscription's arrivals whose event is among rows, or is not.
func (s *stage) between(name string, rows []row, among bool) (out []record) {
	known := make(map[string]bool, len(rows))
	for _, r := range rows {
		known[r.event] = true
	}
	for _, a := range s.recv.arrivals(name) {
		if known[a.event] == among {
			out = append(out, a)
		}
	}
	return out
}

func TestRelay_ReplaysHistoryToANewSubscriptionWhileLiveEventsFlow(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	l := newLedger(s, "acme", 20)
	r := s.start()
	l.write(4, 3000)
	l.wait()
	s.handled()
	history := l.rows()
	to := s.now()
	late := s.subscribeByCommand("late", "acme", "sales_order.confirmed", "customer.*")
	wanted := 0
	for _, r := range history {
		if late.matches(r.tenant, r.typ) {
			wanted++
		}
	}

	count := s.replay(late, to, "--dry-run")
	if count.Found != wanted || len(count.Events) != 1 || count.Events[0].Event != "sales_order.confirmed" || count.ID != 0 {
		t.Fatalf("the dry run says %+v, want %d rows", count, wanted)
	}
	if n := s.number("SELECT count(*) FROM relay.replays"); n != 0 {
		t.Fatal("a dry run is no replay")
	}
	l.write(2, 6000) // live events of the same keys
	asked := s.replay(late, to, "--rate", "300")
	if again := s.replay(late, to, "--rate", "300"); again.ID != asked.ID {
		t.Errorf("asked twice, and got replay %d beside %d", again.ID, asked.ID)
	}
	var faults []fault
	for _, at := range []int{wanted / 4, wanted / 2} {
		eventually(t, fmt.Sprintf("%d rows are replayed", at), func() bool { return len(s.between("late", history, true)) >= at })
		r.kill()
		faults = append(faults, fault{time.Now(), recordWindow})
		r = s.start()
	}
	eventuallyWithin(t, 3*time.Minute, "the replay is done", func() bool {
		return s.number("SELECT count(*) FROM relay.replays WHERE state = 'DONE'") == 1
	})
	l.wait()
	l.settle(patience, late)
	r.terminate()

	all := l.rows()
	var live []row
	before := make(map[string]bool)
	for _, r := range history {
		before[r.event] = true
	}
	for _, r := range all {
		if !before[r.event] {
			live = append(live, r)
		}
	}
	repeats, complaints := compare(history, s.between("late", history, true), faults, late)
	more, others := compare(live, s.between("late", history, false), faults, late)
	for i, c := range append(complaints, others...) {
		if i < 5 {
			t.Error(c)
		}
	}
	id := strconv.FormatInt(asked.ID, 10)
	var shown struct{ Found, Queued, Skipped, Delivered, Dead, Cancelled int }
	if err := json.Unmarshal([]byte(s.command("replay", "show", id, "-o", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	if shown.Found != wanted || shown.Queued != wanted || shown.Delivered != wanted || shown.Skipped+shown.Dead+shown.Cancelled != 0 {
		t.Errorf("%+v, want %d rows delivered", shown, wanted)
	}
	if n := s.number("SELECT count(DISTINCT event_id) FROM relay.deliveries WHERE replay_id = $1 AND status = 'DELIVERED'", asked.ID); n != wanted {
		t.Errorf("%d deliveries of the replay on record, want %d", n, wanted)
	}
	t.Logf("%d rows replayed beside %d live ones, %d and %d repeats over %d kills", wanted, len(live), repeats, more, len(faults))
}
