package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// mustMigrate returns the URL of a new database with the schema, and a superuser's connection to it.
func mustMigrate(t *testing.T) (string, *pgx.Conn) {
	t.Helper()
	ctx := testContext(t)
	url := pgtest.NewDatabase(t)
	if _, err := migrate.Up(ctx, url); err != nil {
		t.Fatal(err)
	}
	return url, mustConnect(t, url)
}

func mustConnect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func mustExec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(testContext(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func mustString(t *testing.T, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	var s string
	if err := conn.QueryRow(testContext(t), sql, args...).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// mustRole makes a login role that is dropped, with what it owns, before the database is.
func mustRole(t *testing.T, super *pgx.Conn, dbURL, kind string) (name, roleURL string) {
	t.Helper()
	u, err := url.Parse(dbURL)
	if err != nil {
		t.Fatal(err)
	}
	name = kind + strings.TrimPrefix(u.Path, "/")
	mustExec(t, super, "CREATE ROLE "+name+" LOGIN")
	t.Cleanup(func() {
		mustExec(t, super, "DROP OWNED BY "+name+" CASCADE")
		mustExec(t, super, "DROP ROLE "+name)
	})
	u.User = url.User(name)
	return name, u.String()
}

func code(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

func TestUp_AppliesEverythingOnce(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	url := pgtest.NewDatabase(t)
	conn := mustConnect(t, url)

	if err := migrate.Check(ctx, conn); !errors.Is(err, migrate.ErrOutdated) {
		t.Errorf("Check of an empty database: %v, want ErrOutdated", err)
	}
	before, err := migrate.Status(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	if len(before) < 5 || slices.ContainsFunc(before, func(m migrate.Migration) bool { return !m.Pending() }) {
		t.Errorf("status of an empty database: %+v, want all pending", before)
	}

	first, err := migrate.Up(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Applied) == 0 || first.Applied[0] != "0001_outbox.sql" ||
		!strings.HasPrefix(first.Applied[len(first.Applied)-1], fmt.Sprintf("%04d_", first.Version)) {
		t.Errorf("first run: %+v", first)
	}
	if want := []string{"customer.sql", "emit.sql", "payment.sql", "sales_order.sql"}; !slices.Equal(first.Functions, want) {
		t.Errorf("first run replaced %v, want %v", first.Functions, want)
	}
	if err := migrate.Check(ctx, conn); err != nil {
		t.Errorf("Check after Up: %v", err)
	}
	after, err := migrate.Status(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range after {
		if m.Pending() || time.Since(m.AppliedAt).Abs() > time.Hour {
			t.Errorf("%s after Up: applied at %v", m.Name, m.AppliedAt)
		}
	}

	mustExec(t, conn, `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('t1', 'payment', 'p1', 'payment.received', '{}')`)
	second, err := migrate.Up(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	if len(second.Applied) != 0 || len(second.Functions) != 0 || second.Version != first.Version {
		t.Errorf("second run: %+v, want nothing done", second)
	}
	if n := mustString(t, conn, `SELECT count(*)::text FROM outbox.events`); n != "1" {
		t.Errorf("%s rows after the second run, want 1", n)
	}
}

func TestUp_IsSafeForManyInstancesAtOnce(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	url := pgtest.NewDatabase(t)
	const instances = 4
	var group sync.WaitGroup
	reports, errs := make([]migrate.Report, instances), make([]error, instances)
	for i := range instances {
		group.Go(func() { reports[i], errs[i] = migrate.Up(ctx, url) })
	}
	group.Wait()
	worked := 0
	for i := range instances {
		if errs[i] != nil {
			t.Errorf("instance %d: %v", i, errs[i])
		}
		if len(reports[i].Applied) > 0 || len(reports[i].Functions) > 0 {
			worked++
		}
	}
	if worked != 1 {
		t.Errorf("%d instances applied something, want 1", worked)
	}
	if err := migrate.Check(ctx, mustConnect(t, url)); err != nil {
		t.Error(err)
	}
}

func TestUp_WaitsForTheLockNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	url, conn := mustMigrate(t)
	tx, err := conn.Begin(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(testContext(t), `SELECT pg_advisory_xact_lock($1)`, int64(0x72656c6179_01)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
	defer cancel()
	if _, err := migrate.Up(ctx, url); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Up while another holds the lock: %v, want the deadline", err)
	}
}

func TestUp_WorksOnADatabaseWithDataAsAnOrdinaryRole(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dbURL := pgtest.NewDatabase(t)
	super := mustConnect(t, dbURL)
	mustExec(t, super, `CREATE TABLE invoices (id int PRIMARY KEY, paid bool)`)
	mustExec(t, super, `INSERT INTO invoices SELECT i, false FROM generate_series(1, 1000) i`)
	name, roleURL := mustRole(t, super, dbURL, "owner_")
	mustExec(t, super, fmt.Sprintf(`GRANT CREATE ON DATABASE %s TO %s`, super.Config().Database, name))
	if _, err := migrate.Up(ctx, roleURL); err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Up(ctx, roleURL); err != nil {
		t.Fatal(err)
	}
	if owner := mustString(t, super, `SELECT tableowner FROM pg_tables WHERE tablename = 'events'`); owner != name {
		t.Errorf("owner of outbox.events is %s, want %s", owner, name)
	}
	// Functions of an ordinary owner work for a writer that has no right on the table.
	mustExec(t, super, `SELECT outbox.payment_failed('t1', 'p1', 'i1', 1.0, 'EUR')`)
	if n := mustString(t, super, `SELECT count(*)::text FROM invoices`); n != "1000" {
		t.Errorf("%s invoices, want 1000", n)
	}
}

func TestUp_ReplacesFunctionsWhoseTextChangedAndKeepsTheirGrants(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dbURL, super := mustMigrate(t)
	writer, _ := mustRole(t, super, dbURL, "writer_")
	const signature = `outbox.payment_failed(text, text, text, numeric, text, text, text)`
	mustExec(t, super, fmt.Sprintf(`GRANT EXECUTE ON FUNCTION %s TO %s`, signature, writer))
	mustExec(t, super, `UPDATE relay.schema_functions SET hash = 'of an older text' WHERE name = 'payment.sql'`)

	if err := migrate.Check(ctx, super); !errors.Is(err, migrate.ErrOutdated) {
		t.Errorf("Check with an older function: %v, want ErrOutdated", err)
	}
	status, err := migrate.Status(ctx, dbURL)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range status {
		if m.Pending() != (m.Name == "functions/payment.sql") {
			t.Errorf("%s: pending %v", m.Name, m.Pending())
		}
	}
	report, err := migrate.Up(ctx, dbURL)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Applied) != 0 || !slices.Equal(report.Functions, []string{"payment.sql"}) {
		t.Errorf("report %+v, want payment.sql alone", report)
	}
	if err := migrate.Check(ctx, super); err != nil {
		t.Error(err)
	}
	if can := mustString(t, super, `SELECT has_function_privilege($1, $2, 'EXECUTE')::text`, writer, signature); can != "true" {
		t.Error("the writer's grant is gone")
	}
}

func TestUp_LeavesANewerSchemaAlone(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	url, conn := mustMigrate(t)
	mustExec(t, conn, `INSERT INTO relay.schema_version (version_id, is_applied) VALUES (9999, true)`)
	mustExec(t, conn, `UPDATE relay.schema_functions SET hash = 'of a newer text'`)
	if err := migrate.Check(ctx, conn); !errors.Is(err, migrate.ErrNewer) {
		t.Errorf("Check: %v, want ErrNewer", err)
	}
	if _, err := migrate.Up(ctx, url); !errors.Is(err, migrate.ErrNewer) {
		t.Errorf("Up: %v, want ErrNewer", err)
	}
	if n := mustString(t, conn, `SELECT count(*)::text FROM relay.schema_functions WHERE hash = 'of a newer text'`); n != "4" {
		t.Errorf("%s files of functions left alone, want 4", n)
	}
}

func TestUp_SaysWhichMigrationFailed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	url := pgtest.NewDatabase(t)
	conn := mustConnect(t, url)
	mustExec(t, conn, `CREATE SCHEMA outbox CREATE TABLE outbox.events (mine int)`)
	_, err := migrate.Up(ctx, url)
	if err == nil || !strings.Contains(err.Error(), "0001_outbox.sql") || code(err) != "42P07" {
		t.Errorf("Up over a foreign outbox.events: %v, want duplicate_table in 0001_outbox.sql", err)
	}
	if n := mustString(t, conn, `SELECT count(*)::text FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace`); n != "0" {
		t.Errorf("%s functions left by the migration that failed, want 0", n)
	}
}
