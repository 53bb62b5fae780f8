package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, pgtest.NoLeaks(goleak.IgnoreCurrent())) }

var events = Table{Name: "outbox.events", Columns: columns}

// fixture is a migrated database and what a stream would have shown of it.
type fixture struct {
	t    *testing.T
	url  string
	conn *pgx.Conn
	j    *Journal
	lsn  cdc.LSN

	recorded []cdc.Tally // what a leader would have put on record
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureAt(t, migratetest.NewDatabase(t))
}

// newLoneFixture has a cluster of its own: what runs elsewhere in a cluster, and ends, makes a
// window wider.
func newLoneFixture(t *testing.T) *fixture {
	t.Helper()
	url, err := pgtest.NewCluster(t).CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	return newFixtureOn(t, url)
}

func newFixtureOn(t *testing.T, url string) *fixture {
	t.Helper()
	if _, err := migrate.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	return newFixtureAt(t, url)
}

func newFixtureAt(t *testing.T, url string) *fixture {
	t.Helper()
	f := &fixture{t: t, url: url, lsn: 100}
	f.conn = f.connect()
	f.j = NewJournal(columns, f.snapshot(), nil)
	return f
}

func (f *fixture) connect() *pgx.Conn {
	f.t.Helper()
	conn, err := pgx.Connect(f.t.Context(), f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (f *fixture) snapshot() cdc.Snapshot {
	f.t.Helper()
	var s string
	if err := f.conn.QueryRow(f.t.Context(), "SELECT pg_current_snapshot()::text").Scan(&s); err != nil {
		f.t.Fatal(err)
	}
	snap, err := cdc.ParseSnapshot(s)
	if err != nil {
		f.t.Fatal(err)
	}
	return snap
}

const insert = `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
SELECT 'acme', 'a', 'b', 'c', '{}' FROM generate_series(1, $1) RETURNING id, xid::text::bigint`

// write commits a transaction of n rows, of which the stream shows all but the first
// hidden ones.
func (f *fixture) write(n, hidden int) (xid uint64, ids []uuid.UUID) {
	f.t.Helper()
	rows, err := f.conn.Query(f.t.Context(), insert, n)
	if err != nil {
		f.t.Fatal(err)
	}
	var id uuid.UUID
	var x int64
	if _, err := pgx.ForEachRow(rows, []any{&id, &x}, func() error { ids = append(ids, id); return nil }); err != nil {
		f.t.Fatal(err)
	}
	f.lsn += 10
	f.recorded = append(f.recorded, bring(f.j, f.lsn, uint64(x), ids[hidden:]...)...)
	return uint64(x), ids
}

func (f *fixture) compare() Result {
	f.t.Helper()
	f.j.Expect("m")
	return f.compareAt(f.snapshot())
}

// compareAt is compare with a marker that is expected already.
func (f *fixture) compareAt(snapshot cdc.Snapshot) Result {
	f.t.Helper()
	f.lsn += 10
	f.j.Marker("m", f.lsn)
	w, _ := f.j.Cut(snapshot)
	const record = "INSERT INTO relay.accounted (slot, max_lsn, entries) VALUES ('s', '0/1', $1)"
	if _, err := f.conn.Exec(f.t.Context(), record, cdc.AppendTallies([]byte{}, f.recorded)); err != nil {
		f.t.Fatal(err)
	}
	res, err := events.Compare(f.t.Context(), f.conn, "s", w)
	if err != nil {
		f.t.Fatal(err)
	}
	return res
}

func TestCompare_NamesWhatDidNotCome(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write(3, 0)
	f.write(100, 0)
	if res := f.compare(); res.Rows != 103 || len(res.Missing) != 0 || res.Vanished != 0 {
		t.Fatalf("%+v; want 103 rows in order", res)
	}
	f.write(5, 0)
	whole, _ := f.write(4, 4)
	part, ids := f.write(6, 2)
	res := f.compare()
	if res.Rows != 15 || len(res.Missing) != 2 {
		t.Fatalf("%+v; want 15 rows and two gaps", res)
	}
	for _, g := range res.Missing {
		var missing []uuid.UUID
		for _, id := range ids {
			if !g.Came(id) {
				missing = append(missing, id)
			}
		}
		switch {
		case g.XID == whole && g.Rows == 4:
		case g.XID == part && slices.Equal(missing, ids[:2]):
		default:
			t.Errorf("gap of transaction %d with %d rows, missing %v", g.XID, g.Rows, missing)
		}
	}
	if res := f.compare(); res.Rows != 0 || len(res.Missing) != 0 {
		t.Errorf("%+v; want an empty window", res)
	}
}

// A backlog comes in after its marker was sent: the transactions are added up, and
// what is on record tells which of them is not whole.
func TestCompare_NamesWhatDidNotComeOfABacklog(t *testing.T) {
	t.Parallel()
	for name, hidden := range map[string]int{"nothing is missing": 0, "one transaction is missing": 2, "a row of one is missing": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			const backlog = keepEach + 1000
			if _, err := f.conn.Exec(t.Context(), "SET synchronous_commit = off"); err != nil {
				t.Fatal(err)
			}
			_, err := f.conn.Exec(t.Context(), fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
    INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) SELECT 'acme', 'a', 'b', 'c', '{}' FROM generate_series(1, 2);
    COMMIT;
END LOOP; END $$`, backlog))
			if err != nil {
				t.Fatal(err)
			}
			shown := f.snapshot()
			f.j.Expect("m")
			f.j.Emitted(shown.Xmax, shown)
			rows, err := f.conn.Query(t.Context(), "SELECT xid::text::bigint, array_agg(id) FROM outbox.events GROUP BY xid ORDER BY xid::text::bigint")
			if err != nil {
				t.Fatal(err)
			}
			var odd, x uint64
			var ids []uuid.UUID
			n := 0
			if _, err := pgx.ForEachRow(rows, []any{&x, &ids}, func() error {
				if n++; n == 100 {
					odd, ids = x, ids[hidden:]
				}
				f.lsn += 10
				f.recorded = append(f.recorded, bring(f.j, f.lsn, x, ids...)...)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if n != backlog || len(f.j.done) > keepEach {
				t.Errorf("%d transactions of %d are kept one by one", len(f.j.done), n)
			}
			f.write(3, 0) // after the marker
			res := f.compareAt(shown)
			if res.Rows != 2*backlog || res.Vanished != 0 {
				t.Errorf("%d rows, %d vanished; want %d and none", res.Rows, res.Vanished, 2*backlog)
			}
			switch {
			case hidden == 0 && len(res.Missing) != 0:
				t.Errorf("missing: %v", res.Missing)
			case hidden > 0 && (len(res.Missing) != 1 || res.Missing[0].XID != odd || res.Missing[0].Rows != 2):
				t.Errorf("missing: %v; want two rows of transaction %d", res.Missing, odd)
			}
			if res := f.compare(); res.Rows != 3 || len(res.Missing) != 0 {
				t.Errorf("next: %+v; want the three rows that came after the marker", res)
			}
		})
	}
}

func TestCompare_CountsWhatIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write(2, 0)
	_, ids := f.write(3, 0)
	if _, err := f.conn.Exec(t.Context(), "DELETE FROM outbox.events WHERE id = $1", ids[1]); err != nil {
		t.Fatal(err)
	}
	res := f.compare()
	if res.Vanished != 1 || res.Rows != 4 {
		t.Errorf("%+v; want one row gone", res)
	}
	for _, g := range res.Missing {
		for _, id := range []uuid.UUID{ids[0], ids[2]} {
			if !g.Came(id) {
				t.Errorf("%s is taken for missing", id)
			}
		}
	}
}

func TestCompare_LeavesOutWhatIsStillRunning(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := f.connect()
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), insert, 7); err != nil {
		t.Fatal(err)
	}
	f.write(2, 0)
	if res := f.compare(); res.Rows != 2 || len(res.Missing) != 0 {
		t.Errorf("%+v; want the two rows alone", res)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := f.compare(); res.Rows != 7 || len(res.Missing) != 1 {
		t.Errorf("%+v; want the seven rows, which did not come", res)
	}
}

// A timeout of the role would end what must be read each time anew.
func TestBeginReading_TakesAsLongAsItTakes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, err := f.conn.Exec(t.Context(), "SET statement_timeout = '20ms'"); err != nil {
		t.Fatal(err)
	}
	tx, err := events.BeginReading(t.Context(), f.conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "SELECT pg_sleep(0.2)"); err != nil {
		t.Error(err)
	}
}

// Whoever reads for somebody else may not take as long as they like.
func TestBeginReading_EndsWhatTakesLongerThanTheTableSays(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	table := events
	table.StatementTimeout = 20 * time.Millisecond
	tx, err := table.BeginReading(t.Context(), f.conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	var e *pgconn.PgError
	if _, err := tx.Exec(t.Context(), "SELECT pg_sleep(10)"); !errors.As(err, &e) || e.Code != "57014" {
		t.Errorf("%v; want the statement to be ended", err)
	}
}

// move moves all rows to another partition, in a transaction that is returned open.
func (f *fixture) move() pgx.Tx {
	f.t.Helper()
	tx, err := f.connect().Begin(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	if err := moveRows(f.t.Context(), tx); err != nil {
		f.t.Fatal(err)
	}
	return tx
}

func moveRows(ctx context.Context, tx pgx.Tx) error {
	for _, sql := range []string{
		"CREATE TABLE outbox.moved (LIKE outbox.events_default INCLUDING ALL)",
		"LOCK TABLE outbox.events_default IN ACCESS EXCLUSIVE MODE",
		"INSERT INTO outbox.moved SELECT * FROM outbox.events_default",
		"DELETE FROM outbox.events_default",
		fmt.Sprintf("ALTER TABLE outbox.events ATTACH PARTITION outbox.moved FOR VALUES FROM ('%s') TO ('%s')",
			time.Now().Add(-time.Hour).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)),
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// waitsForLock tells whether a session waits for a lock.
func (f *fixture) waitsForLock(pid uint32) (waits bool) {
	f.t.Helper()
	err := f.conn.QueryRow(f.t.Context(), "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'", pid).Scan(&waits)
	if err != nil {
		f.t.Fatal(err)
	}
	return waits
}

// The move begins when the reader has its snapshot, which knows the old partition alone, and
// the query names a time for which the new one alone is looked at.
func TestBeginReading_SeesRowsThatAreMovedLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write(10, 0)
	reader, err := events.BeginReading(t.Context(), f.connect())
	if err != nil {
		t.Fatal(err)
	}
	mover := f.connect()
	moved := make(chan error, 1)
	go func() {
		moved <- pgx.BeginFunc(context.Background(), mover, func(tx pgx.Tx) error { return moveRows(context.Background(), tx) })
	}()
	for waits := false; !waits && len(moved) == 0; {
		waits = f.waitsForLock(mover.PgConn().PID())
	}
	var n int
	err = reader.QueryRow(t.Context(), fmt.Sprintf("SELECT count(*) FROM outbox.events WHERE created_at >= '%s' AND created_at < '%s'",
		time.Now().Add(-time.Minute).Format(time.RFC3339), time.Now().Add(time.Minute).Format(time.RFC3339))).Scan(&n)
	if err != nil || n != 10 {
		t.Errorf("%d rows seen, want 10: %v", n, err)
	}
	_ = reader.Rollback(context.Background())
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
}

// A row that is moved to another partition is seen once, whenever the move is
// committed. An ordinary transaction may look up the partitions before and take its
// snapshot after, and then sees it nowhere.
func TestBeginReading_SeesRowsThatAreBeingMoved(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write(10, 0)
	move := f.move()
	counted := make(chan int, 1)
	reader := f.connect()
	pid := reader.PgConn().PID()
	go func() {
		n := -1
		defer func() { counted <- n }()
		tx, err := events.BeginReading(context.Background(), reader)
		if err != nil {
			t.Error(err)
			return
		}
		if err := tx.QueryRow(context.Background(), "SELECT count(*) FROM outbox.events").Scan(&n); err != nil {
			t.Error(err)
		}
		_ = tx.Rollback(context.Background())
	}()
	for !f.waitsForLock(pid) { // on the partition that is emptied
	}
	if err := move.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := <-counted; n != 10 {
		t.Errorf("%d rows seen, want 10", n)
	}
}
