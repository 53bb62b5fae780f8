package cdc

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestStream_DeliversInCommitOrder(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	other := o.session()
	early, err := o.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := early.Exec(t.Context(), `INSERT INTO events (body) VALUES ('began first')`); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec(t.Context(), `INSERT INTO events (body) VALUES ('committed first')`); err != nil {
		t.Fatal(err)
	}
	if _, err := early.Exec(t.Context(), `INSERT INTO events (body) VALUES ('second row')`); err != nil {
		t.Fatal(err)
	}
	if err := early.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := o.consume(0).wants("committed first", "began first,second row")
	if got[1].begin.CommitLSN < got[0].commit.EndLSN {
		t.Errorf("transaction %s comes after one that ends at %s", got[1].begin.CommitLSN, got[0].commit.EndLSN)
	}
	if got[0].begin.XID == 0 || got[0].begin.CommitTime.IsZero() {
		t.Errorf("begin without xid or time: %+v", got[0].begin)
	}
}

func TestStream_DeliversNothingOfWhatWasRolledBack(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.exec(`BEGIN; INSERT INTO events (body) VALUES ('aborted'); ROLLBACK`)
	o.exec(`BEGIN; INSERT INTO events (body) VALUES ('a'); SAVEPOINT s; INSERT INTO events (body) VALUES ('rolled back');
		ROLLBACK TO s; INSERT INTO events (body) VALUES ('b'); SAVEPOINT r; INSERT INTO events (body) VALUES ('c');
		RELEASE r; COMMIT`)
	o.insert("last")
	o.consume(0).wants("a,b,c", "last")
}

func TestStream_DeliversInsertsOnly(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.insert("one")
	o.exec(`UPDATE events SET body = 'changed'; DELETE FROM events; TRUNCATE events`)
	o.insert("two")
	o.consume(0).wants("one", "two")
}

// The law of the end: a transaction is skipped exactly when its commit record
// begins before the confirmed position.
func TestStream_RepeatsWhatIsNotConfirmedByItsEnd(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.insert("one", "two", "three")
	c := o.consume(0)
	got := c.wants("one", "two", "three")
	if err := c.stream.Confirm(got[0].commit.EndLSN); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(waitLimit); err != nil {
		t.Fatal(err)
	}
	c = o.consume(0)
	c.wants("two", "three")
	// The begin of the second's commit record is no end: the second comes again.
	if err := c.stream.Confirm(got[1].commit.CommitLSN); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(waitLimit); err != nil {
		t.Fatal(err)
	}
	o.consume(0).wants("two", "three")
}

func TestStream_StartsWhereItIsTold(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.insert("one", "two", "three")
	c := o.consume(0)
	got := c.wants("one", "two", "three")
	if err := c.stop(waitLimit); err != nil {
		t.Fatal(err)
	}
	at := o.slotState().ConfirmedFlush
	if at >= got[0].commit.CommitLSN {
		t.Fatalf("the slot stands at %s though nothing was confirmed", at)
	}
	c = o.consume(got[1].commit.EndLSN)
	c.wants("three")
	if c.stream.Confirmed() != got[1].commit.EndLSN {
		t.Errorf("confirmed %s, want what is recorded: %s", c.stream.Confirmed(), got[1].commit.EndLSN)
	}
}

func TestStream_RepeatsNothingThatWasConfirmedWhenStartIsLower(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	conn := o.connect()
	point := o.createSlot(conn).ConsistentPoint
	conn.Close()
	o.insert("one", "two")
	c := o.consume(0)
	got := c.wants("one", "two")
	if err := c.stream.Confirm(got[0].commit.EndLSN); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(waitLimit); err != nil {
		t.Fatal(err)
	}
	o.consume(point).wants("two")
}

func TestStart_RefusesRecordedBeyondStart(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	conn := o.connect()
	defer conn.Close()
	if _, err := conn.Start(t.Context(), o.options(), 10, 11); err == nil {
		t.Error("started before what is recorded")
	}
	opts := o.options()
	opts.Slot = `x LOGICAL 0/0; DROP`
	if _, err := conn.Start(t.Context(), opts, 0, 0); err == nil {
		t.Error("took a slot name that would be part of the command")
	}
}

func TestStart_FindsThatTheSlotIsMissing(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	conn := o.connect()
	defer conn.Close()
	_, err := conn.Start(t.Context(), o.options(), 0, 0)
	if Classify(err) != health.SlotMissing {
		t.Errorf("%v is %s, want %s", err, Classify(err), health.SlotMissing)
	}
}

// The law of the publication: rows that were written between slot and
// publication can never be streamed.
func TestStream_FailsForEverWhenTheSlotIsOlderThanThePublication(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	o.exec(`DROP PUBLICATION relay`)
	o.withSlot()
	o.insert("too early")
	if _, err := o.pub.Ensure(t.Context(), o.db); err != nil {
		t.Fatal(err)
	}
	o.insert("later")
	for range 2 {
		err := o.consume(0).failure()
		if pgtest.Shared(t).Version() >= 18 {
			// It skips the rows and says so in a notice; to us that is no less an end.
			if !errors.Is(err, ErrPublicationMissing) {
				t.Errorf("%v, want %v", err, ErrPublicationMissing)
			}
			return
		}
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "42704" || Classify(err) != health.PublicationMissing {
			t.Errorf("%v (%s), want SQLSTATE 42704 and %s", err, Classify(err), health.PublicationMissing)
		}
	}
}

func TestStream_TakesAPublicationWithAnyName(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	o.pub.Name = `it's "odd", Name`
	if created, err := o.pub.Ensure(t.Context(), o.db); err != nil || !created {
		t.Fatal(created, err)
	}
	o.withSlot().insert("one")
	o.consume(0).wants("one")
}

func TestStream_FollowsChangesOfTheTable(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, `CREATE TABLE events (id bigserial PRIMARY KEY, body text, note text)`).withSlot()
	c := o.consume(0)
	names := func(x transaction) string {
		var all []string
		for _, col := range x.rows[0].Row.Relation.Columns {
			all = append(all, col.Name)
		}
		return strings.Join(all, " ")
	}
	for _, step := range []struct{ ddl, body, columns string }{
		{`SELECT 1`, "as made", "id body note"},
		{`ALTER TABLE events ADD COLUMN added int DEFAULT 5`, "added", "id body note added"},
		{`ALTER TABLE events DROP COLUMN note`, "dropped", "id body added"},
		{`ALTER TABLE events RENAME body TO old; ALTER TABLE events ADD COLUMN body text; ALTER TABLE events DROP COLUMN old`,
			"reordered", "id added body"},
		{`ALTER TABLE events ALTER COLUMN added TYPE text`, "retyped", "id added body"},
	} {
		o.exec(step.ddl)
		o.insert(step.body)
		// The rewrite of a table may bring a transaction without rows.
		x := c.transaction()
		for len(x.rows) == 0 {
			x = c.transaction()
		}
		if got := strings.Join(x.bodies(), ","); got != step.body {
			t.Fatalf("after %s: body %q, want %q", step.ddl, got, step.body)
		}
		if got := names(x); got != step.columns {
			t.Errorf("after %s: columns %q, want %q", step.ddl, got, step.columns)
		}
	}
}

func TestStream_ChangesTheRelationInsideATransaction(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.exec(`INSERT INTO events (body) VALUES ('narrow'); ALTER TABLE events ADD COLUMN extra text;
		INSERT INTO events (body, extra) VALUES ('wide', 'x')`)
	x := o.consume(0).wants("narrow,wide")[0]
	if n, m := len(x.rows[0].Row.Values), len(x.rows[1].Row.Values); n != 2 || m != 3 {
		t.Errorf("%d and %d values, want 2 and 3", n, m)
	}
}

func TestStream_NamesThePartitionRoot(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, `CREATE TABLE events (id bigserial, body text, day int NOT NULL, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
		CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (10);
		CREATE TABLE events_rest (body text, day int NOT NULL, id bigint NOT NULL DEFAULT 7);
		ALTER TABLE events ATTACH PARTITION events_rest DEFAULT`).withSlot()
	o.exec(`INSERT INTO events (body, day) VALUES ('through the root', 1)`)
	o.exec(`INSERT INTO events_1 (body, day) VALUES ('into the leaf', 2)`)
	o.exec(`INSERT INTO events_rest (body, day) VALUES ('into a leaf with another order', 50)`)
	o.exec(`CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (20) TO (30)`)
	o.exec(`INSERT INTO events_2 (body, day) VALUES ('into a new leaf', 20)`)
	got := o.consume(0).wants("through the root", "into the leaf", "into a leaf with another order", "into a new leaf")
	for _, x := range got {
		if r := x.rows[0].Row.Relation; r.Schema != "public" || r.Name != "events" {
			t.Errorf("%v comes as %s.%s, want public.events", x.bodies(), r.Schema, r.Name)
		}
	}
}

func TestStream_TakesTransactionalMessagesOnly(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	for i := range 3 {
		o.exec(fmt.Sprintf(`SELECT pg_logical_emit_message(true, 'relay.test', repeat('%d', 5000))`, i))
	}
	o.exec(`SELECT pg_logical_emit_message(false, 'relay.test', 'at once')`)
	o.exec(`BEGIN; SELECT pg_logical_emit_message(true, 'relay.test', 'aborted');
		SELECT pg_logical_emit_message(false, 'relay.test', 'aborted, at once'); ROLLBACK`)
	o.exec(`INSERT INTO events (body) VALUES ('row'); SELECT pg_logical_emit_message(true, 'relay.test', 'behind it')`)
	// All are kept until the last has arrived: none may be a view of the buffer.
	o.consume(0).wants("message "+strings.Repeat("0", 5000), "message "+strings.Repeat("1", 5000),
		"message "+strings.Repeat("2", 5000), "row,message behind it")
}

func TestStream_KeepsRowsWhileTheBufferIsReused(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.exec(`INSERT INTO events (body) SELECT repeat(chr(97 + i % 26), 3000) FROM generate_series(0, 199) i`)
	x := o.consume(0).transaction()
	if len(x.rows) != 200 {
		t.Fatalf("%d rows, want 200", len(x.rows))
	}
	for i, body := range x.bodies() {
		if body != strings.Repeat(string(rune(97+i%26)), 3000) {
			t.Errorf("row %d was overwritten: %.20q", i, body)
		}
	}
}

func TestStream_KeepsMemoryBoundedInALargeTransaction(t *testing.T) {
	const rows, width = 200_000, 500
	const limit = 48 << 20 // the transaction's text alone is twice as long
	o := newOutbox(t, eventsTable).withSlot()
	o.exec(fmt.Sprintf(`INSERT INTO events (body) SELECT repeat('x', %d) FROM generate_series(1, %d)`, width, rows))
	c := o.consume(0)
	c.nextBegin()
	var highest uint64
	for n := 0; ; n++ {
		it := c.next()
		if it.Kind == ItemCommit {
			if n != rows {
				t.Errorf("%d rows, want %d", n, rows)
			}
			break
		}
		if n%10_000 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			highest = max(highest, m.HeapInuse)
		}
	}
	if highest > limit {
		t.Errorf("%d MiB of heap in use for a transaction of %d MB, want at most %d", highest>>20, rows*width/1_000_000, limit>>20)
	}
}

func TestStream_PinsTheSettingsThatChangeTheText(t *testing.T) {
	t.Parallel()
	odd := []string{"datestyle = 'German'", "timezone = 'Asia/Tokyo'", "bytea_output = 'escape'",
		"extra_float_digits = '-3'", "intervalstyle = 'sql_standard'", "statement_timeout = '1ms'",
		"lock_timeout = '1ms'", "client_encoding = 'LATIN1'"}
	const table = `CREATE TABLE events (id bigserial PRIMARY KEY, body text, at timestamptz, day date, span interval,
		number float8, raw bytea)`
	const row = `INSERT INTO events (body, at, day, span, number, raw) VALUES
		('naïve ☃', '2026-11-23 10:00:00+00', '2026-11-23', '1 day 02:03:04', 0.1::float8 + 0.2::float8, '\x00ff10')`
	want := map[string]string{"body": "naïve ☃", "at": "2026-11-23 10:00:00+00", "day": "2026-11-23",
		"span": "1 day 02:03:04", "number": "0.30000000000000004", "raw": `\x00ff10`}
	database := pgtest.NewDatabase(t)
	name := strings.TrimSuffix(database[strings.LastIndex(database, "/")+1:], "?sslmode=disable")
	o := newOutboxAt(t, database, table).withSlot()
	role := name + "_role"
	o.exec("CREATE ROLE " + role + " SUPERUSER REPLICATION LOGIN")
	t.Cleanup(func() {
		if _, err := o.db.Exec(context.WithoutCancel(t.Context()), "DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	for _, s := range odd {
		o.exec("ALTER DATABASE " + name + " SET " + s)
		o.exec("ALTER ROLE " + role + " SET " + s)
	}
	o.exec(row)
	for who, at := range map[string]string{"database": database, "role": strings.Replace(database, "postgres@", role+"@", 1)} {
		t.Run(who, func(t *testing.T) {
			conn, err := Connect(t.Context(), at, "cdc-test")
			if err != nil {
				t.Fatal(err)
			}
			c := o.run(conn, o.options(), 0)
			x := c.transaction()
			for column, text := range want {
				if got := columnOf(x.rows[0], column); got != text {
					t.Errorf("%s is %q, want %q", column, got, text)
				}
			}
			if err := c.stop(waitLimit); err != nil {
				t.Error(err)
			}
		})
	}
}
