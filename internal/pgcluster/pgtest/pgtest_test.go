package pgtest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/pgcluster"
)

func TestMain(m *testing.M) { Main(m, NoLeaks()) }

func TestNewDatabase_GivesEachTestItsOwn(t *testing.T) {
	first, second := NewDatabase(t), NewDatabase(t)
	if first == second {
		t.Fatal("two tests share a database")
	}
	for _, url := range []string{first, second} {
		conn := mustConnect(t, url)
		if _, err := conn.Exec(deadline(t), "CREATE TABLE mine (n int)"); err != nil {
			t.Error(err)
		}
	}
}

// The database has a session, an idle slot, and a slot with a walsender on it.
func TestNewDatabase_DropsSlotsAndSessionsAtTheEnd(t *testing.T) {
	var session *pgx.Conn
	var stream *pgconn.PgConn
	t.Run("user", func(t *testing.T) {
		url := NewDatabase(t)
		var err error
		if session, err = pgx.Connect(deadline(t), url); err != nil {
			t.Fatal(err)
		}
		for _, sql := range []string{
			"CREATE PUBLICATION p FOR ALL TABLES",
			"SELECT pg_create_logical_replication_slot('idle', 'pgoutput')",
		} {
			if _, err := session.Exec(deadline(t), sql); err != nil {
				t.Fatal(err)
			}
		}
		if stream, err = pgconn.Connect(deadline(t), url+"&replication=database"); err != nil {
			t.Fatal(err)
		}
		_, err = pglogrepl.CreateReplicationSlot(deadline(t), stream, "busy", "pgoutput",
			pglogrepl.CreateReplicationSlotOptions{})
		if err != nil {
			t.Fatal(err)
		}
		err = pglogrepl.StartReplication(deadline(t), stream, "busy", 0, pglogrepl.StartReplicationOptions{
			PluginArgs: []string{"proto_version '1'", "publication_names 'p'"},
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	stream.Close(deadline(t))
	session.Close(deadline(t))
	var slots, databases int
	err := mustConnect(t, Shared(t).URL("postgres")).QueryRow(deadline(t), `
		SELECT (SELECT count(*) FROM pg_replication_slots),
		       (SELECT count(*) FROM pg_database WHERE datname LIKE 'test\_%')`).Scan(&slots, &databases)
	if err != nil {
		t.Fatal(err)
	}
	if slots != 0 || databases != 0 {
		t.Errorf("%d slots and %d databases are left", slots, databases)
	}
}

func TestNewCluster_IsApartFromTheSharedServer(t *testing.T) {
	c := NewCluster(t, pgcluster.Options{Settings: map[string]string{"max_replication_slots": "3"}})
	if c.Port() == Shared(t).Port() {
		t.Error("same port as the shared server")
	}
	var slots string
	if err := mustConnect(t, c.URL("postgres")).QueryRow(deadline(t), "SHOW max_replication_slots").Scan(&slots); err != nil {
		t.Fatal(err)
	}
	if slots != "3" {
		t.Errorf("max_replication_slots is %s, want 3", slots)
	}
}

func TestIgnoreServer_LetsLeakChecksPassBesideRunningServers(t *testing.T) {
	Shared(t)
	if err := goleak.Find(IgnoreServer()); err != nil {
		t.Error(err)
	}
}

type fakeRun int

func (r fakeRun) Run() int { return int(r) }

func TestRun_ReportsFailedTestsAndChecks(t *testing.T) {
	leak := func() error { return errors.New("leak") }
	for _, c := range []struct {
		name   string
		code   fakeRun
		checks []func() error
		want   int
	}{
		{"all is well", 0, []func() error{func() error { return nil }}, 0},
		{"tests fail", 3, nil, 3},
		{"a check fails", 0, []func() error{leak}, 1},
		{"a failed run is not checked", 2, []func() error{leak}, 2},
	} {
		if got := run(c.code, c.checks, func() error { return nil }); got != c.want {
			t.Errorf("%s: code %d, want %d", c.name, got, c.want)
		}
	}
	if got := run(fakeRun(0), nil, leak); got != 1 {
		t.Errorf("a server that cannot be closed: code %d, want 1", got)
	}
}

func mustConnect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	if !strings.Contains(url, "127.0.0.1") {
		t.Fatalf("URL %s is not local", url)
	}
	conn, err := pgx.Connect(deadline(t), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
