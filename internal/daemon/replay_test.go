package daemon_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
)

// replay asks for a replay of all that is retained, as the command does.
func (r *rig) replay(sub string, rate int, events ...string) int64 {
	r.t.Helper()
	db := r.pool()
	var now time.Time
	if err := db.QueryRow(context.Background(), "SELECT clock_timestamp()").Scan(&now); err != nil {
		r.t.Fatal(err)
	}
	id, _, err := (deliver.Replays{DB: db}).Ask(context.Background(), deliver.ReplayRequest{Subscription: uuid.MustParse(sub), Events: events,
		From: now.Add(-2000 * time.Hour), To: now, Rate: rate, Found: r.found(sub, events...), Spec: "2000h"})
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) pool() *pgxpool.Pool {
	r.t.Helper()
	db, err := pgxpool.New(context.Background(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(db.Close)
	return db
}

// found counts what a replay of everything before now would send.
func (r *rig) found(sub string, events ...string) int64 {
	r.t.Helper()
	return r.count(func() (*config.Config, error) { return config.Load(config.LoadOptions{Environ: r.env}) }, sub, events...).Rows
}

// count is a dry run of a replay of everything before now, under a configuration.
func (r *rig) count(load func() (*config.Config, error), sub string, events ...string) deliver.ReplayFound {
	r.t.Helper()
	cfg, err := load()
	if err != nil {
		r.t.Fatal(err)
	}
	db := r.pool()
	s, err := (deliver.Subscriptions{DB: db}).Get(context.Background(), uuid.MustParse(sub))
	if err != nil {
		r.t.Fatal(err)
	}
	catalog, err := outbox.NewCatalog(cfg.Catalog.Files...)
	if err != nil {
		r.t.Fatal(err)
	}
	found, err := daemon.Retained{Settings: cfg, Catalog: catalog, DB: db}.Count(context.Background(), s, events,
		time.Now().Add(-2000*time.Hour), time.Now().Add(time.Hour))
	if err != nil {
		r.t.Fatal(err)
	}
	return found
}

func (r *rig) replayState(id int64) (state string, queued, skipped, delivered int) {
	r.t.Helper()
	if err := r.conn.QueryRow(context.Background(), "SELECT state, queued, skipped, delivered FROM relay.replays WHERE id = $1", id).
		Scan(&state, &queued, &skipped, &delivered); err != nil {
		r.t.Fatal(err)
	}
	return state, queued, skipped, delivered
}

// handled waits until the stream is past all that is committed: a subscription
// that comes now gets nothing of it by itself.
func (r *rig) handled() {
	r.t.Helper()
	var head string
	if err := r.conn.QueryRow(context.Background(), "SELECT pg_current_wal_lsn()::text").Scan(&head); err != nil {
		r.t.Fatal(err)
	}
	r.eventuallyWithin(60*time.Second, "the stream is handled", func() bool {
		return r.number("SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn >= $1::text::pg_lsn", head) == 1
	})
}

func (r *rig) replayDone(id int64) {
	r.t.Helper()
	r.eventuallyWithin(60*time.Second, "the replay is done", func() bool { s, _, _, _ := r.replayState(id); return s == "DONE" })
}

func TestReplay_GivesANewSubscriptionTheHistoryWithTheSameIdsAndBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, late := newReceiver(t), newReceiver(t)
	r.subscribe("acme", first.URL, "*")
	d := r.start()
	for i := range 30 {
		r.order("acme", fmt.Sprint("o", i%3), i)
	}
	r.order("other", "o1", 1) // another tenant's
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('acme', 'sales_order', 'o1', 'confirmed', '{"nothing": "valid"}'), ('acme', 'sales_order', 'o1', 'never.heard.of', '{}')`)
	r.eventually("all arrive", func() bool { return len(first.arrivals()) == 30 })
	r.handled()
	sub := r.subscribe("acme", late.URL, "sales_order.*")
	id := r.replay(sub, 1000, "sales_order.confirmed")
	if n := r.number("SELECT total FROM relay.replays WHERE id = $1", id); n != 31 {
		t.Errorf("%d rows found, want 30 and the faulty one", n)
	}
	r.replayDone(id)
	late.mustVerify(t)
	type sent struct{ id, body string }
	byID := func(list []arrival) (out []sent) {
		for _, a := range list {
			out = append(out, sent{a.ID, a.Body})
		}
		slices.SortFunc(out, func(a, b sent) int { return strings.Compare(a.id, b.id) })
		return out
	}
	if a, b := byID(first.arrivals()), byID(late.arrivals()); !slices.Equal(a, b) {
		t.Errorf("the new subscription got %d events, the first %d, or others", len(b), len(a))
	}
	if _, queued, skipped, delivered := r.replayState(id); queued != 30 || skipped != 1 || delivered != 30 {
		t.Errorf("queued %d, skipped %d, delivered %d", queued, skipped, delivered)
	}
	if n := len(first.arrivals()); n != 30 {
		t.Errorf("the first subscription got %d, want nothing more", n)
	}
	d.stop()
}

// created_at is when a transaction began. The one that began first may have waited
// for the lock of the other.
func TestReplay_OrdersAKeyByItsCommitsNotByTheBeginOfItsTransactions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	d := r.start()
	early, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close(context.Background())
	tx, err := early.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT now()"); err != nil {
		t.Fatal(err)
	}
	r.order("acme", "o1", 0)
	if _, err := tx.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o1',
		'sales_order.confirmed', '{"order_id": "o1", "order_number" : "1", "amount": "1500.00", "currency": "EUR"}')`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.number("SELECT count(DISTINCT created_at) FROM outbox.events"); n != 2 {
		t.Fatal("both began at once: the test shows nothing")
	}
	r.handled()
	r.replayDone(r.replay(r.subscribe("acme", rec.URL, "*"), 1000))
	for i, a := range rec.arrivals() {
		if !strings.Contains(a.Body, fmt.Sprintf(`"order_number" : "%d"`, i)) {
			t.Errorf("arrival %d is %s", i, a.Body)
		}
	}
	d.stop()
}

func TestReplay_GoesOnWhereItWasWhenTheRelayStops(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	d := r.start()
	const total = 120
	for i := range total {
		r.order("acme", fmt.Sprint("o", i%5), i)
	}
	r.handled()
	id := r.replay(r.subscribe("acme", rec.URL, "*"), 50)
	r.eventually("some are sent", func() bool { return len(rec.arrivals()) > 10 })
	d.stop()
	if s, queued, _, _ := r.replayState(id); s != "RUNNING" || queued >= total {
		t.Fatalf("%s with %d queued: the test shows nothing", s, queued)
	}
	r.exec("UPDATE relay.replays SET rate = 1000")
	d = r.start()
	r.replayDone(id)
	d.stop()
	seen := make(map[string]bool)
	for _, a := range rec.arrivals() {
		if seen[a.ID] {
			t.Errorf("%s was sent twice", a.ID)
		}
		seen[a.ID] = true
	}
	if len(seen) != total {
		t.Errorf("%d of %d arrived", len(seen), total)
	}
}

// Rows that leave the default partition while they are replayed lose their place.
func TestReplay_FindsRowsThatWereMovedToTheirPartition(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	d := r.start()
	r.eventually("the relay has made its partitions", func() bool { return strings.Contains(d.log.String(), "msg=partitions of=outbox") })
	const total = 60
	for i := range total {
		r.order("acme", "o1", i)
		r.exec("UPDATE outbox.events SET created_at = created_at - interval '30 hours' WHERE created_at > now() - interval '1 hour'")
	}
	r.handled()
	id := r.replay(r.subscribe("acme", rec.URL, "*"), 20)
	r.eventually("some are sent", func() bool { return len(rec.arrivals()) > 3 })
	p := outbox.NewPartitions(r.pool(), outbox.PartitionOptions{Interval: 24 * time.Hour})
	moved := int64(0)
	r.eventually("rows are moved", func() bool {
		report, err := p.Maintain(context.Background(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		moved += report.Moved
		return moved > 0
	})
	if s, queued, _, _ := r.replayState(id); s != "RUNNING" || queued == total {
		t.Fatal("moved too late: the test shows nothing")
	}
	r.replayDone(id)
	d.stop()
	if _, queued, skipped, delivered := r.replayState(id); delivered != total || queued != total || skipped != 0 {
		t.Errorf("queued %d, skipped %d, delivered %d of %d", queued, skipped, delivered, total)
	}
}

func TestReplay_WaitsForADisabledSubscriptionAndEndsWithARemovedOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	d := r.start()
	for i := range 10 {
		r.order("acme", "o1", i)
	}
	r.handled()
	sub, gone := r.subscribe("acme", rec.URL, "*"), r.subscribe("acme", rec.URL+"/gone", "*")
	r.exec("UPDATE relay.subscriptions SET active = false")
	id, other := r.replay(sub, 1000), r.replay(gone, 1000)
	r.eventually("both are known", func() bool { return strings.Count(d.log.String(), "msg=replay ") == 2 })
	r.exec("DELETE FROM relay.subscriptions WHERE id = $1", gone)
	r.eventually("that of the removed subscription is over", func() bool {
		return r.number("SELECT count(*) FROM relay.replays WHERE id = $1 AND state = 'CANCELLED' AND detail LIKE '%removed'", other) == 1
	})
	if n := len(rec.arrivals()); n != 0 {
		t.Errorf("%d arrivals at a disabled subscription", n)
	}
	r.exec("UPDATE relay.subscriptions SET active = true")
	r.replayDone(id)
	d.stop()
}

// The place of a row is where it was when its key was read. Here it is another one
// each time.
func TestReplay_LooksForARowThatIsNeverWhereItWas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	d := r.start()
	r.eventually("the relay has made its partitions", func() bool { return strings.Contains(d.log.String(), "msg=partitions of=outbox") })
	const total = 40
	for i := range total {
		r.order("acme", "o1", i)
	}
	r.handled()
	id := r.replay(r.subscribe("acme", rec.URL, "*"), 100)
	for s, _, _, _ := r.replayState(id); s == "RUNNING"; s, _, _, _ = r.replayState(id) {
		r.exec("UPDATE outbox.events SET headers = '{}'") // not published, and every row moves
	}
	d.stop()
	if _, queued, skipped, delivered := r.replayState(id); delivered != total || skipped != 0 {
		t.Errorf("queued %d, skipped %d, delivered %d of %d", queued, skipped, delivered, total)
	}
}

// What a replay has still to read is kept. One that waits for nobody must not keep it
// for ever.
func TestReplay_EndsWhenItsSubscriptionStaysDisabled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	sub := r.subscribe("acme", rec.URL, "*")
	d := r.start()
	for i := range 3 {
		r.order("acme", "o1", i)
	}
	r.eventually("all arrive", func() bool { return len(rec.arrivals()) == 3 })
	r.exec("UPDATE relay.subscriptions SET active = false")
	id := r.replay(sub, 10)
	r.exec("UPDATE relay.replays SET updated_at = now() - interval '25 h'")
	time.Sleep(1500 * time.Millisecond)
	if state, _, _, _ := r.replayState(id); state != deliver.ReplayRunning {
		t.Fatalf("it is %s although its subscription was disabled just now", state)
	}
	r.exec("UPDATE relay.subscriptions SET updated_at = now() - interval '25 h'")
	r.eventually("it is ended, and says why", func() bool {
		return r.number(`SELECT count(*) FROM relay.replays WHERE state = 'CANCELLED'
			AND detail LIKE 'its subscription has been disabled for 24 h; ask for it again%'`) == 1
	})
	r.exec("UPDATE relay.subscriptions SET active = true")
	if again := r.replay(sub, 10); again == id {
		t.Error("it cannot be asked for again")
	}
	r.eventually("they come again", func() bool { return len(rec.arrivals()) == 6 })
	d.stop()
}
