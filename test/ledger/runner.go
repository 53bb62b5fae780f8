package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/test/ledger/check"
	"github.com/outbox-relay/relay/test/ledger/history"
)

// options say what is run.
type options struct {
	Seed    uint64
	For     time.Duration // how long writers write
	Kills   int           // they go on until there were so many kills, at most four times as long
	Profile profile
	Binary  string
	Dir     string  // of the report
	Rate    float64 // events a second
	Writers int
	Keys    int // of each tenant
	Drain   time.Duration
	Defect  string // planted into the relay
	BinDir  string // of PostgreSQL; empty: as pgcluster finds it
	Log     func(format string, args ...any)
}

// Settings of the relays, and what follows from them.
const (
	slot          = "ledger"
	attemptFor    = 3 * time.Second
	senderTimeout = 5 * time.Second
	inFlight      = 256
	// repeatWindow is the recording interval of 200 ms, the hand-over of 1 s that an answer may have waited for, and the
	// time that a busy machine takes to write.
	repeatWindow = 3 * time.Second
)

// runner is one run: a server, writers, receivers, relays, and what they write down.
type runner struct {
	opts    options
	dir     string
	cluster *pgcluster.Cluster
	server  string // address of PostgreSQL
	url     string // the database, for all but the relays
	config  string // file that the relays read
	pool    *pgxpool.Pool
	recv    *receiver
	units   []*unit
	began   history.Moment

	transactions, actions, exits, samples *history.Journal
	lastCommit                            atomic.Int64 // where the WAL was then
	kills                                 atomic.Int64
	peakMemory                            atomic.Int64 // of the largest relay, in bytes

	mu     sync.Mutex
	subs   []history.Subscription
	bad    []string
	faults []string
}

// run makes one run and judges it. An error means that the run itself could not be made.
func run(ctx context.Context, o options) (*check.Result, error) {
	r := &runner{opts: o, dir: o.Dir}
	err := r.make(ctx)
	err = errors.Join(err, r.close())
	if err != nil {
		return nil, err
	}
	h, err := history.Load(r.dir)
	if err != nil {
		return nil, err
	}
	return check.Check(h), nil
}

// note keeps what goes wrong with the run itself.
func (r *runner) note(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, err.Error())
}

func (r *runner) badOutput(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) < 20 {
		r.bad = append(r.bad, text)
	}
}

func (r *runner) make(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	r.began = history.Now()
	r.units[0].start()
	if r.opts.Profile.Standby {
		r.units[1].start()
	}
	writing, stopWriters := context.WithTimeout(ctx, 4*r.opts.For)
	defer stopWriters()
	sampling, stopSampler := context.WithCancel(ctx)
	defer stopSampler()
	var writers, sampler sync.WaitGroup
	sampler.Go(func() { r.sample(sampling) })
	if !r.awaitReady(ctx, time.Minute) {
		return fmt.Errorf("no relay was ready within a minute; see %s", r.dir)
	}
	for i := range r.opts.Writers {
		w := &writer{r: r, id: i, random: rand.New(rand.NewPCG(r.opts.Seed, uint64(100+i)))}
		writers.Go(func() { w.run(writing) })
	}
	enough := time.AfterFunc(r.opts.For, func() {
		for r.kills.Load() < int64(r.opts.Kills) && writing.Err() == nil {
			wait(writing, 50*time.Millisecond)
		}
		stopWriters()
	})
	defer enough.Stop()
	n := &nemesis{r: r, random: rand.New(rand.NewPCG(r.opts.Seed, 1)), marks: &marks{busy: make(map[string]bool)}}
	n.run(writing)
	writers.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	end := r.drain(ctx)
	stopSampler()
	sampler.Wait()
	return r.dump(ctx, end)
}

// prepare makes everything but the writers.
func (r *runner) prepare(ctx context.Context) error {
	var err error
	if r.cluster, err = pgcluster.Start(ctx, pgcluster.Options{BinDir: r.opts.BinDir, Settings: map[string]string{
		"wal_sender_timeout": senderTimeout.String(), "max_prepared_transactions": "10",
		"max_connections": "60", // few enough to be taken by others within a second
	}}); err != nil {
		return err
	}
	r.server = fmt.Sprintf("127.0.0.1:%d", r.cluster.Port())
	if r.url, err = r.cluster.CreateDatabase(ctx, "ledger"); err != nil {
		return err
	}
	if _, err := migrate.Up(ctx, r.url); err != nil {
		return err
	}
	if r.pool, err = pgxpool.New(ctx, r.url); err != nil {
		return err
	}
	if _, err := r.pool.Exec(ctx, ledgerSchema); err != nil {
		return fmt.Errorf("make the shadow tables: %w", err)
	}
	var names, keys []string
	for _, t := range tenants {
		for i := range r.opts.Keys {
			names, keys = append(names, t.name), append(keys, keyName(i))
		}
	}
	if _, err := r.pool.Exec(ctx, "INSERT INTO ledger.keys SELECT * FROM unnest($1::text[], $2::text[])", names, keys); err != nil {
		return fmt.Errorf("make the keys: %w", err)
	}
	for _, j := range []struct {
		to   **history.Journal
		name string
	}{{&r.transactions, history.FileTransactions}, {&r.actions, history.FileActions}, {&r.exits, history.FileExits},
		{&r.samples, history.FileSamples}} {
		if *j.to, err = history.OpenJournal(r.dir, j.name); err != nil {
			return err
		}
	}
	if r.recv, err = newReceiver(r.dir, r.opts.Seed, r.note); err != nil {
		return err
	}
	r.config = filepath.Join(r.dir, "relay.yaml")
	if err := r.writeConfig(0); err != nil {
		return err
	}
	for _, name := range []string{"a", "b"} {
		u, err := newUnit(r, name)
		if err != nil {
			return err
		}
		r.units = append(r.units, u)
	}
	return r.subscribeAll(ctx)
}

// subscribeAll adds the subscriptions that stay.
func (r *runner) subscribeAll(ctx context.Context) error {
	for _, s := range []history.Subscription{
		{Name: "acme-all", Tenant: "acme", Events: []string{"*"}, Ordering: "key"},
		{Name: "acme-confirmed", Tenant: "acme", Events: []string{"sales_order.confirmed"}, Ordering: "key"},
		{Name: "acme-unordered", Tenant: "acme", Events: []string{"sales_order.*"}, Ordering: "none"},
		{Name: "globex-all", Tenant: "globex", Events: []string{"*"}, Ordering: "key"},
		{Name: "globex-flaky", Tenant: "globex", Events: []string{"payment.*", "sales_order.created"}, Ordering: "key"},
		{Name: "mueller-all", Tenant: "Müller & <Söhne>", Events: []string{"sales_order.*", "payment.received"}, Ordering: "key"},
		{Name: "nobody", Tenant: "nobody", Events: []string{"*"}, Ordering: "key"},
	} {
		if err := r.subscribe(ctx, s); err != nil {
			return err
		}
	}
	r.recv.set("globex-flaky", flaky)
	return nil
}

// flaky fails every now and then, for the whole of the run.
var flaky = mood{name: "flaky", status: 503, share: 0.03}

// subscribe adds a subscription, until the database has it for certain.
func (r *runner) subscribe(ctx context.Context, s history.Subscription) error {
	s.ID = uuid.NewString()
	err := r.untilDone(ctx, `INSERT INTO relay.subscriptions (id, tenant_id, url, events, secret, ordering)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, s.ID, s.Tenant, r.recv.url(s.Name), s.Events, secret, s.Ordering)
	if err != nil {
		return fmt.Errorf("add subscription: %w", err)
	}
	s.Added = history.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subs = append(r.subs, s)
	return nil
}

// untilDone runs a statement that may be run twice, until PostgreSQL has taken it.
func (r *runner) untilDone(ctx context.Context, sql string, args ...any) error {
	for try := 0; ; try++ {
		_, err := r.pool.Exec(ctx, sql, args...)
		if err == nil || ctx.Err() != nil || try == 50 {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// writeConfig writes the file that relays read again at SIGHUP; each generation is another valid one.
func (r *runner) writeConfig(generation int) error {
	text := fmt.Sprintf("version: 1\nlog:\n  level: %s\ndeliver:\n  endpoint_concurrency: %d\n",
		[]string{"info", "debug"}[generation%2], 8+generation%5)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// env is the environment of a relay that reaches PostgreSQL at an address.
func (r *runner) env(address string) []string {
	u, err := url.Parse(r.url)
	if err != nil {
		panic(err) // pgcluster made it
	}
	u.Host = address
	const schedule = "0s,100ms,200ms,200ms,500ms,500ms" // then by the second: an outage is shorter than all of it
	env := []string{
		"RELAY_CONFIG=" + r.config, "RELAY_DATABASE_URL=" + u.String(), "RELAY_CDC_SLOT=" + slot,
		"RELAY_HTTP_LISTEN=127.0.0.1:0", "RELAY_EGRESS_ALLOW=127.0.0.0/8", "RELAY_EGRESS_REQUIRE_HTTPS=false", "RELAY_LOG_FORMAT=json",
		"RELAY_DELIVER_RETRY_SCHEDULE=" + schedule + strings.Repeat(",1s", 60), "RELAY_DELIVER_TIMEOUT=" + attemptFor.String(),
		"RELAY_DELIVER_HANDOVER_AFTER=1s", "RELAY_DELIVER_CONNECT_TIMEOUT=1s", fmt.Sprintf("RELAY_DELIVER_CONCURRENCY=%d", inFlight),
		"RELAY_CDC_STATUS_INTERVAL=1s", "RELAY_CDC_SILENCE_TIMEOUT=6s", "RELAY_CDC_PROGRESS_INTERVAL=2s",
		"RELAY_CDC_MARKER_INTERVAL=1s",
	}
	env = append(env, r.opts.Profile.Env...)
	if r.opts.Defect != "" {
		env = append(env, "RELAY_DEFECT="+r.opts.Defect)
	}
	return env
}

// awaitReady waits until a relay is ready.
func (r *runner) awaitReady(ctx context.Context, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if slices.ContainsFunc(r.units, func(u *unit) bool { return u.ready(ctx) }) {
			return true
		}
	}
	return ctx.Err() != nil // a run that is ended has no opinion
}

// leader is the unit that has the term, nil when none does.
func (r *runner) leader(ctx context.Context) *unit {
	for _, u := range r.units {
		if u.leads(ctx) {
			return u
		}
	}
	return nil
}

func (r *runner) close() error {
	for _, u := range r.units {
		u.close()
	}
	var errs []error
	if r.recv != nil {
		errs = append(errs, r.recv.close())
	}
	for _, j := range []*history.Journal{r.transactions, r.actions, r.exits, r.samples} {
		if j != nil {
			errs = append(errs, j.Close())
		}
	}
	if r.pool != nil {
		r.pool.Close()
	}
	if r.cluster != nil {
		errs = append(errs, r.cluster.Close())
	}
	return errors.Join(errs...)
}
