// Command bench measures the whole path, from commit to receipt, beside the
// limit of the same machine in the same run.
//
// Each scenario runs twice: with the relay, and with `pipe`, a bare pgoutput
// reader that feeds 64 workers of a bare signed POST loop. PostgreSQL (with
// fsync), the measured process and the receiver are processes of their own. A
// figure says something beside the other one of its row; alone it is a figure of
// this machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == "receiver" {
		return receive()
	}
	if len(args) == 4 && args[0] == "pipe" {
		return pipe(ctx, args[1], args[2], args[3])
	}
	b := &bench{}
	var jsonFile, only string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&b.events, "events", 50000, "rows to drain")
	f.IntVar(&b.rate, "rate", 500, "rows a second in the steady scenario")
	f.IntVar(&b.seconds, "seconds", 20, "length of the steady and the idle scenario")
	f.StringVar(&only, "only", "drain,steady,idle", "scenarios")
	f.StringVar(&jsonFile, "json", "", "write the figures to this file too")
	if err := f.Parse(args); err != nil {
		return err
	}
	b.only = strings.Split(only, ",")
	err := b.all(ctx)
	b.close()
	if err != nil {
		return err
	}
	b.print()
	if jsonFile != "" {
		out, err := json.MarshalIndent(b.figures, "", "  ")
		if err != nil {
			return err
		}
		return os.WriteFile(jsonFile, append(out, '\n'), 0o644)
	}
	return nil
}

// figure is one row of the result.
type figure struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Relay float64 `json:"relay"`
	Pipe  float64 `json:"pipe,omitempty"`
	Goal  string  `json:"goal,omitempty"`
	Met   bool    `json:"met"`
}

type bench struct {
	events, rate, seconds int
	only                  []string

	cluster  *pgcluster.Cluster
	url      string
	dir      string
	receiver *process
	hook     string
	figures  []figure
}

func (b *bench) wants(name string) bool { return slices.Contains(b.only, name) }

func (b *bench) close() {
	if b.receiver != nil {
		b.receiver.stop()
	}
	if b.cluster != nil {
		_ = b.cluster.Close()
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

func (b *bench) all(ctx context.Context) error {
	if err := b.setUp(ctx); err != nil {
		return err
	}
	if b.wants("drain") {
		if err := b.drain(ctx); err != nil {
			return fmt.Errorf("drain: %w", err)
		}
	}
	if b.wants("steady") || b.wants("idle") {
		if err := b.steady(ctx); err != nil {
			return fmt.Errorf("steady: %w", err)
		}
	}
	return nil
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (b *bench) setUp(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "relay-bench-"); err != nil {
		return err
	}
	b.say("building the relay ...")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(b.dir, "relay"), "./cmd/relay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the relay: %w\n%s", err, out)
	}
	b.say("starting PostgreSQL ...")
	if b.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Fsync: true, Settings: map[string]string{
		"track_commit_timestamp": "on", "shared_preload_libraries": "pg_stat_statements", "shared_buffers": "256MB", "max_wal_size": "4GB"}}); err != nil {
		return err
	}
	if _, err = b.cluster.CreateDatabase(ctx, "bench"); err != nil {
		return err
	}
	b.url = b.cluster.URL("bench")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b.receiver, err = start(nil, self, "receiver"); err != nil {
		return err
	}
	addr, err := b.receiver.line()
	if err != nil {
		return fmt.Errorf("start the receiver: %w", err)
	}
	b.hook = "http://" + addr
	return b.prepare(ctx)
}

// prepare makes the schema, a role whose statements can be told from the
// writers', 20 tenants with 5 subscriptions each of which an event matches one,
// and both slots.
func (b *bench) prepare(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, filepath.Join(b.dir, "relay"), "migrate", "--database-url", b.url).CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	return b.with(ctx, func(conn *pgx.Conn) error {
		for _, sql := range []string{
			"CREATE EXTENSION pg_stat_statements",
			"CREATE ROLE relay SUPERUSER LOGIN",
			`INSERT INTO relay.subscriptions (tenant_id, url, events, secret)
			 SELECT 't' || t, '` + b.hook + `/hook', ARRAY[e], 'bench-secret'
			   FROM generate_series(0, 19) t, unnest('{payment.received,payment.failed,customer.*,sales_order.created,sales_order.cancelled}'::text[]) e`,
			"CREATE PUBLICATION pipe FOR TABLE outbox.events WITH (publish = 'insert', publish_via_partition_root = true)",
			"SELECT pg_create_logical_replication_slot('pipe', 'pgoutput')",
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%.40s: %w", sql, err)
			}
		}
		// The relay makes its slot, and partitions, at its first start.
		relay, err := b.startRelay(ctx)
		if err != nil {
			return err
		}
		relay.stop()
		return nil
	})
}

func (b *bench) with(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return f(conn)
}

const relayAddr = "127.0.0.1:18099"

// startRelay starts the relay with the settings that it has by itself, but for
// the address of the receiver, and waits until it streams.
func (b *bench) startRelay(ctx context.Context) (*process, error) {
	url := strings.Replace(b.url, "postgres@", "relay@", 1)
	p, err := start([]string{"RELAY_DATABASE_URL=" + url, "RELAY_EGRESS_ALLOW=127.0.0.0/8", "RELAY_EGRESS_REQUIRE_HTTPS=false",
		"RELAY_HTTP_LISTEN=" + relayAddr, "RELAY_LOG_LEVEL=warn"}, filepath.Join(b.dir, "relay"), "run")
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		resp, err := http.Get("http://" + relayAddr + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return p, nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			p.stop()
			return nil, errors.New("the relay is not ready within 20s")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (b *bench) startPipe() (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := start(nil, self, "pipe", b.url, "pipe", b.hook+"/hook")
	if err != nil {
		return nil, err
	}
	if _, err := p.line(); err != nil {
		return nil, fmt.Errorf("start pipe: %w", err)
	}
	return p, nil
}

func (b *bench) received(ctx context.Context) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.hook+"/count", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	s, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(s))
}

// await waits until n events have come, and takes what the receiver knows.
func (b *bench) await(ctx context.Context, n int) (arrivals, error) {
	var a arrivals
	for deadline := time.Now().Add(3 * time.Minute); ; {
		got, err := b.received(ctx)
		if err != nil {
			return a, err
		}
		if got >= n {
			break
		}
		if time.Now().After(deadline) {
			return a, fmt.Errorf("only %d of %d events arrived", got, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
	resp, err := http.Post(b.hook+"/take", "", nil)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }()
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

const insert = `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES
('t' || ($1::int % 20), 'payment', 'p' || $1::int, 'payment.received', json_build_object('payment_id', 'p' || $1, 'invoice_id', 'inv_' || $1,
 'amount', '1500.00', 'currency', 'EUR', 'payment_method', 'card', 'reference_number', repeat('x', 150)))`

// drain measures how fast a backlog goes: rows that were committed, each in a
// transaction of its own, while nobody read. They are written with
// synchronous_commit off, which changes nothing for the readers.
func (b *bench) drain(ctx context.Context) error {
	b.say("writing %d rows ...", b.events)
	if err := b.with(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "SET synchronous_commit = off"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, fmt.Sprintf("DO $do$ BEGIN FOR i IN 1..%d LOOP %s; COMMIT; END LOOP; END $do$",
			b.events, strings.ReplaceAll(strings.ReplaceAll(insert, "$1::int", "i"), "$1", "i")))
		if err == nil {
			_, err = conn.Exec(ctx, "CHECKPOINT")
		}
		return err
	}); err != nil {
		return err
	}
	b.say("draining with pipe ...")
	p, err := b.startPipe()
	if err != nil {
		return err
	}
	bare, err := b.await(ctx, b.events)
	p.stop()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	b.say("draining with the relay ...")
	r, err := b.startRelay(ctx)
	if err != nil {
		return err
	}
	full, err := b.await(ctx, b.events)
	_, peak := r.memory()
	cpu := r.cpu()
	r.stop()
	if err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	speed, limit := perSecond(full), perSecond(bare)
	b.add(figure{Name: "drain", Unit: "events/s", Relay: speed, Pipe: limit, Goal: ">= 0.6 of pipe", Met: speed >= 0.6*limit})
	b.add(figure{Name: "drain: repeats", Unit: "events", Relay: float64(full.Repeats), Goal: "0", Met: full.Repeats == 0})
	b.add(figure{Name: "drain: peak memory", Unit: "MiB", Relay: float64(peak) / 1024, Goal: "<= 64", Met: peak <= 64<<10})
	b.add(figure{Name: "drain: CPU an event", Unit: "µs", Relay: cpu.Seconds() * 1e6 / float64(b.events), Met: true})
	return nil
}

// perSecond is the rate from the first receipt to the last.
func perSecond(a arrivals) float64 {
	var first, last int64
	for _, at := range a.First {
		if first == 0 || at < first {
			first = at
		}
		last = max(last, at)
	}
	return float64(len(a.First)-1) / (float64(last-first) / 1e9)
}

func (b *bench) add(f figure) { b.figures = append(b.figures, f) }

// steady measures latency under a load that leaves the machine room, and what
// the relay costs the database; then what it costs when nothing happens.
func (b *bench) steady(ctx context.Context) error {
	var bare, full []float64
	if b.wants("steady") {
		p, err := b.startPipe()
		if err != nil {
			return err
		}
		b.say("%d rows a second for %d s with pipe ...", b.rate, b.seconds)
		bare, err = b.load(ctx)
		p.stop()
		if err != nil {
			return fmt.Errorf("pipe: %w", err)
		}
	}
	// The relay's slot holds what was written for pipe; let it go by first.
	r, err := b.startRelay(ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	if b.wants("steady") {
		if _, err := b.await(ctx, b.rate*b.seconds+1); err != nil {
			return err
		}
		b.say("%d rows a second for %d s with the relay ...", b.rate, b.seconds)
		before, err := b.statements(ctx)
		if err != nil {
			return err
		}
		cpu := r.cpu()
		if full, err = b.load(ctx); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		after, err := b.statements(ctx)
		if err != nil {
			return err
		}
		b.latency("p50", 0.50, 1.5, full, bare)
		b.latency("p99", 0.99, 2, full, bare)
		b.latency("max", 1, 0, full, bare)
		each := float64(after-before) / float64(len(full))
		b.add(figure{Name: "steady: statements an event", Unit: "", Relay: each, Goal: "<= 0.05", Met: each <= 0.05})
		_, peak := r.memory()
		b.add(figure{Name: "steady: peak memory", Unit: "MiB", Relay: float64(peak) / 1024, Goal: "<= 64", Met: peak <= 64<<10})
		b.add(figure{Name: "steady: CPU an event", Unit: "µs", Relay: (r.cpu() - cpu).Seconds() * 1e6 / float64(len(full)), Met: true})
	}
	if b.wants("idle") {
		b.say("idle for %d s ...", b.seconds)
		before, err := b.statements(ctx)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(b.seconds) * time.Second):
		}
		after, err := b.statements(ctx)
		if err != nil {
			return err
		}
		each := float64(after-before) / float64(b.seconds)
		b.add(figure{Name: "idle: statements", Unit: "1/s", Relay: each, Goal: "<= 1", Met: each <= 1})
	}
	return nil
}

func (b *bench) latency(name string, q, goal float64, full, bare []float64) {
	f := figure{Name: "steady: commit to receipt " + name, Unit: "ms", Relay: quantile(full, q), Pipe: quantile(bare, q), Met: true}
	if goal > 0 {
		f.Goal = fmt.Sprintf("<= %g x pipe", goal)
		f.Met = f.Relay <= goal*f.Pipe
	}
	b.add(f)
}

func quantile(sorted []float64, q float64) float64 {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// statements counts what the relay's role has run so far.
func (b *bench) statements(ctx context.Context) (n int, err error) {
	err = b.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
WHERE r.rolname = 'relay'`).Scan(&n)
	})
	return n, err
}

// load writes rows at an even rate over four connections and returns, sorted, the
// milliseconds from each commit, by PostgreSQL's clock, to the receipt.
func (b *bench) load(ctx context.Context) ([]float64, error) {
	// One row first: a walsender that has just begun reads what others wrote
	// before it comes to anything of ours.
	if err := b.with(ctx, func(conn *pgx.Conn) error { _, err := conn.Exec(ctx, insert, 1); return err }); err != nil {
		return nil, err
	}
	if _, err := b.await(ctx, 1); err != nil {
		return nil, err
	}
	var mark time.Time
	if err := b.with(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&mark) }); err != nil {
		return nil, err
	}
	total := b.rate * b.seconds
	turns := make(chan int, total)
	var writers sync.WaitGroup
	errs := make(chan error, 8)
	for range 4 {
		writers.Go(func() {
			if err := b.with(ctx, func(conn *pgx.Conn) error {
				for i := range turns {
					if _, err := conn.Exec(ctx, insert, i); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				errs <- err
			}
		})
	}
	began := time.Now()
	gap := time.Second / time.Duration(b.rate)
	for i := range total {
		time.Sleep(time.Until(began.Add(time.Duration(i) * gap)))
		turns <- i
	}
	close(turns)
	writers.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	got, err := b.await(ctx, total)
	if err != nil {
		return nil, err
	}
	var out []float64
	err = b.with(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT id::text, pg_xact_commit_timestamp(xmin) FROM outbox.events WHERE created_at >= $1", mark)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var at time.Time
			if err := rows.Scan(&id, &at); err != nil {
				return err
			}
			seen, ok := got.First[id]
			if !ok {
				return fmt.Errorf("event %s did not arrive", id)
			}
			out = append(out, float64(seen-at.UnixNano())/1e6)
		}
		return rows.Err()
	})
	slices.Sort(out)
	return out, err
}

func (b *bench) print() {
	fmt.Printf("\n%d cores, PostgreSQL %d, %s; relay and pipe measured in one run\n\n", runtime.NumCPU(), b.cluster.Version(), runtime.Version())
	fmt.Printf("%-32s %12s %12s %8s  %-16s\n", "", "relay", "pipe", "ratio", "goal")
	for _, f := range b.figures {
		bare, ratio := "", ""
		if f.Pipe != 0 {
			bare, ratio = number(f.Pipe), fmt.Sprintf("%.2f", f.Relay/f.Pipe)
		}
		verdict := ""
		if f.Goal != "" {
			verdict = "ok"
			if !f.Met {
				verdict = "MISSED"
			}
		}
		fmt.Printf("%-32s %12s %12s %8s  %-16s %s\n", f.Name+" "+f.Unit, number(f.Relay), bare, ratio, f.Goal, verdict)
	}
}

func number(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
