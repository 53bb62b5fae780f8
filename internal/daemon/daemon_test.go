package daemon_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/test/output"
)

func TestMain(m *testing.M) {
	pgtest.Main(m, pgtest.NoLeaks(goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop")))
}

var testSecret = output.Secret(nil, "test-secret-key")

// arrival is one request that a receiver got.
type arrival struct {
	ID, Type string
	Body     string
	At       time.Time
}

// receiver answers webhooks and remembers them.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []arrival
	bad    []string
	answer func(a arrival, n int) int
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		a := arrival{ID: req.Header.Get("webhook-id"), Type: req.Header.Get("X-Event-Type"), Body: string(body), At: time.Now()}
		r.mu.Lock()
		if err := signature.Verify([]string{testSecret}, req.Header, body, time.Now(), signature.Tolerance); err != nil {
			r.bad = append(r.bad, err.Error())
		}
		r.got = append(r.got, a)
		n, answer := len(r.got), r.answer
		r.mu.Unlock()
		code := http.StatusOK
		if answer != nil {
			code = answer(a, n)
		}
		w.WriteHeader(code)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) setAnswer(f func(arrival, int) int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

func (r *receiver) arrivals() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]arrival(nil), r.got...)
}

func (r *receiver) mustVerify(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) > 0 {
		t.Errorf("%d requests did not verify: %s", len(r.bad), r.bad[0])
	}
}

// rig is a migrated database, a configuration, and a way to run a daemon on it.
type rig struct {
	t    *testing.T
	url  string
	conn *pgx.Conn
	env  []string
	keep int // transactions that the audit keeps, 0 for its own bound

	reload func() (*config.Config, error) // nil: the configuration cannot change
}

func newRig(t *testing.T, env ...string) *rig {
	t.Helper()
	return newRigAt(t, migratetest.NewDatabase(t), env...)
}

// newRigOn migrates a database.
func newRigOn(t *testing.T, url string, env ...string) *rig {
	t.Helper()
	if _, err := migrate.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	return newRigAt(t, url, env...)
}

// newRigAt takes a database that has been migrated.
func newRigAt(t *testing.T, url string, env ...string) *rig {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	slot := "r" + strings.ReplaceAll(strings.ToLower(conn.Config().Database), "-", "_")
	return &rig{t: t, url: url, conn: conn, env: append([]string{
		"RELAY_DATABASE_URL=" + url, "RELAY_CDC_SLOT=" + slot, "RELAY_HTTP_LISTEN=127.0.0.1:0",
		"RELAY_EGRESS_ALLOW=127.0.0.0/8", "RELAY_EGRESS_REQUIRE_HTTPS=false",
		"RELAY_DELIVER_RETRY_SCHEDULE=0s,100ms,100ms,200ms,200ms,500ms,500ms,1s,1s,1s,1s,1s,1s,1s,1s",
		"RELAY_DELIVER_TIMEOUT=3s", "RELAY_DELIVER_HANDOVER_AFTER=500ms", "RELAY_DELIVER_CONNECT_TIMEOUT=1s",
		"RELAY_DELIVER_RECORD_INTERVAL=50ms",
	}, env...)}
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	if _, err := r.conn.Exec(context.Background(), sql, args...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) number(sql string, args ...any) int {
	r.t.Helper()
	var n int
	if err := r.conn.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (r *rig) subscribe(tenant, url string, events ...string) string {
	r.t.Helper()
	var id string
	if err := r.conn.QueryRow(context.Background(),
		"INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES ($1, $2, $3, $4) RETURNING id::text",
		tenant, url, events, testSecret).Scan(&id); err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) order(tenant, id string, n int) {
	r.t.Helper()
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'sales_order', $2,
		'sales_order.confirmed', json_build_object('order_id', $2::text, 'order_number', $3::text, 'amount', '1500.00', 'currency', 'EUR'))`,
		tenant, id, fmt.Sprint(n))
}

// running is a daemon at work.
type running struct {
	*daemon.Daemon
	stop func()
	log  *output.Buffer
}

func (r *rig) start() *running {
	r.t.Helper()
	d := r.launch()
	r.eventually("the daemon streams", func() bool { return d.Status().Ready })
	return d
}

func (r *rig) launch() *running {
	r.t.Helper()
	cfg, err := config.Load(config.LoadOptions{Environ: r.env})
	if err != nil {
		r.t.Fatal(err)
	}
	buf := output.New(r.t, "the daemon")
	log := slog.New(slog.NewTextHandler(buf, &slog.HandlerOptions{Level: slog.LevelDebug}))
	d, err := daemon.New(daemon.Options{Config: cfg, Log: log, Version: "test", AuditKeeps: r.keep, Reload: r.reload})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					r.t.Errorf("daemon: %v", err)
				}
			case <-time.After(patience):
				r.t.Error("the daemon did not stop")
			}
			if r.t.Failed() {
				r.t.Log(buf.String())
			}
		})
	}
	r.t.Cleanup(stop)
	return &running{Daemon: d, stop: stop, log: buf}
}

// patience is how long a condition is waited for: it ends a test that would hang, and says nothing of speed.
const patience = 90 * time.Second

func (r *rig) eventually(what string, f func() bool) {
	r.t.Helper()
	r.eventuallyWithin(patience, what, f)
}

func (r *rig) eventuallyWithin(limit time.Duration, what string, f func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(limit)
	for !f() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestDaemon_DeliversACommittedRowSigned(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "sales_order.*")
	d := r.start()
	r.order("acme", "o1", 1)
	r.order("other", "o1", 1) // another tenant's: nobody wants it
	r.eventually("the row arrives", func() bool { return len(rec.arrivals()) == 1 })
	a := rec.arrivals()[0]
	if a.Type != "sales_order.confirmed" || !strings.Contains(a.Body, `"amount" : "1500.00"`) {
		t.Errorf("got %+v", a)
	}
	r.eventually("the delivery is recorded", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED' AND attempts = 1") == 1
	})
	rec.mustVerify(t)
	d.stop()
	if n := len(rec.arrivals()); n != 1 {
		t.Errorf("%d arrivals, want 1", n)
	}
}

func TestDaemon_RepeatsNothingAfterACleanStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	for round := range 3 {
		d := r.start()
		for i := range 100 {
			r.order("acme", fmt.Sprint("o", i%7), round*100+i)
		}
		r.eventually("all arrive", func() bool { return len(rec.arrivals()) >= (round+1)*100 })
		d.stop()
	}
	if n := len(rec.arrivals()); n != 300 {
		t.Errorf("%d arrivals, want 300", n)
	}
}

func TestDaemon_DeliversRowsFromBeforeItsFirstStart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	for i := range 50 {
		r.order("acme", "same", i)
	}
	d := r.start()
	r.order("acme", "same", 50)
	r.eventually("all arrive", func() bool { return len(rec.arrivals()) >= 51 })
	d.stop()
	d = r.start()
	r.order("acme", "same", 51)
	r.eventually("the last arrives", func() bool { return len(rec.arrivals()) >= 52 })
	d.stop()
	for i, a := range rec.arrivals() {
		if want := fmt.Sprintf(`"order_number" : "%d"`, i); !strings.Contains(a.Body, want) {
			t.Fatalf("arrival %d is %s", i, a.Body)
		}
	}
}

func TestDaemon_KeepsOrderThroughAnOutageOfTheReceiver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	rec.setAnswer(func(arrival, int) int { return 503 })
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	const keys, each = 5, 40
	for i := range each {
		for k := range keys {
			r.order("acme", fmt.Sprint("k", k), i)
		}
	}
	lag := func() int {
		return r.number("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::int FROM pg_replication_slots WHERE database = current_database()")
	}
	r.eventually("everything is parked", func() bool { return r.number("SELECT count(*) FROM relay.parked") == keys*each })
	r.eventually("the slot moves although the endpoint is down", func() bool { return lag() < 100_000 })
	before := len(rec.arrivals())
	rec.setAnswer(nil)
	defer func() {
		if t.Failed() {
			t.Log("dead", r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DEAD'"), "delivered", r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'"), "parked", r.number("SELECT count(*) FROM relay.parked"), "due", r.number("SELECT count(*) FROM relay.parked where next_attempt_at<now()"), "heads", r.number("SELECT count(*) FROM relay.parked where next_attempt_at is not null"))
			t.Logf("%+v", d.Status())
		}
	}()
	r.eventually("all are delivered", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == keys*each
	})
	d.stop()
	next := map[string]int{}
	for _, a := range rec.arrivals()[before:] {
		var key string
		var n int
		i := strings.Index(a.Body, `"order_id" : "`)
		if _, err := fmt.Sscanf(a.Body[i:], `"order_id" : "%2s", "order_number" : "%d"`, &key, &n); err != nil {
			t.Fatalf("%s: %v", a.Body, err)
		}
		if n > next[key] {
			t.Fatalf("key %s: got %d, expected %d", key, n, next[key])
		}
		if n == next[key] {
			next[key]++
		}
	}
	for k, n := range next {
		if n != each {
			t.Errorf("key %s: %d of %d", k, n, each)
		}
	}
	if n := r.number("SELECT count(*) FROM relay.parked"); n != 0 {
		t.Errorf("%d rows stay parked", n)
	}
}

// A small window, a short hand-over and an endpoint that is slow and fails at
// random send most deliveries through the table and back.
func TestDaemon_LosesNothingOnTheWayThroughTheTable(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_DELIVER_WINDOW_EVENTS=100", "RELAY_DELIVER_HANDOVER_AFTER=30ms",
		"RELAY_DELIVER_RETRY_SCHEDULE="+strings.Repeat("0s,10ms,", 30)+"1s")
	rec := newReceiver(t)
	rec.setAnswer(func(_ arrival, n int) int {
		switch {
		case n%97 == 0:
			time.Sleep(60 * time.Millisecond) // slower than the hand-over
		case n%7 == 0:
			return 500
		}
		return 200
	})
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	const total = 6000
	r.exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o' || i %% 300,
		'sales_order.confirmed', json_build_object('order_id', 'o' || i %% 300, 'order_number', i::text, 'amount', '1500.00', 'currency', 'EUR'));
		COMMIT; END LOOP; END $$`, total))
	delivered := func() int {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'")
	}
	last, since := 0, time.Now()
	r.eventuallyWithin(5*time.Minute, "all are delivered", func() bool {
		n := delivered()
		if n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > patience {
			t.Fatalf("delivery stands still at %d of %d; %d parked, %d due, %d heads; %+v", n, total,
				r.number("SELECT count(*) FROM relay.parked"), r.number("SELECT count(*) FROM relay.parked WHERE next_attempt_at < now()"),
				r.number("SELECT count(*) FROM relay.parked WHERE next_attempt_at IS NOT NULL"), d.Status())
		}
		return n == total
	})
	d.stop()
	if n := r.number("SELECT count(*) FROM relay.parked"); n != 0 {
		t.Errorf("%d rows stay parked", n)
	}
}
