package daemon_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// quickMarkers lets the audit look often.
const quickMarkers = "RELAY_CDC_MARKER_INTERVAL=100ms"

// metric reads one sample without labels from the daemon.
func (d *running) metric(t *testing.T, name string) int {
	t.Helper()
	resp, err := http.Get("http://" + d.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(f)
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func (r *rig) slot() string {
	for _, e := range r.env {
		if v, ok := strings.CutPrefix(e, "RELAY_CDC_SLOT="); ok {
			return v
		}
	}
	r.t.Fatal("no slot in the environment")
	return ""
}

func (r *rig) text(sql string, args ...any) string {
	r.t.Helper()
	var s string
	if err := r.conn.QueryRow(context.Background(), sql, args...).Scan(&s); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// orders commits rows from..to-1 of a few keys, each in a transaction of its own.
func (r *rig) orders(from, to int) {
	r.t.Helper()
	for i := from; i < to; i++ {
		r.order("acme", fmt.Sprint("o", i%5), i)
	}
}

// audited waits until everything that is committed now lies behind a marker that
// was found in order.
func (r *rig) audited(d *running) {
	r.t.Helper()
	at := r.text("SELECT pg_current_wal_insert_lsn()::text")
	r.eventually("the audit is through", func() bool {
		return r.number("SELECT count(*) FROM relay.progress WHERE marker_lsn >= $1::text::pg_lsn", at) == 1
	})
}

// orderNumbers counts the arrivals of each order number.
func (r *receiver) orderNumbers(t *testing.T) map[int]int {
	t.Helper()
	seen := make(map[int]int)
	for _, a := range r.arrivals() {
		i := strings.Index(a.Body, `"order_number" : "`)
		var number int
		if _, err := fmt.Sscanf(a.Body[i:], `"order_number" : "%d"`, &number); err != nil {
			t.Fatalf("%s: %v", a.Body, err)
		}
		seen[number]++
	}
	return seen
}

// mustHaveEach fails unless each order number below n has arrived, in the order of
// its key, and reports how many came more than once.
func (r *rig) mustHaveEach(rec *receiver, n int) (repeats int) {
	r.t.Helper()
	seen := rec.orderNumbers(r.t)
	for _, times := range seen {
		repeats += times - 1
	}
	for i := range n {
		if seen[i] == 0 {
			r.t.Errorf("order %d is lost", i)
		}
	}
	if len(seen) != n {
		r.t.Errorf("%d orders arrived, %d were committed", len(seen), n)
	}
	rec.mustVerify(r.t)
	return repeats
}

func TestRescue_DeliversTheGapAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		damage func(r *rig) // done while no relay runs, with rows before and after it
		found  string       // kind of the incident
		says   string
	}{
		{"slot dropped", func(r *rig) { r.exec("SELECT pg_drop_replication_slot($1)", r.slot()) }, "rescue", "does not exist"},
		{"slot dropped and made again", func(r *rig) {
			r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
			r.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", r.slot())
		}, "audit", "did not come through the stream"},
		{"slot moved on", func(r *rig) {
			r.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", r.slot())
		}, "audit", "did not come through the stream"},
		{"publication dropped and made again", func(r *rig) {
			r.exec("DROP PUBLICATION relay")
			r.orders(45, 50)
			r.exec("CREATE PUBLICATION relay FOR TABLE outbox.events WITH (publish = 'insert', publish_via_partition_root = true)")
		}, "rescue", "publication"},
		{"publication dropped", func(r *rig) { r.exec("DROP PUBLICATION relay") }, "rescue", "publication is missing"},
		{"table taken out of the publication", func(r *rig) {
			r.exec("ALTER PUBLICATION relay DROP TABLE outbox.events")
		}, "publication", "lacks outbox.events"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, quickMarkers)
			rec := newReceiver(t)
			r.subscribe("acme", rec.URL, "*")
			d := r.start()
			r.orders(0, 40)
			r.eventually("the first rows arrive", func() bool { return len(rec.arrivals()) == 40 })
			d.stop()
			r.orders(40, 45)
			c.damage(r)
			next := 45 + r.number("SELECT count(*) FROM outbox.events") - 45
			r.orders(next, 60)
			d = r.start()
			r.orders(60, 70)
			r.eventually("all arrive", func() bool { return len(rec.arrivals()) >= 70 })
			r.audited(d)
			d.stop()
			if n := r.mustHaveEach(rec, 70); n != 0 {
				t.Errorf("%d rows were sent twice", n)
			}
			what := r.text("SELECT coalesce(string_agg(kind || ': ' || detail, '; ' ORDER BY id), 'nothing') FROM relay.incidents WHERE ended_at IS NOT NULL")
			if !strings.Contains(what, c.found+": ") || !strings.Contains(what, c.says) {
				t.Errorf("incidents: %s; want %s about %q", what, c.found, c.says)
			}
		})
	}
}

func TestRescue_OfASlotThatIsDroppedWhileRunning(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	const total = 300
	go func() {
		conn, err := pgx.Connect(context.Background(), r.url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		for i := range total {
			_, err := conn.Exec(context.Background(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
				VALUES ('acme', 'sales_order', 'o' || $1 % 5, 'sales_order.confirmed', json_build_object('order_id', 'o' || $1 % 5, 'order_number', $1::text, 'amount', '1', 'currency', 'EUR'))`, i)
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	for round := 1; round <= 3; round++ {
		r.eventually("rows arrive", func() bool { return len(rec.arrivals()) >= 50*round })
		r.eventually("the slot is dropped", func() bool {
			r.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL", r.slot())
			_, err := r.conn.Exec(context.Background(), "SELECT pg_drop_replication_slot($1)", r.slot())
			return err == nil
		})
		r.eventually("it is rescued", func() bool {
			return r.number("SELECT count(*) FROM relay.incidents WHERE kind = 'rescue' AND ended_at IS NOT NULL") >= round
		})
	}
	r.eventually("all arrive", func() bool {
		return len(rec.arrivals()) >= total && r.number("SELECT count(*) FROM outbox.events") == total
	})
	r.audited(d)
	if n := d.metric(t, "relay_audit_missing_total"); n != 0 {
		t.Errorf("the audit missed %d rows", n)
	}
	d.stop()
	if n := r.mustHaveEach(rec, total); n > 30 {
		t.Errorf("%d repeats: only what was on its way may come again", n)
	}
}

func TestRescue_WaitsForAnOperatorWhenRecoveryIsManual(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers, "RELAY_CDC_RECOVERY=manual")
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 10)
	r.eventually("rows arrive", func() bool { return len(rec.arrivals()) == 10 })
	d.stop()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.orders(10, 20)
	d = r.launch()
	r.eventually("it says what is to be done", func() bool {
		s := d.Status()
		return s.State == "slot_missing" && strings.Contains(s.Detail, "relay rescue")
	})
	if n := r.number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", r.slot()); n != 0 {
		t.Error("a slot was made although nobody asked for it")
	}
	r.exec("INSERT INTO relay.requests (kind, target) VALUES ('rescue', $1)", r.slot())
	r.eventually("the gap arrives", func() bool { return len(rec.arrivals()) >= 20 })
	r.audited(d)
	d.stop()
	if n := r.mustHaveEach(rec, 20); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
	if n := r.number("SELECT count(*) FROM relay.requests"); n != 0 {
		t.Errorf("%d requests stay", n)
	}
}

func TestRescue_OfASlotWhoseWALWasRemoved(t *testing.T) {
	t.Parallel()
	c := pgtest.NewCluster(t)
	url, err := c.CreateDatabase(t.Context(), "lost")
	if err != nil {
		t.Fatal(err)
	}
	r := newRigOn(t, url, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 20)
	r.eventually("rows arrive", func() bool { return len(rec.arrivals()) == 20 })
	d.stop()
	r.exec("ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'")
	r.exec("SELECT pg_reload_conf()")
	r.orders(20, 30)
	r.exec("CREATE TABLE filler (t text)")
	r.eventually("the slot is lost", func() bool {
		r.exec("INSERT INTO filler SELECT repeat(md5(random()::text), 200) FROM generate_series(1, 20000)")
		r.exec("SELECT pg_switch_wal()")
		r.exec("CHECKPOINT")
		return r.text("SELECT wal_status FROM pg_replication_slots") == "lost"
	})
	r.orders(30, 40)
	d = r.start()
	r.eventually("the gap arrives", func() bool { return len(rec.arrivals()) >= 40 })
	r.audited(d)
	d.stop()
	if n := r.mustHaveEach(rec, 40); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
	if what := r.text("SELECT detail FROM relay.incidents"); !strings.Contains(what, "is lost") {
		t.Errorf("incident: %s", what)
	}
}

// Deliveries that wait in the table when the slot is lost are on record, and are sent
// from there alone.
func TestRescue_LeavesWhatIsParkedAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	rec.setAnswer(func(arrival, int) int { return 503 })
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 30)
	r.eventually("all are parked", func() bool { return r.number("SELECT count(*) FROM relay.parked") == 30 })
	d.stop()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.orders(30, 40)
	before := len(rec.arrivals())
	rec.setAnswer(nil)
	d = r.start()
	r.eventually("all are delivered", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == 40
	})
	d.stop()
	if n := len(rec.arrivals()) - before; n != 40 {
		t.Errorf("%d arrivals for 40 rows", n)
	}
	if n := r.number("SELECT count(*) FROM relay.parked"); n != 0 {
		t.Errorf("%d stay parked", n)
	}
}

// The stream showed a part of a transaction only, because the outbox came back into the
// publication in the middle of it. What it showed is on record; the rest is not taken
// for recorded with it.
func TestRescue_DeliversTheRestOfATransactionThatWasShownInPart(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_CDC_MARKER_INTERVAL=1h")
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 5)
	r.eventually("rows arrive", func() bool { return len(rec.arrivals()) == 5 })
	other, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	insert := func(tx pgx.Tx, n int) {
		t.Helper()
		if _, err := tx.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o' || $1::text,
			'sales_order.confirmed', json_build_object('order_id', 'o', 'order_number', $1::text, 'amount', '1', 'currency', 'EUR'))`, fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	r.exec("ALTER PUBLICATION relay DROP TABLE outbox.events")
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	insert(tx, 5)
	insert(tx, 6)
	r.exec("ALTER PUBLICATION relay ADD TABLE outbox.events")
	insert(tx, 7)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually("the part that was shown arrives", func() bool { return rec.orderNumbers(t)[7] > 0 })
	d.stop()
	if n := len(rec.orderNumbers(t)); n != 6 {
		t.Fatalf("%d orders have arrived, want 6: the others are hidden", n)
	}
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.orders(8, 12)
	d = r.start()
	r.eventually("all arrive", func() bool { return len(rec.orderNumbers(t)) == 12 })
	d.stop()
	if n := r.mustHaveEach(rec, 12); n > 1 {
		t.Errorf("%d repeats; only the transaction that was shown in part may come again", n)
	}
}

// While rows are read from the table the stream waits, and what its connection had
// brought is forgotten when that breaks.
func TestRescue_SurvivesABrokenConnectionWhileItReads(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers, "RELAY_DELIVER_WINDOW_EVENTS=10", "RELAY_DELIVER_HANDOVER_AFTER=2s")
	rec := newReceiver(t)
	rec.setAnswer(func(arrival, int) int { time.Sleep(5 * time.Millisecond); return 200 })
	r.subscribe("acme", rec.URL, "*")
	r.orders(0, 400)
	d := r.start()
	for n := 400; n < 460; n += 20 {
		r.exec(fmt.Sprintf(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) SELECT 'acme', 'sales_order', 'o' || n %% 5,
			'sales_order.confirmed', json_build_object('order_id', 'o' || n %% 5, 'order_number', n::text, 'amount', '1', 'currency', 'EUR') FROM generate_series(%d, %d) n`, n, n+19))
		if r.number("SELECT count(*) FROM relay.progress WHERE backfill IS NOT NULL") == 0 {
			t.Fatal("the backfill has ended too soon for this test")
		}
		r.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL", r.slot())
		r.eventually("it streams again", func() bool { return d.Status().Ready })
	}
	r.eventually("all arrive", func() bool { return len(rec.orderNumbers(t)) == 460 })
	r.audited(d)
	if n := r.number("SELECT epoch FROM relay.progress"); n != 1 {
		t.Errorf("epoch %d: the leader has lost its memory", n)
	}
	d.stop()
	if n := r.mustHaveEach(rec, 460); n != 0 {
		t.Errorf("%d repeats", n)
	}
}
