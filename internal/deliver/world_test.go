package deliver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/test/output"
)

const (
	testSlot   = "relay_test"
	testTenant = "acme"
)

var testSecret = output.Secret(nil, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("did not come in %s: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// world is one database with its log of events, which outlives the leaders that
// read it.
type world struct {
	t    testing.TB
	url  string
	pool *pgxpool.Pool
	db   Pool // what the Recorder writes to; pool unless a test bends it
	keys *secret.Keyring
	sink *script

	mu  sync.Mutex
	lsn uint64
	log []*entry
}

// entry is one committed row.
type entry struct {
	tx    *tx
	index int
	f     Flight // without a Ticket
}

// tx is one committed transaction.
type tx struct{ commit, end uint64 }

func newWorld(t testing.TB) *world { return newWorldAt(t, migratetest.NewDatabase(t)) }

// newWorldAt makes a world of a database that has been migrated.
func newWorldAt(t testing.TB, url string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w := &world{t: t, url: url, pool: pool, db: pool, sink: newScript(), lsn: 0x1000000}
	t.Cleanup(func() {
		if len(w.sink.changed) > 0 {
			t.Errorf("bodies changed between attempts: %s", w.names(w.sink.changed))
		}
	})
	w.exec("INSERT INTO relay.progress (slot, system_id, timeline, end_lsn) VALUES ($1, 'sys', 1, '0/1')", testSlot)
	return w
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) count(sql string, args ...any) int {
	w.t.Helper()
	var n int
	if err := w.pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func (w *world) text(sql string, args ...any) string {
	w.t.Helper()
	var s string
	if err := w.pool.QueryRow(context.Background(), sql, args...).Scan(&s); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return s
}

func (w *world) parked() int { w.t.Helper(); return w.count("SELECT count(*) FROM relay.parked") }

func (w *world) ended(st Status) int {
	w.t.Helper()
	return w.count("SELECT count(*) FROM relay.deliveries WHERE status = $1", st)
}

// subscribe adds a subscription of the test tenant to everything.
func (w *world) subscribe(host string) uuid.UUID {
	w.t.Helper()
	return w.subscribeOrdered(host, OrderingKey)
}

func (w *world) subscribeOrdered(host, ordering string) uuid.UUID {
	w.t.Helper()
	var id uuid.UUID
	err := w.pool.QueryRow(context.Background(), `INSERT INTO relay.subscriptions (tenant_id, url, events, secret, ordering)
VALUES ($1, $2, '{*}', $3, $4) RETURNING id`, testTenant, "http://"+host+"/", testSecret, ordering).Scan(&id)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// commit adds a transaction with one row a key to the log.
func (w *world) commit(keys ...string) []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := &tx{commit: w.lsn, end: w.lsn + 64}
	w.lsn += 100
	var out []*entry
	for i, key := range keys {
		e := outbox.Event{TenantID: testTenant, AggregateType: "order", AggregateID: key}
		en := &entry{tx: x, index: i, f: Flight{EventID: uuid.New(), TenantID: testTenant, Type: "payment.received",
			AggregateType: "order", AggregateID: key, Key: e.Key(), CommitLSN: x.commit, Index: i, CommitTime: time.Now()}}
		en.f.Body = fmt.Appendf(nil, `{"id":%q,"key":%q}`, en.f.EventID, key)
		w.log = append(w.log, en)
		out = append(out, en)
	}
	return out
}

// stream is what one leader has read of the log: the Progress of its Recorder.
type stream struct {
	t        testing.TB
	mu       sync.Mutex
	start    Position
	txs      []*readTx
	recorded []Position
	check    func(Position) // of what is confirmed
}

type readTx struct {
	*tx
	rows   []bool
	closed bool
}

type ticket struct {
	s *stream
	x *readTx
	i int
}

func (k ticket) Done() {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if k.x.rows[k.i] {
		k.s.t.Errorf("ticket of row %d of transaction %x is done twice", k.i, k.x.commit)
	}
	k.x.rows[k.i] = true
}

func (s *stream) Finished() (Position, []byte) { return s.Position(), nil }

func (s *stream) Unrecorded() int { return 0 }

func (s *stream) Position() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := Position{End: s.start.End}
	for _, x := range s.txs {
		n := slices.Index(x.rows, false)
		if n < 0 {
			n = len(x.rows)
		}
		if n == len(x.rows) && x.closed {
			p.End = x.end
			continue
		}
		if n > 0 {
			p.Partial, p.Rows = x.commit, n
		}
		break
	}
	return p
}

func (s *stream) Recorded(p Position) {
	s.mu.Lock()
	s.recorded = append(s.recorded, p)
	check := s.check
	s.mu.Unlock()
	if check != nil {
		check(p)
	}
}

func (s *stream) confirmed() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.recorded) == 0 {
		return s.start
	}
	return s.recorded[len(s.recorded)-1]
}

// leader is a running Dispatcher with its Recorder, loader and directory.
type leader struct {
	*world
	stream     *stream
	dir        *Directory
	rec        *Recorder
	p          *Dispatcher
	metrics    *Metrics
	registry   *prometheus.Registry
	cancel     context.CancelFunc
	recCancel  context.CancelFunc
	recStopped chan error
	done       sync.WaitGroup
	once       sync.Once
	epoch      int64

	errMu sync.Mutex
	errs  []error
}

// setting changes how a leader runs.
type setting func(*Options, *RecorderOptions)

func testOptions() (Options, RecorderOptions) {
	return Options{
			Schedule: Schedule{Delays: []time.Duration{0, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms,
				20 * ms, 20 * ms, 20 * ms, 20 * ms}, MaxRetryAfter: time.Hour},
			Timeout: 10 * time.Second, HandoverAfter: 100 * ms, Concurrency: 64, EndpointConcurrency: 8,
			WindowEvents: 1000, WindowBytes: 1 << 20,
			Breaker: BreakerOptions{Failures: 5, FirstProbe: 5 * ms, MaxProbe: 40 * ms},
			Pace:    PaceOptions{FirstPause: 10 * ms, MaxPause: 50 * ms, MinRate: 200},
		}, RecorderOptions{Slot: testSlot, Interval: 5 * ms, Batch: 100, Log: LogAll, LogRetention: time.Hour,
			ProgressInterval: 20 * ms}
}

func (w *world) lead(settings ...setting) *leader {
	w.t.Helper()
	ctx := context.Background()
	opts, ro := testOptions()
	for _, f := range settings {
		f(&opts, &ro)
	}
	l := &leader{world: w, stream: &stream{t: w.t}, dir: NewDirectory(anyURL, identify(nil), w.keys), registry: prometheus.NewRegistry(),
		recStopped: make(chan error, 1)}
	l.metrics = NewMetrics(l.registry, 10)
	var end, partial string
	err := w.pool.QueryRow(ctx, `UPDATE relay.progress SET epoch = epoch + 1, batch = 0 WHERE slot = $1
RETURNING epoch, end_lsn::text, partial_lsn::text, partial_rows`, testSlot).Scan(&l.epoch, &end, &partial, &l.stream.start.Rows)
	if err != nil {
		w.t.Fatal(err)
	}
	l.stream.start.End, l.stream.start.Partial = mustLSN(w.t, end), mustLSN(w.t, partial)
	ro.Epoch = l.epoch
	ro.OnError = func(err error) {
		l.errMu.Lock()
		defer l.errMu.Unlock()
		l.errs = append(l.errs, err)
	}
	settled, err := LoadSettled(ctx, w.pool, testSlot, false)
	if err != nil {
		w.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	l.rec = NewRecorder(ro, w.db, l.stream, l.metrics, log)
	l.p = NewDispatcher(opts, w.sink, l.rec, settled, l.metrics, log)
	if _, _, err := l.dir.Load(ctx, w.pool); err != nil {
		w.t.Fatal(err)
	}
	if err := l.p.Restore(ctx, w.pool, l.dir); err != nil {
		w.t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx)
	l.cancel = cancel
	recRun, recCancel := context.WithCancel(ctx)
	l.recCancel = recCancel
	l.done.Go(func() { _ = l.p.Run(run) })
	l.done.Go(func() { _ = l.p.RunLoader(run, w.pool, func(error) {}) })
	l.done.Go(func() { l.recStopped <- l.rec.Run(recRun) })
	w.t.Cleanup(l.kill)
	return l
}

func mustLSN(t testing.TB, s string) uint64 {
	t.Helper()
	v, err := pglogrepl.ParseLSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return uint64(v)
}

// take admits entries, which must be whole transactions in the order of the log.
func (l *leader) take(entries ...*entry) {
	l.t.Helper()
	if err := l.tryTake(context.Background(), entries...); err != nil {
		l.t.Fatal(err)
	}
}

func (l *leader) tryTake(ctx context.Context, entries ...*entry) error {
	for i, e := range entries {
		l.stream.mu.Lock()
		var x *readTx
		if n := len(l.stream.txs); n > 0 && l.stream.txs[n-1].tx == e.tx {
			x = l.stream.txs[n-1]
		} else {
			x = &readTx{tx: e.tx}
			l.stream.txs = append(l.stream.txs, x)
		}
		x.rows = append(x.rows, false)
		l.stream.mu.Unlock()
		k := ticket{l.stream, x, len(x.rows) - 1}
		if l.stream.start.covers(e.tx.commit, e.index) {
			k.Done()
		} else {
			f := e.f
			f.Ticket = k
			if err := l.p.Admit(ctx, &f, l.dir.Match(f.TenantID, f.Type)); err != nil {
				return err
			}
		}
		if i == len(entries)-1 || entries[i+1].tx != e.tx {
			l.stream.mu.Lock()
			x.closed = true
			l.stream.mu.Unlock()
			l.rec.Nudge()
		}
	}
	return nil
}

// send commits one transaction a key and takes it.
func (l *leader) send(keys ...string) []*entry {
	l.t.Helper()
	var out []*entry
	for _, k := range keys {
		out = append(out, l.commit(k)...)
	}
	l.take(out...)
	return out
}

// replay takes the log again from the recorded position, as a stream does.
func (l *leader) replay() {
	l.t.Helper()
	l.world.mu.Lock()
	log := slices.Clone(l.world.log)
	l.world.mu.Unlock()
	for _, e := range log {
		if e.tx.commit >= l.stream.start.End {
			l.take(e)
		}
	}
}

// refresh tells the leader of a changed subscription.
func (l *leader) refresh(id uuid.UUID) {
	l.t.Helper()
	changed, removed, err := l.dir.Refresh(context.Background(), l.pool, id)
	if err != nil {
		l.t.Fatal(err)
	}
	if changed != nil {
		l.p.Changed(changed)
	}
	if removed != nil {
		l.p.Removed(removed)
	}
}

func (l *leader) setActive(id uuid.UUID, active bool) {
	l.t.Helper()
	l.exec("UPDATE relay.subscriptions SET active = $2, updated_at = clock_timestamp() WHERE id = $1", id, active)
	l.refresh(id)
}

// stop ends the leader in order: what is on the wire gets d.
func (l *leader) stop(d time.Duration) {
	l.t.Helper()
	l.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		l.p.Drain(ctx)
		l.rec.Stop()
		if err := <-l.recStopped; err != nil {
			l.t.Errorf("recorder: %v", err)
		}
		l.recCancel()
		l.cancel()
		l.done.Wait()
	})
}

// kill ends the leader as a crash does: what is not recorded is lost.
func (l *leader) kill() {
	l.once.Do(func() {
		l.recCancel()
		l.cancel()
		l.p.Abort()
		l.done.Wait()
	})
}

// quiet waits until everything that was taken is recorded and confirmed.
func (l *leader) quiet() {
	l.t.Helper()
	l.world.mu.Lock()
	end := l.world.log[len(l.world.log)-1].tx.end
	l.world.mu.Unlock()
	eventually(l.t, "everything is confirmed", func() bool { return l.stream.confirmed().End == end && l.rec.Idle() })
}

func (l *leader) errorCount() int {
	l.errMu.Lock()
	defer l.errMu.Unlock()
	return len(l.errs)
}

func ids(entries ...*entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.f.EventID.String())
	}
	return out
}

// arrived waits until a host has taken exactly these events, in this order.
func (w *world) arrived(host string, entries ...*entry) {
	w.t.Helper()
	want := ids(entries...)
	eventually(w.t, fmt.Sprintf("%d events at %s", len(want), host), func() bool { return len(w.sink.took(host)) >= len(want) })
	if got := w.sink.took(host); !slices.Equal(got, want) {
		w.t.Fatalf("%s took %s, want %s", host, w.names(got), w.names(want))
	}
}

// names turns event ids into places in the log.
func (w *world) names(ids []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, id := range ids {
		for i, e := range w.log {
			if e.f.EventID.String() == id {
				out = append(out, fmt.Sprintf("%d:%s", i, e.f.AggregateID))
			}
		}
	}
	return out
}

// inKeyOrder checks that a host has taken each entry once and those of a key in
// the order of the log.
func (w *world) inKeyOrder(host string, entries ...*entry) {
	w.t.Helper()
	took := w.sink.took(host)
	place := make(map[string]int)
	for i, id := range took {
		if _, twice := place[id]; twice {
			w.t.Errorf("%s took %s twice", host, w.names([]string{id}))
		}
		place[id] = i
	}
	last := make(map[string]int)
	for _, e := range entries {
		at, ok := place[e.f.EventID.String()]
		if !ok {
			w.t.Errorf("%s did not take %s", host, w.names(ids(e)))
			continue
		}
		if before, ok := last[e.f.AggregateID]; ok && at < before {
			w.t.Errorf("%s took %s before its predecessor", host, w.names(ids(e)))
		}
		last[e.f.AggregateID] = at
	}
}
