package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/outbox-relay/relay/internal/api"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/deliver/webhook"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/ops"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/postgres"
	"github.com/outbox-relay/relay/internal/secret"
)

// Settings is the configuration that the daemon runs under.
type Settings = config.Config

// Options are what New needs.
type Options struct {
	Config  *Settings
	Log     *slog.Logger
	Level   *slog.LevelVar // changed by a reload; nil to leave it alone
	Version string
	// LogDropped is how many lines the log has not taken; nil when it takes them all.
	LogDropped func() int64
	// AuditKeeps is how many transactions the audit keeps in memory between two markers; 0:
	// as many as are good for it.
	AuditKeeps int
	// Reload reads the configuration again; nil when it cannot change.
	Reload func() (*Settings, error)
}

// Daemon is one relay.
type Daemon struct {
	silences     atomic.Int32 // connections in a row that were given up without having brought anything
	opts         Options
	settings     atomic.Pointer[Settings]
	log          *slog.Logger
	pool         *pgxpool.Pool
	policy       *egress.Policy
	poster       atomic.Pointer[webhook.Poster]
	identities   *egress.Identities
	keys         atomic.Pointer[secret.Keyring] // nil: secrets are not sealed
	registry     *prometheus.Registry
	metrics      *deliver.Metrics
	board        *health.Board
	gauges       *gauges
	dbErrors     prometheus.Counter
	current      atomic.Pointer[leader] // nil while not leading
	reloadMu     sync.Mutex
	waiting      atomic.Pointer[[]string] // keys that a reload has found changed and that wait for a restart
	timeline     atomic.Int32             // highest that was read
	lastEpoch    atomic.Int64             // of the last term of this process
	hole         atomic.Pointer[hole]     // why the stream cannot be trusted, until a rescue
	auditMetrics *auditMetrics
	catalog      atomic.Pointer[outbox.Catalog]
	apiPool      *pgxpool.Pool
	tokenPool    *pgxpool.Pool
	server       *ops.Server
}

// New checks the configuration against everything but the database and builds a
// Daemon. It starts nothing.
func New(o Options) (*Daemon, error) {
	if err := o.Config.Require("database.url"); err != nil {
		return nil, err
	}
	catalog, err := outbox.NewCatalog(o.Config.Catalog.Files...)
	if err != nil {
		return nil, err
	}
	if _, err := outbox.NewMapper(mappingOptions(o.Config), catalog); err != nil {
		return nil, err
	}
	policy, err := egress.New(EgressOptions(o.Config))
	if err != nil {
		return nil, fmt.Errorf("egress policy: %w", err)
	}
	keys, err := secret.NewKeyring(o.Config.Secrets.Key)
	if err != nil {
		return nil, fmt.Errorf("secrets.key: %w", err)
	}
	d := &Daemon{opts: o, log: o.Log, policy: policy, identities: policy.Identities(identityOptions(o.Config)), registry: prometheus.NewRegistry()}
	if err := d.openPools(o.Config); err != nil {
		return nil, err
	}
	d.settings.Store(o.Config)
	d.catalog.Store(catalog)
	d.keys.Store(keys)
	d.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.metrics = deliver.NewMetrics(d.registry, o.Config.Metrics.TenantLabel)
	d.board = health.NewBoard(d.registry, o.Log, repeatEvery)
	d.gauges = newGauges(d)
	d.auditMetrics = newAuditMetrics(d)
	d.dbErrors = prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_database_errors_total",
		Help: "Statements on ordinary connections that failed and are tried again."})
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "relay_build_info", Help: "1, with the version."}, []string{"version"})
	info.WithLabelValues(o.Version).Set(1)
	d.registry.MustRegister(d.dbErrors, info, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "relay_log_dropped_total",
		Help: "Log lines that were dropped because the log did not take them."}, func() float64 {
		if o.LogDropped == nil {
			return 0
		}
		return float64(o.LogDropped())
	}))
	d.setPoster(o.Config)
	if d.server, err = d.newServer(); err != nil {
		d.closePools()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) openPools(c *Settings) error {
	var err error
	if d.pool, err = newPool(c); err == nil {
		d.apiPool, err = newAPIPool(c, c.API.MaxConnections)
	}
	if err == nil {
		// Whoever keeps the API's connections busy keeps nobody from showing a token, operators least of all.
		d.tokenPool, err = newAPIPool(c, 1)
	}
	if err != nil {
		d.closePools()
	}
	return err
}

func (d *Daemon) closePools() {
	for _, p := range []*pgxpool.Pool{d.tokenPool, d.apiPool, d.pool} {
		if p != nil {
			p.Close()
		}
	}
}

func newPool(c *Settings) (*pgxpool.Pool, error) {
	return openPool(c, postgres.Options{Application: "relay", Connections: c.Database.MaxConnections,
		Defaults: map[string]string{"lock_timeout": "15s"}})
}

func openPool(c *Settings, o postgres.Options) (*pgxpool.Pool, error) {
	pool, err := postgres.Open(context.Background(), c.Database.URL, o)
	if err != nil {
		return nil, fmt.Errorf("database.url: %w", errors.New(config.Redact(err.Error())))
	}
	return pool, nil
}

func (d *Daemon) cfg() *Settings { return d.settings.Load() }

func (d *Daemon) appName() string { return "relay:" + d.cfg().CDC.Slot }

func (d *Daemon) sink() deliver.Sink { return d.poster.Load() }

func (d *Daemon) setPoster(c *Settings) {
	p := NewPoster(d.policy, c, d.opts.Version)
	p.Log = d.log
	d.poster.Store(p)
}

// NewPoster returns the Sink that posts under a policy.
func NewPoster(policy *egress.Policy, c *Settings, version string) *webhook.Poster {
	return &webhook.Poster{
		// Many subscriptions may lead to one host: an attempt should not have to
		// dial because another one's connection did not fit into the pool.
		Transport: policy.Client(egress.TransportOptions{MaxIdleConns: idleConnections(c), MaxIdleConnsPerHost: concurrency(c),
			HeaderTimeout: longest(c), Timeout: longest(c)}).Transport,
		Timeout:       c.Deliver.Timeout,
		HeaderTimeout: min(c.Deliver.HeaderTimeout, c.Deliver.Timeout),
		UserAgent:     "relay/" + version,
	}
}

// longest bounds whatever attempt there is; each has a bound of its own below.
func longest(c *Settings) time.Duration { return c.Deliver.MaxTimeout + time.Second }

// idleConnections is how many idle connections are kept without a client certificate.
func idleConnections(c *Settings) int { return min(max(1024, concurrency(c)), mostIdle(c)) }

// mostIdle is how many idle connections are kept in all.
func mostIdle(c *Settings) int {
	return endpointConnections(openFiles(), c.Database.MaxConnections+c.API.MaxConnections+1)
}

// identityOptions size the pools of client certificates: for each what one endpoint may have at once, for all of them what is
// left of the file descriptors, or a few where that is nothing.
func identityOptions(c *Settings) egress.TransportOptions {
	return egress.TransportOptions{MaxIdleConns: min(1024, max(c.Deliver.EndpointConcurrency, mostIdle(c)-idleConnections(c))),
		MaxIdleConnsPerHost: c.Deliver.EndpointConcurrency, HeaderTimeout: longest(c), Timeout: longest(c)}
}

// identify makes the connections of a subscription that has a client certificate.
func (d *Daemon) identify(c *tls.Certificate) deliver.Identity { return d.identities.New(c) }

// EgressOptions are the settings of the egress policy that a configuration asks for.
func EgressOptions(c *Settings) egress.Options {
	return egress.Options{Allow: config.Strings(c.Egress.Allow), Deny: config.Strings(c.Egress.Deny),
		RequireHTTPS: c.Egress.RequireHTTPS, HTTPTenants: c.Egress.HTTPTenants, Ports: c.Egress.Ports, CAFile: c.Egress.CAFile, Proxy: c.Egress.Proxy, Own: ownAddresses(c),
		ConnectTimeout: c.Deliver.ConnectTimeout, HeaderTimeout: min(c.Deliver.HeaderTimeout, c.Deliver.Timeout), Timeout: c.Deliver.Timeout + time.Second}
}

// ownAddresses are those that this relay and its database listen on, which are no receivers.
func ownAddresses(c *Settings) []string {
	var own []string
	for _, at := range []string{c.HTTP.OpsListen, c.HTTP.Listen} {
		if at != "" {
			own = append(own, at)
		}
	}
	for _, conn := range []string{c.Database.URL, c.Database.ReplicationURL} {
		if conn == "" {
			continue
		}
		cfg, err := postgres.ParseConfig(conn)
		if err != nil {
			continue // the connection will tell; nothing is sent without it
		}
		for _, f := range append([]*pgconn.FallbackConfig{{Host: cfg.Host, Port: cfg.Port}}, cfg.Fallbacks...) {
			at := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port)))
			if network, _ := pgconn.NetworkAddress(f.Host, f.Port); network == "tcp" && !slices.Contains(own, at) {
				own = append(own, at)
			}
		}
	}
	return own
}

// tellEgress says what may be dialed besides, and what may not: a mistake in it is a hole.
func (d *Daemon) tellEgress(c *Settings) {
	e := c.Egress
	attrs := []any{"allow", config.Strings(e.Allow), "deny", config.Strings(e.Deny), "ports", e.Ports, "require_https", e.RequireHTTPS}
	if len(e.HTTPTenants) > 0 {
		attrs = append(attrs, "http_tenants", e.HTTPTenants)
	}
	if e.CAFile != "" {
		attrs = append(attrs, "ca_file", e.CAFile)
	}
	if proxy, err := egress.ParseProxy(e.Proxy); err == nil {
		attrs = append(attrs, "proxy", proxy.Scheme+"://"+proxy.Host)
	}
	d.log.Info("egress: public addresses are dialed, and what allow names", attrs...)
}

func mappingOptions(c *Settings) outbox.MappingOptions {
	cols := outbox.DefaultColumns()
	for _, pair := range []struct {
		to   *string
		from string
	}{{&cols.ID, c.Outbox.Columns.ID}, {&cols.TenantID, c.Outbox.Columns.TenantID},
		{&cols.AggregateType, c.Outbox.Columns.AggregateType}, {&cols.AggregateID, c.Outbox.Columns.AggregateID},
		{&cols.EventType, c.Outbox.Columns.EventType}, {&cols.Payload, c.Outbox.Columns.Payload},
		{&cols.Headers, c.Outbox.Columns.Headers}, {&cols.CreatedAt, c.Outbox.Columns.CreatedAt}} {
		if pair.from != "" {
			*pair.to = pair.from
		}
	}
	return outbox.MappingOptions{Table: c.Outbox.Table, Columns: cols, MaxPayload: int(c.Outbox.MaxPayload)}
}

// freshPerCore is how many attempts a core has under way before they are known to
// wait for their endpoints: measured, more make each event dearer.
const freshPerCore = 32

// failingPerCore is how many lanes a second and core are loaded to try endpoints that
// fail. However many are dead, the others must not feel it.
const failingPerCore = 20

func dispatchOptions(c *Settings) deliver.Options {
	r := c.Deliver.Retry
	return deliver.Options{
		Schedule: deliver.Schedule{Delays: r.Schedule, Jitter: r.Jitter, MaxRetryAfter: r.MaxRetryAfter, MinRetryAfter: time.Second},
		Timeout:  c.Deliver.Timeout, MaxTimeout: c.Deliver.MaxTimeout, HandoverAfter: c.Deliver.HandoverAfter,
		Concurrency: concurrency(c), FreshConcurrency: min(concurrency(c), freshPerCore*runtime.GOMAXPROCS(0)), EndpointConcurrency: c.Deliver.EndpointConcurrency,
		FailingRate:  failingPerCore * runtime.GOMAXPROCS(0),
		WindowEvents: c.Deliver.Window.Events, WindowBytes: int64(c.Deliver.Window.Bytes),
		Breaker: deliver.BreakerOptions(c.Deliver.Breaker), Pace: deliver.DefaultPace,
		Disable: deliver.DisableOptions{After: c.Deliver.DisableAfter, Warning: c.Deliver.DisableWarning},
	}
}

// Run leads, or waits to lead, until ctx ends; then it drains and returns nil.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.closePools()
	d.tellEgress(d.cfg())
	d.tellKeys()
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var back errgroup.Group
	back.Go(func() error { return d.server.Run(inner) })
	back.Go(func() error { return d.maintain(inner) })
	back.Go(func() error { return d.repeatConditions(inner) })
	d.leadAgain(ctx)
	cancel()
	if err := back.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// repeatEvery is how often the log repeats a condition that needs a person.
const repeatEvery = 5 * time.Minute

// longestPause is the longest mean pause between two tries to reach PostgreSQL. By chance one is up to half as long
// again, and the relay is to be back within five seconds.
const longestPause = 3 * time.Second

// leadAgain begins term after term.
func (d *Daemon) leadAgain(ctx context.Context) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 100*time.Millisecond, longestPause
	for {
		began := time.Now()
		err := d.lead(ctx)
		if ctx.Err() != nil {
			return
		}
		if epoch := d.lastEpoch.Load(); errors.Is(err, cdc.ErrPublicationMissing) && epoch > 0 {
			d.hole.Store(&hole{err, epoch})
		}
		d.board.ClearAll(health.PartSettings, health.PartStream)
		if d.noteFailure(err) == health.Standby {
			retry.Reset() // take over quickly
			retry.InitialInterval = 250 * time.Millisecond
		}
		if time.Since(began) > 10*time.Second {
			retry.Reset()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry.NextBackOff()):
		}
	}
}

// Addr is where metrics and health are served, once Run has begun.
func (d *Daemon) Addr() string { return d.server.Addr() }

// APIAddr is where the tenants' API is served.
func (d *Daemon) APIAddr() string { return d.server.APIAddr() }

// maintain looks after partitions, at the start and each hour.
func (d *Daemon) maintain(ctx context.Context) error {
	c := d.cfg()
	keeper := &retentionKeeper{d: d, seen: make(map[string]cdc.LSN), told: make(map[string]bool)}
	events := outbox.NewPartitions(d.pool, outbox.PartitionOptions{Table: c.Outbox.Table, Interval: c.Outbox.PartitionInterval,
		Ahead: time.Duration(c.Outbox.PartitionsAhead) * c.Outbox.PartitionInterval, Retention: c.Outbox.Retention, Settled: keeper.settled})
	kept := &recordKeeper{keep: c.Deliver.LogRetention}
	records := outbox.NewPartitions(d.pool, outbox.PartitionOptions{Table: "relay.deliveries", Interval: 24 * time.Hour,
		Ahead: 3 * 24 * time.Hour, Retention: c.Deliver.LogRetention, Settled: kept.ended})
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = time.Hour
		if d.current.Load() == nil {
			wait = 200 * time.Millisecond // the leader's work
			continue
		}
		var trouble health.Condition
		for name, p := range map[string]*outbox.Partitions{"outbox": events, "deliveries": records} {
			report, err := p.Maintain(ctx, time.Now())
			if err != nil && ctx.Err() == nil {
				d.log.Warn("partitions could not be maintained, will be tried again", "of", name, "error", err)
				if c := d.partitionTrouble(name, err); c.Sentence != "" {
					trouble = worse(trouble, c)
				}
				wait = time.Minute
				continue
			}
			if report.Keeper != "" {
				trouble = worse(trouble, health.Condition{State: health.Streaming,
					Sentence: report.Keeper + " looks after the partitions of " + c.Outbox.Table + ": the relay makes none and drops none",
					Remedy:   "keep them for longer than a replay or a rescue reaches back (outbox.retention): what " + report.Keeper + " drops is not looked at before"})
			}
			if len(report.Made)+len(report.Dropped) > 0 {
				d.log.Info("partitions", "of", name, "made", report.Made, "dropped", report.Dropped, "rows_moved", report.Moved)
			}
			if len(report.Deferred) > 0 {
				wait = time.Minute
			}
			d.log.Debug("partitions maintained", "of", name)
		}
		if trouble.Sentence != "" {
			d.board.Raise(health.PartPartitions, trouble)
		} else if ctx.Err() == nil {
			d.board.Clear(health.PartPartitions)
		}
		if err := kept.deleteUndated(ctx, d.pool); err != nil && ctx.Err() == nil {
			d.log.Warn("old records of deliveries could not be deleted, will be tried again", "error", err)
			wait = time.Minute
		} else if kept.more {
			kept.more, wait = false, min(wait, time.Second)
		}
		// Nobody signs with them since their time; here they only leave the table.
		if n, err := (deliver.Subscriptions{DB: d.pool}).ForgetSecrets(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("expired secrets could not be removed, will be tried again", "error", err)
			wait = time.Minute
		} else if n > 0 {
			d.log.Info("expired secrets removed", "subscriptions", n)
		}
		if c.Outbox.Table == outbox.DefaultTable { // whoever has another one knows how long it keeps rows
			oldest := time.Now().Add(-c.Outbox.Retention - 2*c.Outbox.PartitionInterval - 24*time.Hour)
			if _, err := (outbox.Quarantine{DB: d.pool}).ForgetDiscarded(ctx, oldest); err != nil && ctx.Err() == nil {
				d.log.Warn("record of discarded rows could not be trimmed, will be tried again", "error", err)
				wait = time.Minute
			}
		}
		if n, err := api.ForgetChanges(ctx, d.pool, d.cfg().API.ChangesRetention); err != nil && ctx.Err() == nil {
			d.log.Warn("old changes could not be removed, will be tried again", "error", err)
			wait = time.Minute
		} else if n > 0 {
			d.log.Info("old changes removed from the record", "changes", n)
		}
	}
}
