package daemon_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// session is a connection of its own to the rig's database.
func (r *rig) session() *pgx.Conn {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// A rescue dies when its slot is made and nothing of it is noted. What is there then looks
// like the slot that progress belongs to; the gap before it is known all the same, not only
// by the audit.
func TestRescue_IsBegunAgainWhenItDiedBeforeItNotedItsSlot(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_CDC_MARKER_INTERVAL=1h")
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 10)
	r.eventually("the first rows arrive", func() bool { return len(rec.arrivals()) == 10 })
	d.stop()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.orders(10, 20)
	blocker, err := r.session().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), "LOCK TABLE relay.incidents IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	d = r.launch()
	r.eventually("it has made the slot and is about to note it", func() bool {
		return r.number(`SELECT count(*) FROM pg_replication_slots, pg_stat_activity WHERE slot_name = $1 AND confirmed_flush_lsn IS NOT NULL
			AND datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO relay.incidents%'`, r.slot()) == 1
	})
	d.stop()
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", r.slot()); n != 1 {
		t.Fatalf("%d slots are left: this test is about one", n)
	}
	r.orders(20, 30)
	d = r.start()
	r.eventually("all arrive", func() bool { return len(rec.arrivals()) >= 30 })
	d.stop()
	if n := r.mustHaveEach(rec, 30); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
	if what := r.text("SELECT string_agg(kind || ': ' || detail, '; ') FROM relay.incidents"); !strings.Contains(what, "cut off") {
		t.Errorf("incidents: %s", what)
	}
	if n := r.number("SELECT count(*) FROM relay.progress WHERE remaking"); n != 0 {
		t.Error("the next start would make the slot anew again")
	}
}

// The name of the slot belongs to somebody else: to a standby, or to a consumer with another
// plugin. It would lose what it has still to read.
func TestFirstStart_LeavesTheSlotsOfOthersAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	r.exec("SELECT pg_create_physical_replication_slot($1, true)", r.slot())
	d := r.launch()
	r.eventually("it says what is to be done", func() bool {
		s := d.Status()
		return s.State == "misconfigured" && strings.Contains(s.Detail, "set cdc.slot to another name")
	})
	if n := r.number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND slot_type = 'physical'", r.slot()); n != 1 {
		t.Error("the slot is gone")
	}
	d.stop()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
}

// Nothing of the stream is confirmed while rows from before the slot are read, so a slot that
// stands elsewhere then is another one: no audit is needed to know it.
func TestRescue_OfASlotThatWasMadeAnewWhileRowsFromBeforeItWereRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_CDC_MARKER_INTERVAL=1h", "RELAY_DELIVER_WINDOW_EVENTS=4", "RELAY_DELIVER_HANDOVER_AFTER=2s")
	rec := newReceiver(t)
	rec.setAnswer(func(arrival, int) int { time.Sleep(50 * time.Millisecond); return 200 })
	r.subscribe("acme", rec.URL, "*")
	r.orders(0, 200)
	d := r.launch()
	r.eventually("some rows arrive", func() bool { return len(rec.arrivals()) >= 5 })
	d.stop()
	if n := r.number("SELECT count(*) FROM relay.progress WHERE backfill IS NOT NULL"); n != 1 {
		t.Fatal("all rows are read already: this test is about the middle")
	}
	r.orders(200, 220)
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", r.slot())
	r.orders(220, 225)
	rec.setAnswer(nil)
	d = r.start()
	r.eventually("all arrive", func() bool { return len(rec.orderNumbers(t)) == 225 })
	d.stop()
	if n := r.mustHaveEach(rec, 225); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
	if what := r.text("SELECT string_agg(kind || ': ' || detail, '; ') FROM relay.incidents"); !strings.Contains(what, "made it anew") {
		t.Errorf("incidents: %s", what)
	}
}
