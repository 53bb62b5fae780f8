package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/outbox-relay/relay/examples/backoffice"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/postgres"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
)

// Options are the knobs of Run.
type Options struct {
	Out       io.Writer
	ExitAfter time.Duration // 0: until ctx ends
	Every     time.Duration // time between two calls of the example modules; 0: none
	Version   string
	LogLevel  slog.Level
}

// ErrIncomplete is returned when a committed event did not arrive, or a webhook
// did not verify.
var ErrIncomplete = errors.New("not every committed event arrived and verified")

// database is the name of the throw-away database.
const database = "shop"

// show is the demonstration's terminal.
type show struct {
	mu  sync.Mutex
	out io.Writer
}

func (s *show) say(at time.Time, what, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, "%s  %-8s %s\n", at.Format("15:04:05.000"), what, fmt.Sprintf(format, args...))
}

func (s *show) text(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format, args...)
}

// Run starts everything, shows what happens, and takes all of it down again.
func Run(ctx context.Context, o Options) (err error) {
	term := &show{out: o.Out}
	term.text("Starting a throw-away PostgreSQL ...\n")
	cluster, err := pgcluster.Start(ctx, pgcluster.Options{Fsync: true, Settings: map[string]string{"track_commit_timestamp": "on"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	url, err := cluster.CreateDatabase(ctx, database)
	if err != nil {
		return err
	}
	if _, err := migrate.Up(ctx, url); err != nil {
		return err
	}
	pool, err := postgres.Open(ctx, url, postgres.Options{Application: "relay dev"})
	if err != nil {
		return err
	}
	defer pool.Close()
	signing := signature.NewSecret()
	hooks, err := newReceiver(signing)
	if err != nil {
		return err
	}
	keys, err := newKeys()
	if err != nil {
		return err
	}
	if err := subscribe(ctx, pool, keys, hooks.url(ownPath), signing); err != nil {
		return err
	}
	_, bearer, err := token.Store{DB: pool}.Create(ctx, token.RoleTenantWrite, demoTenant, "relay dev", time.Time{})
	if err != nil {
		return err
	}
	if err := backoffice.Migrate(ctx, pool); err != nil {
		return err
	}
	api := backoffice.New(backoffice.Options{Pool: pool, Tokens: map[string]string{demoToken: demoTenant}, ProviderSecret: providerSecret}).Handler()
	relay, err := newRelay(url, keys, o)
	if err != nil {
		return err
	}
	d := &demo{o: o, term: term, pool: pool, hooks: hooks, api: api, relay: relay}
	if d.listener, err = listenNear(8080); err != nil {
		return err
	}
	d.intro(url, bearer.Reveal())
	return d.run(ctx)
}

// newKeys makes the keyset that seals the secret of the demo's subscription, as in production.
func newKeys() (secret.Secret, error) {
	set, err := secret.GenerateKeyset()
	if err != nil {
		return secret.Secret{}, err
	}
	return set.Text()
}

func subscribe(ctx context.Context, pool *pgxpool.Pool, keys secret.Secret, url, signing string) error {
	ring, err := secret.NewKeyring(keys)
	if err != nil {
		return err
	}
	sub := deliver.NewSubscription(demoTenant, url, []string{"*"}, signing)
	sub.Description = "relay dev"
	return deliver.Subscriptions{DB: pool, Keys: ring}.Add(ctx, sub)
}

func newRelay(url string, keys secret.Secret, o Options) (*daemon.Daemon, error) {
	l, err := listenNear(8000) // finds out whether the usual port is free
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	_ = l.Close()
	cfg, err := config.Load(config.LoadOptions{Environ: []string{"RELAY_DATABASE_URL=" + url, "RELAY_SECRETS_KEY=" + keys.Reveal(), "RELAY_HTTP_LISTEN=" + addr,
		"RELAY_EGRESS_ALLOW=127.0.0.0/8", "RELAY_EGRESS_REQUIRE_HTTPS=false",
		"RELAY_DELIVER_RETRY_SCHEDULE=0s,500ms,1s,2s,5s,10s,30s,1m,5m"}})
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel}))
	return daemon.New(daemon.Options{Config: cfg, Log: log, Version: o.Version})
}

// listenNear takes the usual port when it is free, and else any.
func listenNear(port int) (net.Listener, error) {
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		return l, nil
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// demo is everything that runs.
type demo struct {
	o        Options
	term     *show
	pool     *pgxpool.Pool
	hooks    *receiver
	api      http.Handler
	relay    *daemon.Daemon
	listener net.Listener

	latencies []time.Duration // belongs to narrate
}

func (d *demo) intro(url, bearer string) {
	psql := fmt.Sprintf("psql '%s'", url)
	d.term.text(`
  database   %s
  relay      http://%s/metrics   /readyz   /status
  tenant API http://%s/docs   (Authorization: Bearer %s)
  backoffice http://%s   (Authorization: Bearer %s)
  receiver   %s   verifies every signature, with the secret %s

  Insert a row yourself, in another terminal, and watch it arrive here:

  %s -c "INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('%s', 'payment', 'pay_me', 'payment.received', '{\"payment_id\":\"pay_me\",\"invoice_id\":\"inv_1\",\"amount\":1500.00,\"currency\":\"EUR\"}')"

  docs/tutorial.md walks through the tenant API; before it, in another terminal:

  export DEMO_RELAY=http://%s DEMO_SHOP=http://%s DEMO_TOKEN=%s DEMO_RECEIVER=%s DEMO_SECRET=%s

  Ctrl-C ends it and removes everything.

`, url, d.relay.Addr(), d.relay.Addr(), bearer, d.listener.Addr(), demoToken, d.hooks.url(guestPath), d.hooks.secret, psql, demoTenant,
		d.relay.Addr(), d.listener.Addr(), bearer, d.hooks.url(guestPath), d.hooks.secret)
}

// run ends with the first that fails, with ctx, or with the time that was asked
// for; then it waits for what is on its way and checks the books.
func (d *demo) run(ctx context.Context) error {
	working, stopWork := context.WithCancel(ctx)
	defer stopWork()
	serving, stopServe := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServe()
	back, failed := errgroup.WithContext(serving)
	relayRuns, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRelay()
	back.Go(func() error { return d.relay.Run(relayRuns) })
	back.Go(func() error { return d.hooks.Run(serving) })
	back.Go(func() error { return d.serveAPI(serving) })
	back.Go(func() error { return d.narrate(serving) })
	if d.o.Every > 0 {
		calls := &traffic{api: d.api, say: func(f string, a ...any) { d.term.say(time.Now(), "call", f, a...) }}
		back.Go(func() error { return calls.Run(working, d.o.Every) })
	}
	var timeUp <-chan time.Time
	if d.o.ExitAfter > 0 {
		timeUp = time.After(d.o.ExitAfter)
	}
	select {
	case <-ctx.Done():
	case <-timeUp:
	case <-failed.Done():
	}
	stopWork()
	missing := []string(nil)
	var err error
	if failed.Err() == nil {
		missing, err = d.settle(context.WithoutCancel(ctx))
	}
	stopRelay()
	stopServe()
	if werr := back.Wait(); werr != nil && !errors.Is(werr, context.Canceled) {
		return errors.Join(werr, err)
	}
	return errors.Join(err, d.verdict(missing))
}

func (d *demo) serveAPI(ctx context.Context) error {
	s := &http.Server{Handler: d.api, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(d.listener) }()
	<-ctx.Done()
	_ = s.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve backoffice: %w", err)
	}
	return nil
}

// narrate tells of each event: when its row was committed, by PostgreSQL's own
// record, and when its webhook arrived.
func (d *demo) narrate(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-d.hooks.arrived:
			d.tell(ctx, a)
		}
	}
}

func (d *demo) tell(ctx context.Context, a arrival) {
	whose := ""
	if a.guest {
		whose = " at a subscription of yours"
	}
	if a.verified != nil {
		d.term.say(a.at, "webhook", "REFUSED%s: %s", whose, a.verified)
		return
	}
	committed, key, err := d.row(ctx, a.id)
	if err != nil {
		d.term.say(a.at, "webhook", "%-21s %s arrived%s, verified", a.kind, a.id, whose)
		return
	}
	took := a.at.Sub(committed)
	again := ""
	switch {
	case a.first:
		d.latencies = append(d.latencies, took)
		d.term.say(committed, "row", "%-21s %s committed", a.kind, key)
	case !a.guest:
		again = " again"
	}
	d.term.say(a.at, "webhook", "%-21s %s arrived%s%s, signature verified, %.1f ms after the commit", a.kind, key, again, whose, took.Seconds()*1000)
}

// row is when the row of an event was committed, and its aggregate. A webhook may
// arrive a moment before queries see its row.
func (d *demo) row(ctx context.Context, id string) (committed time.Time, key string, err error) {
	for range 50 {
		err = d.pool.QueryRow(ctx, `SELECT pg_xact_commit_timestamp(xmin), aggregate_id FROM outbox.events WHERE id = $1`, id).Scan(&committed, &key)
		if !errors.Is(err, pgx.ErrNoRows) {
			break
		}
		select {
		case <-ctx.Done():
			return committed, key, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return committed, key, err
}

// settle waits until every committed event of the tenant has arrived, and
// returns the ids of those that have not within a minute.
func (d *demo) settle(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	deadline := time.Now().Add(time.Minute)
	for {
		rows, err := d.pool.Query(ctx, `SELECT e.id::text FROM outbox.events e WHERE e.tenant_id = $1
			AND NOT EXISTS (SELECT FROM relay.quarantine q WHERE q.event_id = e.id::text)`, demoTenant)
		if err != nil {
			return nil, fmt.Errorf("count committed rows: %w", err)
		}
		var missing []string
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return nil, fmt.Errorf("count committed rows: %w", err)
			}
			if !d.hooks.has(id) {
				missing = append(missing, id)
			}
		}
		if err := rows.Err(); err != nil {
			return nil, fmt.Errorf("count committed rows: %w", err)
		}
		if len(missing) == 0 || time.Now().After(deadline) {
			return missing, nil
		}
		select {
		case <-ctx.Done():
			return missing, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *demo) verdict(missing []string) error {
	events, repeats, bad := d.hooks.tally()
	d.term.text("\n%d events committed, %d arrived and verified, %d repeats, %d refused", events+len(missing), events, repeats, bad)
	if n := len(d.latencies); n > 0 {
		slices.Sort(d.latencies)
		d.term.text("; commit to arrival p50 %.1f ms, max %.1f ms", d.latencies[n/2].Seconds()*1000, d.latencies[n-1].Seconds()*1000)
	}
	d.term.text("\n")
	if guests, refused := d.hooks.guestTally(); guests+refused > 0 {
		d.term.text("subscriptions of yours: %d webhooks arrived and verified, %d refused\n", guests, refused)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: missing %s", ErrIncomplete, strings.Join(missing, ", "))
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d webhooks were refused", ErrIncomplete, bad)
	}
	return nil
}
