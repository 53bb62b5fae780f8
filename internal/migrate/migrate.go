package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/outbox-relay/relay/internal/postgres"
	"github.com/outbox-relay/relay/sql"
)

// versionTable is where goose remembers the migrations that were applied.
const versionTable = "relay.schema_version"

// lockKey is the advisory lock of one migration run, "relay" and a number.
const lockKey int64 = 0x72656c6179_01

// lockPoll is how long to wait between two looks at a lock that another instance holds. Waiting inside PostgreSQL
// would keep a snapshot open, and that holds up a CREATE INDEX CONCURRENTLY of the very migration we wait for.
const lockPoll = 100 * time.Millisecond

var (
	// ErrOutdated says that the schema is missing, or older than this binary.
	ErrOutdated = errors.New("schema is not up to date, run `relay migrate`")
	// ErrNewer says that a newer binary has migrated the schema. Schemas stay readable by the release before, so a
	// running relay may go on; migrating with the older binary is refused.
	ErrNewer = errors.New("schema is newer than this binary, install a newer relay")
)

// Migration is one step of the schema: a versioned migration, or a file of functions.
type Migration struct {
	Version   int64     // number of the migration, 0 for a file of functions
	Name      string    // name of the file, such as 0001_outbox.sql or functions/emit.sql
	AppliedAt time.Time // when it was applied, in UTC; zero while it is pending
}

// Pending reports whether the step is yet to be applied. Functions are pending again when their text has changed.
func (m Migration) Pending() bool { return m.AppliedAt.IsZero() }

// Report says what one run of Up did.
type Report struct {
	Applied   []string // migrations, in order; empty when all were applied before
	Functions []string // files of functions that were new or had changed
	// Restored names objects of earlier migrations that were gone, or not as a migration made them, and were made again. A
	// table among them is empty.
	Restored []string
	Version  int64 // version of the schema now
}

// Up applies what is pending at the database of url. It waits, as long as ctx allows, while another instance does the
// same. When a migration fails, those before it stay applied, and the Report names them.
func Up(ctx context.Context, url string) (Report, error) {
	config, err := configure(ctx, url)
	if err != nil {
		return Report{}, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return Report{}, fmt.Errorf("connect for migration: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := lock(ctx, conn)
	if err != nil {
		return Report{}, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))

	var report Report
	if report.Applied, report.Version, err = applyMigrations(ctx, config); err != nil {
		return report, err
	}
	if len(report.Applied) < len(known.migrations) { // else all is new
		if report.Restored, err = restore(ctx, tx); err != nil {
			return report, err
		}
	}
	if report.Functions, err = replaceFunctions(ctx, tx); err != nil {
		return report, err
	}
	if err := tx.Commit(ctx); err != nil {
		return report, fmt.Errorf("commit functions: %w", err)
	}
	return report, nil
}

func configure(ctx context.Context, url string) (*pgx.ConnConfig, error) {
	// goose stores its times without a zone.
	config, err := postgres.Configure(ctx, url, postgres.Options{Application: "relay migrate", Settings: map[string]string{"TimeZone": "UTC"}})
	if err != nil {
		return nil, fmt.Errorf("connect for migration: %w", err)
	}
	// Statements that live longer than a transaction do not pass every pooler.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	return config, nil
}

// lock returns a transaction that holds the migration lock until it ends. Nothing else is done in it before the
// migrations are through, so that it holds no snapshot and no lock that they might wait for.
func lock(ctx context.Context, conn *pgx.Conn) (pgx.Tx, error) {
	for {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return nil, fmt.Errorf("begin migration: %w", err)
		}
		// While the migrations run, elsewhere, this transaction is idle.
		if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
			return nil, errors.Join(fmt.Errorf("set migration timeout: %w", err), tx.Rollback(context.WithoutCancel(ctx)))
		}
		var locked bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, lockKey).Scan(&locked); err != nil {
			return nil, errors.Join(fmt.Errorf("take migration lock: %w", err), tx.Rollback(context.WithoutCancel(ctx)))
		}
		if locked {
			return tx, nil
		}
		if err := tx.Rollback(ctx); err != nil {
			return nil, fmt.Errorf("wait for migration lock: %w", err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for migration lock, another instance holds it: %w", context.Cause(ctx))
		}
	}
}

func applyMigrations(ctx context.Context, config *pgx.ConnConfig) (applied []string, version int64, err error) {
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()

	// The versions stand in the schema relay, so it must be there before the first migration. Whoever may not create
	// schemas can still migrate a database where it exists.
	var exists bool
	if err := db.QueryRowContext(ctx, `SELECT to_regnamespace('relay') IS NOT NULL`).Scan(&exists); err != nil {
		return nil, 0, fmt.Errorf("look for schema relay: %w", err)
	}
	if !exists {
		if _, err := db.ExecContext(ctx, `CREATE SCHEMA relay`); err != nil {
			return nil, 0, fmt.Errorf("create schema relay: %w", err)
		}
	}
	_, err = db.ExecContext(ctx, `
		CREATE TABLE IF NOT EXISTS relay.schema_functions (
			name       text PRIMARY KEY,
			hash       text NOT NULL,
			applied_at timestamptz NOT NULL DEFAULT now()
		)`)
	if err != nil {
		return nil, 0, fmt.Errorf("create table of function versions: %w", err)
	}

	migrations, err := fs.Sub(sql.Files, "migrations")
	if err != nil {
		return nil, 0, fmt.Errorf("read migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, migrations,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return nil, 0, fmt.Errorf("read migrations: %w", err)
	}
	version, err = provider.GetDBVersion(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read schema version: %w", err)
	}
	if last := latest(); version > last {
		return nil, version, fmt.Errorf("%w (schema version %d, binary %d)", ErrNewer, version, last)
	}
	results, err := provider.Up(ctx)
	var partial *goose.PartialError
	if errors.As(err, &partial) {
		results = partial.Applied
	}
	for _, r := range results {
		applied = append(applied, path.Base(r.Source.Path))
		version = r.Source.Version
	}
	if partial != nil {
		return applied, version, fmt.Errorf("apply migration %s: %w", path.Base(partial.Failed.Source.Path), partial.Err)
	}
	if err != nil {
		return applied, version, fmt.Errorf("apply migrations: %w", err)
	}
	return applied, version, nil
}

// Status lists every step that this binary knows, applied or pending, migrations first and each kind in order.
func Status(ctx context.Context, url string) ([]Migration, error) {
	config, err := configure(ctx, url)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect for migration status: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))

	applied := map[int64]time.Time{}
	rows, err := conn.Query(ctx, `
		SELECT version_id, max(tstamp) AT TIME ZONE 'UTC' FROM relay.schema_version
		WHERE is_applied GROUP BY version_id`)
	if err == nil {
		var version int64
		var at time.Time
		_, err = pgx.ForEachRow(rows, []any{&version, &at}, func() error {
			applied[version] = at.UTC()
			return nil
		})
	}
	if err != nil && !missing(err) {
		return nil, fmt.Errorf("read schema versions: %w", err)
	}
	type version struct {
		hash string
		at   time.Time
	}
	functions := map[string]version{}
	rows, err = conn.Query(ctx, `SELECT name, hash, applied_at FROM relay.schema_functions`)
	if err == nil {
		var name string
		var v version
		_, err = pgx.ForEachRow(rows, []any{&name, &v.hash, &v.at}, func() error {
			functions[name] = v
			return nil
		})
	}
	if err != nil && !missing(err) {
		return nil, fmt.Errorf("read function versions: %w", err)
	}

	var all []Migration
	for _, s := range known.migrations {
		all = append(all, Migration{Version: s.version, Name: s.name, AppliedAt: applied[s.version]})
	}
	for _, f := range known.functions {
		m := Migration{Name: "functions/" + f.name}
		if v := functions[f.name]; v.hash == f.hash {
			m.AppliedAt = v.at.UTC()
		}
		all = append(all, m)
	}
	return all, nil
}

// Querier is what Check asks: a connection, a pool or a transaction. In a transaction, a missing schema aborts it.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Check tells, by one query on two small tables, whether the schema is that of this binary: nil, or an error that
// wraps ErrOutdated, ErrNewer, or what went wrong with asking. The role needs USAGE on the schema relay and SELECT on
// relay.schema_version and relay.schema_functions.
func Check(ctx context.Context, conn Querier) error {
	names, hashes := known.functionColumns()
	var version int64
	var stale int
	err := conn.QueryRow(ctx, `
		SELECT (SELECT coalesce(max(version_id), 0) FROM relay.schema_version WHERE is_applied),
		       (SELECT count(*) FROM unnest($1::text[], $2::text[]) AS want(name, hash)
		        WHERE NOT EXISTS (SELECT FROM relay.schema_functions f WHERE f.name = want.name AND f.hash = want.hash))`,
		names, hashes).Scan(&version, &stale)
	last := latest()
	switch {
	case missing(err):
		return fmt.Errorf("%w (there is no schema relay, or it is empty)", ErrOutdated)
	case err != nil:
		return fmt.Errorf("check schema version: %w", err)
	case version > last:
		return fmt.Errorf("%w (schema version %d, binary %d)", ErrNewer, version, last)
	case version < last:
		return fmt.Errorf("%w (schema version %d, binary %d)", ErrOutdated, version, last)
	case stale > 0:
		return fmt.Errorf("%w (%d files of functions differ)", ErrOutdated, stale)
	}
	return nil
}

// missing recognises undefined_table and invalid_schema_name.
func missing(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "3F000")
}
