package health

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

var someFacts = Facts{Role: "relay", ReplicationRole: "repl", Database: "app", Table: "outbox.events", Slot: "relay_main", Publication: "pub"}

func TestDiagnose_NamesStateSentenceAndStatement(t *testing.T) {
	for _, tc := range []struct {
		during        Situation
		code, message string
		want          State
		remedy        string // part of it
	}{
		{ConnectReplication, "08P01", "unsupported startup parameter: replication", Misconfigured, "set database.replication_url to PostgreSQL itself"},
		{ConnectReplication, "42501", "must be superuser or replication role to start walsender", Misconfigured, "ALTER ROLE repl REPLICATION"},
		{ConnectReplication, "42501", "permission denied to start WAL sender", Misconfigured, "ALTER ROLE repl REPLICATION"},
		{ConnectReplication, "42501", `keine Berechtigung`, Misconfigured, "ALTER ROLE repl REPLICATION"},
		{Connect, "42501", `permission denied for database "app"`, Misconfigured, "GRANT CONNECT ON DATABASE app TO relay"},
		{Connect, "28P01", `password authentication failed for user "relay"`, Misconfigured, "ALTER ROLE relay PASSWORD"},
		{Connect, "28000", `no pg_hba.conf entry for host "10.0.0.1", user "relay", database "app", no encryption`, Misconfigured, "host app relay"},
		{Connect, "28000", `role "relay" does not exist`, Misconfigured, "CREATE ROLE relay LOGIN REPLICATION"},
		{Connect, "28000", `role "relay" is not permitted to log in`, Misconfigured, "ALTER ROLE relay LOGIN"},
		{Connect, "3D000", `database "app" does not exist`, Misconfigured, "CREATE DATABASE app"},
		{Connect, "57P04", `database was removed`, Misconfigured, "database.url"},
		{ConnectReplication, "42704", `unrecognized configuration parameter "schema"`, Misconfigured, "take it out of database.url"},
		{Connect, "53300", "sorry, too many clients already", OutOfResources, "max_connections"},
		{Connect, "53300", `too many connections for role "relay"`, OutOfResources, "ALTER ROLE relay CONNECTION LIMIT"},
		{ConnectReplication, "53300", "number of requested standby connections exceeds max_wal_senders (currently 1)", OutOfResources, "max_wal_senders"},
		{CreateSlot, "53400", "all replication slots are in use", OutOfResources, "max_replication_slots"},
		{ReadOutbox, "53400", "temporary file size exceeds temp_file_limit (1024kB)", OutOfResources, "ALTER ROLE relay SET temp_file_limit"},
		{ReadOutbox, "53200", "out of shared memory", OutOfResources, "max_locks_per_transaction"},
		{Record, "53100", `could not extend file "base/1/2": No space left on device`, OutOfResources, "room"},
		{Record, "25006", "cannot execute INSERT in a read-only transaction", ReadOnly, "target_session_attrs=read-write"},
		{CreateSlot, "55000", "logical decoding requires wal_level >= logical", Misconfigured, "ALTER SYSTEM SET wal_level = 'logical', then restart"},
		{Stream, "55000", `can no longer get changes from replication slot "s1"`, SlotLost, ""},
		{Stream, "55006", `replication slot "s1" is active for PID 42`, Standby, ""},
		{Stream, "42704", `replication slot "s1" does not exist`, SlotMissing, ""},
		{Stream, "42704", `publication "p1" does not exist`, PublicationMissing, ""},
		{Stream, "58P01", "requested WAL segment 000000010000000000000001 has already been removed", SlotLost, "pg_drop_replication_slot('relay_main')"},
		{Stream, "XX000", "invalid memory alloc request size", DecodePoison, "outbox.events"},
		{Stream, "22021", `invalid byte sequence for encoding "UTF8": 0xff`, DecodePoison, "outbox.events"},
		{Stream, "54000", "out of memory", DecodePoison, "outbox.events"},
		{CreatePublication, "42501", "must be owner of table events", Misconfigured, "ALTER TABLE outbox.events OWNER TO relay"},
		{CreatePublication, "42P01", `relation "outbox.events" does not exist`, Misconfigured, "set outbox.table"},
		{Record, "42P01", `relation "relay.parked" does not exist`, Misconfigured, "relay migrate"},
		{Record, "3F000", `schema "relay" does not exist`, Misconfigured, "relay migrate"},
		{Record, "42703", `column "x" does not exist`, Misconfigured, "relay migrate"},
		{Record, "42883", `function relay.advance(unknown) does not exist`, Misconfigured, "relay migrate"},
		{Record, "42501", `permission denied for table progress`, Misconfigured, "GRANT"},
		{Migrate, "42501", `permission denied for database app`, Misconfigured, "GRANT CREATE ON DATABASE app TO relay"},
		{Migrate, "42501", `permission denied for schema relay`, Misconfigured, "ALTER SCHEMA relay OWNER TO relay"},
		{Record, "57P01", "terminating connection due to administrator command", ShuttingDown, ""},
		{Record, "57P02", "terminating connection because of crash", ShuttingDown, ""},
		{Connect, "57P03", "the database system is starting up", ShuttingDown, ""},
		{Record, "57014", "canceling statement due to statement timeout", Degraded, "ALTER ROLE relay SET statement_timeout"},
		{Record, "42P05", `prepared statement "stmtcache_1" already exists`, Misconfigured, "pool_mode = session"},
		{Record, "26000", `prepared statement "stmtcache_1" does not exist`, Misconfigured, "pool_mode = session"},
		{Record, "57P05", "terminating connection due to idle-session timeout", Degraded, "idle_session_timeout"},
		{Record, "25P04", "terminating connection due to transaction timeout", Degraded, "transaction_timeout"},
		{Record, "55P03", "canceling statement due to lock timeout", Degraded, "pg_blocking_pids"},
		{Record, "23514", "violates check constraint", RecordingStalled, "DROP CONSTRAINT"},
		{Record, "XX000", "cache lookup failed", Degraded, "log of PostgreSQL"},
		{Record, "58030", "could not read file", Degraded, "log of PostgreSQL"},
		{Record, "99999", "something new", Unreachable, ""},
	} {
		cause := &pgconn.PgError{Severity: "ERROR", Code: tc.code, Message: tc.message, Detail: "its detail", Hint: "its hint"}
		got := Diagnose(During(tc.during, fmt.Errorf("do something: %w", cause)), someFacts)
		if got.State != tc.want || !strings.Contains(got.Remedy, tc.remedy) {
			t.Errorf("%s %s %q: %s, %q; want %s, %q", tc.during, tc.code, tc.message, got.State, got.Remedy, tc.want, tc.remedy)
		}
		for _, kept := range []string{"do something", tc.message, tc.code, "its detail", "its hint"} {
			if !strings.Contains(got.Sentence, kept) {
				t.Errorf("%s %s: %q lacks %q", tc.during, tc.code, got.Sentence, kept)
			}
		}
		if s := got.String(); strings.ContainsAny(s, "{}") || strings.Contains(s, "ROLE ...") {
			t.Errorf("%s %s: a name is not filled in: %s", tc.during, tc.code, s)
		}
		if !slices.Contains(States(), got.State) {
			t.Errorf("%s is no state", got.State)
		}
	}
}

func TestDiagnose_TakesAFaultAtItsWord(t *testing.T) {
	cause := errors.New("set up: it is so")
	want := Condition{State: WrongServer, Sentence: "set up: it is so", Remedy: "do this"}
	err := fmt.Errorf("lead: %w", WithCondition(cause, Condition{State: WrongServer, Remedy: "do this"}))
	if got := Diagnose(err, Facts{}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if !errors.Is(err, cause) || err.Error() != "lead: set up: it is so; do this" {
		t.Errorf("%v", err)
	}
}

func TestDiagnose_QuotesNamesThatNeedIt(t *testing.T) {
	got := Diagnose(During(ConnectReplication, &pgconn.PgError{Code: "42501"}), Facts{Role: `My "Relay"`})
	if got.Remedy != `ALTER ROLE "My ""Relay""" REPLICATION` {
		t.Errorf("remedy %s", got.Remedy)
	}
}

// What cannot be parsed may be a password: nothing of it is shown.
func TestDescribe_ShowsNothingOfAConnectionStringThatCannotBeParsed(t *testing.T) {
	for _, url := range []string{"postgres://relay:hunter#2secret@db:5432/app", "postgres://relay:hun/ter2secret@db:5432/app",
		"postgres://relay:100%hunter2secret@db/app", "postgres://relay:hun?ter2secret@db:5432/app", "host=db password='hunter2secret", "postgres://relay:h@unter2secret:x@db:y/app"} {
		_, err := pgconn.ParseConfig(url)
		if err == nil {
			continue
		}
		c := Diagnose(fmt.Errorf("database.url: %w", err), Facts{})
		for _, piece := range []string{"hun", "ter2", "secret"} {
			if strings.Contains(c.String(), piece) {
				t.Errorf("%s: shows %q: %s", url, piece, c)
			}
		}
		if c.State != Misconfigured || !strings.Contains(c.Remedy, "%40") {
			t.Errorf("%s: %+v", url, c)
		}
	}
}

func TestDescribe_SaysTheCauseOfARefusedConnectionOnce(t *testing.T) {
	_, err := pgconn.Connect(t.Context(), "postgres://relay:geheim@127.0.0.1:1/app?sslmode=prefer&connect_timeout=5")
	if err == nil {
		t.Fatal("connected to port 1")
	}
	s := Describe(fmt.Errorf("connect: %w", err))
	if strings.Count(s, "refused") != 1 || strings.Contains(s, "\n") || strings.Contains(s, "geheim") || !strings.Contains(s, "role relay, database app") {
		t.Errorf("%s", s)
	}
	if c := Diagnose(err, Facts{}); c.State != Unreachable || !strings.Contains(c.Remedy, "database.url") {
		t.Errorf("%+v", c)
	}
}

func TestDuring_TheInnermostNoteCounts(t *testing.T) {
	if During(Connect, nil) != nil {
		t.Error("no error became one")
	}
	err := During(Record, fmt.Errorf("x: %w", During(CreateSlot, errors.New("y"))))
	if situation(err) != CreateSlot || err.Error() != "x: y" {
		t.Errorf("%s during %s", err, situation(err))
	}
}
