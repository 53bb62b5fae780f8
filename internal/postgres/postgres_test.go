package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
	"github.com/outbox-relay/relay/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m, pgtest.NoLeaks()) }

func TestCheck_RefusesWhatPostgreSQLDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ params, unknown, use string }{
		{"sslmode=disable&connect_timeout=3&application_name=x&target_session_attrs=any&channel_binding=prefer", "", ""},
		{"keepalives_idle=30&tcp_user_timeout=10000&gssencmode=disable", "", ""},
		{"statement_timeout=5s&LOCK_TIMEOUT=1s&search_path=a&myapp.tenant=1&options=-c%20geqo%3Doff&transaction_timeout=0", "", ""},
		{"default_query_exec_mode=simple_protocol&statement_cache_capacity=0", "", ""},
		{"schema=public", "schema", "outbox.table has the schema of the outbox, and the relay's own is always relay"},
		{"pgbouncer=true", "pgbouncer", "the relay sees a pooler by itself"},
		{"connection_limit=5", "connection_limit", "database.max_connections"},
		{"pool_max_conns=10", "pool_max_conns", "database.max_connections"},
		{"pool_min_conns=10", "pool_min_conns", "database.max_connections"},
		{"ssl_mode=disable", "ssl_mode", "sslmode"},
		{"statement_timout=1s", "statement_timout", "statement_timeout"},
		{"keepalive_idle=30", "keepalive_idle", "keepalives_idle"},
		{"quite_another_thing=1", "quite_another_thing", ""},
	} {
		unknown, use := postgres.Check("postgres://u:p@127.0.0.1/d?" + c.params)
		if unknown != c.unknown || use != c.use {
			t.Errorf("%s: got %q, %q; want %q, %q", c.params, unknown, use, c.unknown, c.use)
		}
	}
}

func TestOpen_SessionsAreTheSameWhateverRoleAndDatabaseSet(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	database := pgx.Identifier{conn.Config().Database}.Sanitize()
	want := map[string]string{"client_encoding": "UTF8", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "bytea_output": "hex",
		"extra_float_digits": "3", "row_security": "off", "statement_timeout": "0", "idle_in_transaction_session_timeout": "0",
		"idle_session_timeout": "0", "application_name": "relay test", "lock_timeout": "15s"}
	for name, value := range map[string]string{"client_encoding": "LATIN1", "DateStyle": "German", "IntervalStyle": "iso_8601", "bytea_output": "escape",
		"extra_float_digits": "-5", "row_security": "on", "statement_timeout": "1s", "idle_in_transaction_session_timeout": "1s",
		"idle_session_timeout": "1s", "lock_timeout": "1ms", "standard_conforming_strings": "off"} {
		if _, err := conn.Exec(t.Context(), "ALTER DATABASE "+database+" SET "+name+" = '"+value+"'"); err != nil {
			t.Fatal(err)
		}
	}
	for _, more := range []string{"", "&datestyle=SQL&default_query_exec_mode=simple_protocol"} {
		pool, err := postgres.Open(t.Context(), url+more, postgres.Options{Application: "relay test", Connections: 2, Defaults: map[string]string{"lock_timeout": "15s"}})
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range want {
			var got string
			if err := pool.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&got); err != nil || got != value {
				t.Errorf("%s is %q, want %q (%v)", name, got, value, err)
			}
		}
		pool.Close()
	}
	pool, err := postgres.Open(t.Context(), url+"&statement_timeout=7s", postgres.Options{Application: "relay test"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var got string
	if err := pool.QueryRow(t.Context(), "SHOW statement_timeout").Scan(&got); err != nil || got != "7s" {
		t.Errorf("what the connection string bounds is %q (%v)", got, err)
	}
	stream, err := postgres.Replicate(t.Context(), url+"&statement_timeout=7s&default_query_exec_mode=exec&statement_cache_capacity=0", postgres.Options{Application: "relay test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close(context.Background()) }()
	for name, value := range map[string]string{"statement_timeout": "0", "client_encoding": "UTF8", "TimeZone": "UTC"} {
		results, err := stream.Exec(t.Context(), "SHOW "+name).ReadAll()
		if err != nil || string(results[0].Rows[0][0]) != value {
			t.Errorf("%s of the stream is not %s (%v)", name, value, err)
		}
	}
}

// A writer that became a reader keeps its sockets. New sessions could write again before old ones do.
func TestOpen_LeavesSessionsThatTakeNoWrites(t *testing.T) {
	t.Parallel()
	url := pgtest.NewDatabase(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	database := pgx.Identifier{conn.Config().Database}.Sanitize()
	exec("CREATE TABLE written (n int)")
	pool, err := postgres.Open(t.Context(), url, postgres.Options{Application: "relay test", Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	exec("ALTER DATABASE " + database + " SET default_transaction_read_only = on")
	var sessions []*pgxpool.Conn
	for range 3 {
		c, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, c)
	}
	for _, c := range sessions {
		c.Release()
	}
	if n := pool.Stat().IdleConns(); n != 3 {
		t.Fatalf("%d sessions wait, want 3", n)
	}
	exec("SET default_transaction_read_only = off")
	exec("ALTER DATABASE " + database + " RESET default_transaction_read_only")
	const write = "INSERT INTO written VALUES (1)"
	var pg *pgconn.PgError
	if _, err := pool.Exec(t.Context(), write); !errors.As(err, &pg) || pg.Code != "25006" {
		t.Fatalf("got %v, want the session's 25006", err)
	}
	for pool.Stat().IdleConns() > 0 { // the others go too, in a moment
		if t.Context().Err() != nil {
			t.Fatal("the other sessions are still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := pool.Exec(t.Context(), write); err != nil {
		t.Errorf("a new session: %v", err)
	}
}
