// Package pgtest gives each test of a package a database of its own on one PostgreSQL server.
//
// A package's TestMain is
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// and its tests call NewDatabase, NewCopy when each begins with the same tables, or NewCluster when they stop the server.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/test/output"
)

// limit bounds each step of making and dropping servers and databases.
const limit = 2 * time.Minute

// shared is the server of this test binary.
var shared struct {
	once    sync.Once
	cluster *pgcluster.Cluster
	err     error
}

var databases atomic.Int64

// Main runs the tests, closes the shared server and exits. Each check is run after a successful run, with the server
// already gone; its error fails the binary. See NoLeaks.
func Main(m *testing.M, checks ...func() error) {
	os.Exit(run(m, checks, closeShared))
}

func run(m interface{ Run() int }, checks []func() error, closeServer func() error) int {
	code := m.Run()
	if err := closeServer(); err != nil {
		fmt.Fprintln(os.Stderr, "close test server:", err)
		code = max(code, 1)
	}
	if code != 0 {
		return code
	}
	for _, check := range checks {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

// NoLeaks is a check for Main: no goroutine that a test started may be left.
func NoLeaks(options ...goleak.Option) func() error {
	return func() error { return goleak.Find(options...) }
}

// IgnoreServer makes goleak pass over the goroutines that wait for running servers, for a leak check inside one test.
func IgnoreServer() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/outbox-relay/relay/internal/pgcluster.reap")
}

// NewDatabase makes an empty database on the shared server, which the first call starts, and returns its URL. When
// the test ends, secrets of it are looked for in the relay's tables, and the database is dropped, with the slots and sessions
// that are still on it.
func NewDatabase(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func(ctx context.Context, c *pgcluster.Cluster, name string) (string, error) {
		return c.CreateDatabase(ctx, name)
	})
}

// template is what NewCopy copies.
var template struct {
	once sync.Once
	err  error
}

// NewCopy is NewDatabase with what prepare makes in it, such as the relay's schemas. prepare runs once a test binary, so all
// calls give the same one.
func NewCopy(t testing.TB, prepare func(ctx context.Context, url string) error) string {
	t.Helper()
	like := fmt.Sprintf("template_%d", os.Getpid())
	return newDatabase(t, func(ctx context.Context, c *pgcluster.Cluster, name string) (string, error) {
		template.once.Do(func() {
			var url string
			if url, template.err = c.CreateDatabase(ctx, like); template.err == nil {
				template.err = prepare(ctx, url)
			}
		})
		if template.err != nil {
			return "", template.err
		}
		return c.CopyDatabase(ctx, name, like)
	})
}

func newDatabase(t testing.TB, create func(ctx context.Context, c *pgcluster.Cluster, name string) (string, error)) string {
	t.Helper()
	c := sharedCluster(t)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))
	url, err := create(ctx, c, name)
	if err != nil {
		t.Fatalf("%v\nserver log:\n%s", err, c.LogTail(20))
	}
	output.Begin(t)
	t.Cleanup(func() {
		if err := output.CheckDatabase(t, url); err != nil {
			t.Error(err)
		}
		if err := dropDatabase(c, name); err != nil {
			t.Errorf("%v\nserver log:\n%s", err, c.LogTail(20))
		}
	})
	return url
}

// Shared is the server behind NewDatabase; the first call starts it. Do not stop it, other tests are on it.
func Shared(t testing.TB) *pgcluster.Cluster {
	t.Helper()
	return sharedCluster(t)
}

// NewCluster starts a server for one test, closed when the test ends. At most one Options may be given.
func NewCluster(t testing.TB, options ...pgcluster.Options) *pgcluster.Cluster {
	t.Helper()
	if len(options) > 1 {
		t.Fatal("NewCluster: more than one Options")
	}
	var o pgcluster.Options
	if len(options) == 1 {
		o = options[0]
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := pgcluster.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("server log:\n%s", c.LogTail(40))
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func sharedCluster(t testing.TB) *pgcluster.Cluster {
	t.Helper()
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		shared.cluster, shared.err = pgcluster.Start(ctx, pgcluster.Options{})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

func closeShared() error {
	if shared.cluster == nil {
		return nil
	}
	return shared.cluster.Close()
}

// dropDatabase ends what reads the database's slots, drops them, then the database: PostgreSQL refuses to drop a database
// that has a logical slot, even by force.
func dropDatabase(c *pgcluster.Cluster, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := dropSlots(ctx, conn, name); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	if _, err := conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

// dropSlots repeats until no slot is left: a walsender that was told to end holds its slot a moment longer, and a client
// that comes back takes it again.
func dropSlots(ctx context.Context, conn *pgx.Conn, database string) error {
	for {
		_, err := conn.Exec(ctx, `
			SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
			WHERE database = $1 AND active_pid IS NOT NULL`, database)
		if err != nil {
			return fmt.Errorf("end walsenders: %w", err)
		}
		var left int
		err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_replication_slots WHERE database = $1`, database).Scan(&left)
		if err != nil {
			return fmt.Errorf("count slots: %w", err)
		}
		if left == 0 {
			return nil
		}
		_, err = conn.Exec(ctx, `
			SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
			WHERE database = $1 AND active_pid IS NULL`, database)
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("drop slots: %w", err)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("drop slots: %w", context.Cause(ctx)), err)
		}
	}
}
