package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
)

// secret signs everything, on both ways.
const secret = "whsec_YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2ghIQ=="

// bench is one run: a server with a database for the relay and one for pipe, and the receiver.
type bench struct {
	options
	dir      string
	cluster  *pgcluster.Cluster
	receiver *receiver
	listen   string // where the relay of the moment serves its health pages
	report   report
}

// path is one of the two ways that are measured: a program, and the database that it reads.
type path struct {
	name     string
	database string // URL, as the superuser
	start    func(ctx context.Context) (*process, error)
	// fresh makes the slot anew or sees that there is one, while nothing runs.
	fresh func(ctx context.Context) error
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (b *bench) all(ctx context.Context) error {
	if err := b.setUp(ctx); err != nil {
		return err
	}
	paths := []path{
		{name: "pipe", database: b.cluster.URL("pipe"), start: b.startPipe, fresh: b.freshPipe},
		{name: "relay", database: b.cluster.URL("relay"), start: b.startRelay, fresh: b.freshRelay},
	}
	for _, s := range []struct {
		name string
		run  func(context.Context, []path) error
	}{{"drain", b.drain}, {"steady", b.steady}, {"idle", b.idle}, {"isolation", b.isolation}, {"rescue", b.rescue}, {"api", b.api}} {
		if !slices.Contains(b.only, s.name) {
			continue
		}
		if err := s.run(ctx, paths); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func (b *bench) setUp(ctx context.Context) error {
	var err error
	if b.dir, err = os.MkdirTemp("", "relay-bench-"); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if b.profile != "" {
		if _, err := exec.LookPath("perf"); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		if err := os.MkdirAll(b.profile, 0o755); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
	}
	say("building the relay ...")
	build := exec.CommandContext(ctx, goTool(), "build", "-trimpath", "-buildvcs=false", "-o", b.binary(), "github.com/outbox-relay/relay/cmd/relay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the relay: %w\n%s", err, out)
	}
	say("starting PostgreSQL ...")
	b.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Fsync: true, Settings: map[string]string{
		"shared_preload_libraries": "pg_stat_statements", "shared_buffers": "256MB", "max_wal_size": "4GB",
	}})
	if err != nil {
		return fmt.Errorf("start PostgreSQL (with pg_stat_statements, of the contrib package): %w", err)
	}
	if b.receiver, err = startReceiver(); err != nil {
		return err
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	b.report.Machine, err = describeMachine(ctx, b.cluster.URL("relay"))
	b.report.Rounds = b.rounds
	return err
}

// goTool is the go command that runs this program, or the one of PATH.
func goTool() string {
	if g := os.Getenv("GO"); g != "" {
		return g
	}
	return "go"
}

func (b *bench) binary() string { return filepath.Join(b.dir, "relay") }

// prepare makes the two databases, alike but for who reads them. The relay has a role of its own, so that its
// statements can be told from the writers'. 20 tenants have 5 subscriptions each, of which an event matches one.
func (b *bench) prepare(ctx context.Context) error {
	for _, name := range []string{"pipe", "relay"} {
		url, err := b.cluster.CreateDatabase(ctx, name)
		if err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, b.binary(), "migrate", "--database-url", url).CombinedOutput(); err != nil {
			return fmt.Errorf("migrate: %w\n%s", err, out)
		}
	}
	if err := exec1(ctx, b.cluster.URL("pipe"),
		"CREATE PUBLICATION pipe FOR TABLE outbox.events WITH (publish = 'insert', publish_via_partition_root = true)"); err != nil {
		return err
	}
	return exec1(ctx, b.cluster.URL("relay"), "CREATE EXTENSION pg_stat_statements", "CREATE ROLE relay SUPERUSER LOGIN",
		`INSERT INTO relay.subscriptions (tenant_id, url, events, secret)
		 SELECT 't' || t, '`+b.receiver.url+`/hook/' || t || '/' || n, ARRAY[e], '`+secret+`' FROM generate_series(0, 19) t,
		 unnest('{payment.received,payment.failed,customer.*,sales_order.created,sales_order.cancelled}'::text[]) WITH ORDINALITY AS u(e, n)`)
}

// with runs f on a connection of its own.
func with(ctx context.Context, url string, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return f(conn)
}

// exec1 runs statements one after another.
func exec1(ctx context.Context, url string, statements ...string) error {
	return with(ctx, url, func(conn *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("run %.50s: %w", sql, err)
			}
		}
		return nil
	})
}

// relayConfig says only what differs from the defaults.
const relayConfig = `database:
  url: %s
egress:
  allow: [127.0.0.0/8]
  require_https: false
deliver:
  log: all
http:
  listen: %s
log:
  level: %s
`

// startRelay starts the relay and returns when it streams.
func (b *bench) startRelay(ctx context.Context) (*process, error) {
	p, err := b.spawnRelay("")
	if err != nil {
		return nil, err
	}
	if err := b.ready(ctx, p); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// spawnRelay starts the relay with further settings, lines of its configuration.
func (b *bench) spawnRelay(settings string) (*process, error) {
	listen, err := freeAddress()
	if err != nil {
		return nil, err
	}
	level := "warn"
	if b.verbose {
		level = "info"
	}
	url := strings.Replace(b.cluster.URL("relay"), "postgres@", "relay@", 1)
	file := filepath.Join(b.dir, "relay.yaml")
	if err := os.WriteFile(file, append(fmt.Appendf(nil, relayConfig, url, listen, level), settings...), 0o600); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	b.listen = listen
	return spawn(b.binary(), "run", "--config", file)
}

// ready waits until the relay streams. The making of a slot, after the loss of one, may take time.
func (b *bench) ready(ctx context.Context, p *process) error {
	return poll(ctx, 10*time.Millisecond, time.Minute, "the relay to stream", p, func() (bool, error) {
		resp, err := http.Get("http://" + b.listen + "/readyz")
		if err != nil {
			return false, nil // it does not listen yet
		}
		return resp.StatusCode == http.StatusOK, resp.Body.Close()
	})
}

// freshRelay sees that the relay has its slot and its partitions, and nothing of an earlier time to do.
func (b *bench) freshRelay(ctx context.Context) error {
	p, err := b.startRelay(ctx)
	if err != nil {
		return err
	}
	err = with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		return poll(ctx, 50*time.Millisecond, time.Minute, "partitions", p, func() (ready bool, err error) {
			err = conn.QueryRow(ctx, `SELECT (SELECT backfill IS NULL FROM relay.progress)
				AND (SELECT count(DISTINCT inhparent) = 2 FROM pg_inherits WHERE inhrelid::regclass::text LIKE '%\_p2%'
				AND inhparent IN ('outbox.events'::regclass, 'relay.deliveries'::regclass))`).Scan(&ready)
			return ready, err
		})
	})
	return errors.Join(err, p.stop())
}

func (b *bench) startPipe(context.Context) (*process, error) {
	return spawnSelf("pipe", b.cluster.URL("pipe"), "pipe", b.receiver.url+"/hook/pipe")
}

func (b *bench) freshPipe(ctx context.Context) error {
	return exec1(ctx, b.cluster.URL("pipe"),
		"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'pipe'",
		"SELECT pg_create_logical_replication_slot('pipe', 'pgoutput')")
}

// freeAddress is an address of this machine that nothing listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// poll asks every so often until ok is true, p has ended, or the limit is reached. A nil p is not watched.
func poll(ctx context.Context, every, limit time.Duration, what string, p *process, ok func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: not within %s", what, limit)
		}
		var ended <-chan struct{}
		if p != nil {
			ended = p.done
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-ended:
			return fmt.Errorf("wait for %s: %s has ended: %w", what, p.name, p.err)
		case <-time.After(every):
		}
	}
}

func (b *bench) close() error {
	var errs []error
	if b.receiver != nil {
		errs = append(errs, b.receiver.process.stop())
	}
	if b.cluster != nil {
		errs = append(errs, b.cluster.Close())
	}
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}

// describeMachine says where the figures come from.
func describeMachine(ctx context.Context, url string) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), Processor: processorName(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		Date: time.Now().UTC().Format("2006-01-02 15:04")}
	m.Commit, m.Load = headCommit(ctx), loadAverage()
	return m, with(ctx, url, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SHOW server_version").Scan(&m.PostgreSQL)
	})
}
