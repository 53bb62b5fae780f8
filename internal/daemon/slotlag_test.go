package daemon_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// budget returns the level and the seconds to the loss of the slot, as they are printed.
func (d *running) budget(t *testing.T) (level int, seconds string) {
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
		if rest, ok := strings.CutPrefix(line, "relay_slot_loss_seconds "); ok {
			seconds = strings.TrimSpace(rest)
		}
	}
	return d.metric(t, "relay_wal_budget_level"), seconds
}

// fill writes so much WAL that is nothing to anybody.
func (r *rig) fill(mib int) {
	r.t.Helper()
	for range mib {
		r.exec("SELECT pg_logical_emit_message(false, 'padding', repeat('x', 1048576))")
	}
}

// serverWith is a database on a server of its own.
func serverWith(t *testing.T, settings map[string]string) string {
	t.Helper()
	url, err := pgtest.NewCluster(t, pgcluster.Options{Settings: settings}).CreateDatabase(t.Context(), "lag")
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// An open transaction holds the slot's WAL, whatever the relay does.
func TestWALBudget_ParksEarlyUnderPressureAndGoesBackToNormal(t *testing.T) {
	t.Parallel()
	// The budget is 80 % of this: 51 MiB.
	r := newRigOn(t, serverWith(t, map[string]string{"max_slot_wal_keep_size": "64MB"}))
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	if level, seconds := d.budget(t); level != 0 || seconds != "+Inf" {
		t.Fatalf("at the start: level %d, %s s", level, seconds)
	}
	other, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('acme', 'sales_order', 'o1', 'never.heard.of', '{}')`); err != nil {
		t.Fatal(err)
	}
	r.fill(28)
	r.eventuallyWithin(60*time.Second, "half of it is used", func() bool { return d.metric(t, "relay_wal_budget_level") == 1 })
	if _, seconds := d.budget(t); seconds == "+Inf" || seconds == "" {
		t.Errorf("nothing is foretold while what the slot holds grows")
	}
	r.fill(16)
	r.eventuallyWithin(60*time.Second, "four fifths of it are used", func() bool { return d.metric(t, "relay_wal_budget_level") == 2 })
	for i := range 20 {
		r.order("acme", fmt.Sprint("o", i%3), i)
	}
	r.eventually("events are delivered by the table", func() bool { return len(rec.arrivals()) == 20 })
	again := newReceiver(t)
	id := r.replay(r.subscribe("acme", again.URL, "*"), 1000)
	r.eventually("the replay is known", func() bool { return strings.Contains(d.log.String(), "msg=replay ") })
	if n := r.number("SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND wal_status IN ('reserved', 'extended')"); n != 1 {
		t.Error("the slot was lost meanwhile")
	}
	if _, queued, _, _ := r.replayState(id); queued != 0 {
		t.Errorf("a replay parks %d rows under pressure", queued)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventuallyWithin(90*time.Second, "all is normal again", func() bool {
		r.exec("CHECKPOINT") // moves the slot, as PostgreSQL does by itself every 15 s when something is written
		r.order("acme", "o1", 99)
		return d.metric(t, "relay_wal_budget_level") == 0
	})
	r.replayDone(id)
	d.stop()
	rec.mustVerify(t)
	for _, said := range []string{"half of its WAL budget", "four fifths of its WAL budget", "within its WAL budget again"} {
		if n := strings.Count(d.log.String(), said); n < 1 || n > 2 {
			t.Errorf("%q was said %d times", said, n)
		}
	}
}

// Far more WAL is written than PostgreSQL may keep for the slot, while half of the
// endpoints are dead or hang.
func TestDaemon_TheSlotStaysShortWhileHalfOfTheEndpointsAreDead(t *testing.T) {
	t.Parallel()
	r := newRigOn(t, serverWith(t, map[string]string{"max_slot_wal_keep_size": "48MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}))
	hung := make(chan struct{})
	const endpoints = 12
	var recs []*receiver
	for i := range endpoints {
		rec := newReceiver(t)
		recs = append(recs, rec)
		r.subscribe(fmt.Sprint("t", i), rec.URL, "*")
		switch {
		case i%4 == 0:
			rec.setAnswer(func(arrival, int) int { return 503 })
		case i%4 == 2:
			rec.setAnswer(func(arrival, int) int { <-hung; return 503 })
		}
	}
	t.Cleanup(func() { close(hung) })
	dead := httptest.NewServer(nil)
	dead.Close()
	r.subscribe("t1", dead.URL, "*") // refuses connections
	d := r.start()
	const rounds, each = 8, 300
	for round := range rounds {
		r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			SELECT 't' || i % $1::int, 'sales_order', 'o' || i % 40, 'sales_order.confirmed', json_build_object('order_id', 'o', 'order_number', i::text,
			       'amount', '1500.00', 'currency', 'EUR', 'padding', repeat('x', 8000)) FROM generate_series(1, $2::int) i`, endpoints, each)
		r.fill(8)
		var head string
		if err := r.conn.QueryRow(t.Context(), "SELECT pg_current_wal_lsn()::text").Scan(&head); err != nil {
			t.Fatal(err)
		}
		r.eventuallyWithin(patience, fmt.Sprintf("round %d: the slot is at what was committed", round), func() bool {
			return r.number("SELECT count(*) FROM pg_replication_slots WHERE confirmed_flush_lsn >= $1::text::pg_lsn", head) == 1
		})
		r.exec("CHECKPOINT")
	}
	if n := r.number("SELECT count(*) FROM pg_replication_slots WHERE wal_status IN ('reserved', 'extended')"); n != 1 {
		t.Error("the slot is not well")
	}
	want := map[int]int{}
	for i := 1; i <= each; i++ {
		want[i%endpoints] += rounds
	}
	for i := 1; i < endpoints; i += 2 {
		r.eventually(fmt.Sprintf("live endpoint %d has all", i), func() bool { return len(recs[i].arrivals()) == want[i] })
	}
	d.stop()
}
