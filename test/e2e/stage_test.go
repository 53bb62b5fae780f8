package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
	"github.com/outbox-relay/relay/test/output"
)

var stages atomic.Int64

// stage is a migrated database, a receiver, and a way to start relays on them.
type stage struct {
	t       testing.TB
	cluster *pgcluster.Cluster
	url     string
	slot    string
	db      *pgxpool.Pool
	recv    *receiver
	env     []string
	stopped bool // PostgreSQL was stopped under the relay
	rescued bool // the slot was lost
}

// newStage makes a stage on the shared server, which must keep running.
func newStage(t testing.TB, env ...string) *stage {
	t.Helper()
	return newStageIn(t, "", env...)
}

// newStageIn is newStage with a database of an encoding.
func newStageIn(t testing.TB, encoding string, env ...string) *stage {
	t.Helper()
	s := newStageWith(t, sharedCluster(t), encoding, env...)
	// Other tests go on there: nothing must hold its WAL.
	t.Cleanup(func() {
		eventually(t, "the slot is dropped", func() bool {
			_, err := s.db.Exec(context.Background(), `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
				WHERE slot_name = $1 AND active_pid IS NULL`, s.slot)
			return err == nil && s.number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", s.slot) == 0
		})
		s.db.Close()
	})
	return s
}

// newOwnStage makes a stage on a server of its own, which the test may stop.
func newOwnStage(t testing.TB, env ...string) *stage {
	t.Helper()
	s := newStageOn(t, pgtest.NewCluster(t), env...)
	t.Cleanup(s.db.Close)
	return s
}

// template is the database with the relay's schemas that is copied on the shared server.
var template struct {
	once sync.Once
	err  error
}

// newDatabase makes a migrated database; an encoding of "" is the server's.
func newDatabase(t testing.TB, c *pgcluster.Cluster, name, encoding string) (string, error) {
	if c != shared.cluster || encoding != "" {
		create := c.CreateDatabase
		if encoding != "" {
			create = func(ctx context.Context, name string) (string, error) { return c.CreateDatabaseIn(ctx, name, encoding) }
		}
		url, err := create(t.Context(), name)
		if err == nil {
			_, err = migrate.Up(t.Context(), url)
		}
		return url, err
	}
	template.once.Do(func() {
		ctx := context.WithoutCancel(t.Context())
		var url string
		if url, template.err = c.CreateDatabase(ctx, "template"); template.err == nil {
			_, template.err = migrate.Up(ctx, url)
		}
	})
	if template.err != nil {
		return "", template.err
	}
	return c.CopyDatabase(t.Context(), name, "template")
}

func newStageOn(t testing.TB, c *pgcluster.Cluster, env ...string) *stage {
	t.Helper()
	return newStageWith(t, c, "", env...)
}

func newStageWith(t testing.TB, c *pgcluster.Cluster, encoding string, env ...string) *stage {
	t.Helper()
	s := &stage{t: t, cluster: c, slot: fmt.Sprintf("e2e_%d", stages.Add(1))}
	output.Begin(t)
	var err error
	if s.url, err = newDatabase(t, c, s.slot, encoding); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := output.CheckDatabase(t, s.url); err != nil && !s.stopped {
			t.Error(err)
		}
	})
	if s.db, err = pgxpool.New(t.Context(), s.url); err != nil {
		t.Fatal(err)
	}
	s.recv = newReceiver(t)
	s.env = append([]string{
		"RELAY_DATABASE_URL=" + s.url, "RELAY_CDC_SLOT=" + s.slot, "RELAY_HTTP_LISTEN=127.0.0.1:0",
		"RELAY_EGRESS_ALLOW=127.0.0.0/8", "RELAY_EGRESS_REQUIRE_HTTPS=false",
		"RELAY_DELIVER_RETRY_SCHEDULE=0s,100ms,200ms,200ms,500ms,500ms,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s",
		"RELAY_DELIVER_TIMEOUT=3s", "RELAY_DELIVER_HANDOVER_AFTER=1s", "RELAY_DELIVER_CONNECT_TIMEOUT=1s",
	}, env...)
	return s
}

// launch starts a relay that may have to wait for its turn.
func (s *stage) launch(env ...string) *relay {
	s.t.Helper()
	r := spawn(s.t, relayBinary, append(s.env[:len(s.env):len(s.env)], env...), "run")
	r.awaitListening()
	return r
}

// start starts a relay and waits until it leads.
func (s *stage) start(env ...string) *relay {
	s.t.Helper()
	r := s.launch(env...)
	r.awaitReady()
	return r
}

// stopServer stops PostgreSQL and forgets the connections to it.
func (s *stage) stopServer(ctx context.Context, mode pgcluster.StopMode) {
	s.t.Helper()
	if err := s.cluster.Stop(ctx, mode); err != nil {
		s.t.Fatalf("PostgreSQL did not stop: %v", err)
	}
	s.db.Reset()
	s.stopped = true
}

func (s *stage) startServer() {
	s.t.Helper()
	if err := s.cluster.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.Exec(context.Background(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func (s *stage) number(sql string, args ...any) int {
	s.t.Helper()
	var n int
	if err := s.db.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// count is number for rows that may be moved to another partition meanwhile, when an ordinary query can see them nowhere.
func (s *stage) count(sql string, args ...any) (n int) {
	s.t.Helper()
	tx, err := audit.Table{Name: "outbox.events"}.BeginReading(context.Background(), s.db)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if err := tx.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// subscribe adds a subscription whose deliveries the receiver records under name.
func (s *stage) subscribe(name, tenant string, events ...string) *subscription {
	s.t.Helper()
	sub := &subscription{name: name, tenant: tenant, events: events}
	err := s.db.QueryRow(context.Background(),
		"INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES ($1, $2, $3, $4) RETURNING id::text",
		tenant, s.recv.url(name), events, receiverSecret).Scan(&sub.id)
	if err != nil {
		s.t.Fatal(err)
	}
	return sub
}

// command runs another command of the binary and returns what it prints.
func (s *stage) command(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), relayBinary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "GORACE=atexit_sleep_ms=0"}, s.env...)
	line := "relay " + strings.Join(args, " ")
	out, fault := output.Once("stdout of "+line), output.Once("stderr of "+line)
	cmd.Stdout, cmd.Stderr = out, fault
	err := cmd.Run()
	if text := fault.Said(s.t); err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, text)
	}
	return strings.TrimSpace(out.Said(s.t))
}

// subscribeByCommand is subscribe as an operator does it.
func (s *stage) subscribeByCommand(name, tenant string, events ...string) *subscription {
	s.t.Helper()
	args := []string{"subscriptions", "add", "--tenant", tenant, "--url", s.recv.url(name), "--secret", receiverSecret}
	for _, e := range events {
		args = append(args, "--event", e)
	}
	return &subscription{id: s.command(args...), name: name, tenant: tenant, events: events}
}

// confirmed is the slot's position, in bytes from the beginning of the WAL.
func (s *stage) confirmed() int {
	s.t.Helper()
	return s.number("SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1", s.slot)
}
