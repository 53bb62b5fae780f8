package cdc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
)

// Execer runs statements and queries. A pgx connection, pool or transaction does.
type Execer interface {
	Queryer
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Publication is what the slot's stream is filtered by: the outbox table,
// inserts only, under the name of the partitioned root.
type Publication struct {
	Name   string
	Schema string
	Table  string
}

var (
	// ErrPublicationMissing is returned when the publication does not exist.
	ErrPublicationMissing = errors.New("publication is missing")
	// ErrPublicationIncomplete is returned when the publication exists and does
	// not publish the outbox as it must.
	ErrPublicationIncomplete = errors.New("publication is incomplete")
)

// Ensure makes the publication when it does not exist, and else checks it.
// created tells which. It never changes an existing publication: rows written
// while it was wrong are not in the stream, and that must be seen, not papered
// over.
func (p Publication) Ensure(ctx context.Context, db Execer) (created bool, err error) {
	err = p.Check(ctx, db)
	if !errors.Is(err, ErrPublicationMissing) {
		return false, err
	}
	sql := fmt.Sprintf("CREATE PUBLICATION %s FOR TABLE %s WITH (publish = 'insert', publish_via_partition_root = true)",
		pgx.Identifier{p.Name}.Sanitize(), pgx.Identifier{p.Schema, p.Table}.Sanitize())
	if _, err := db.Exec(ctx, sql); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "42710" { // another instance was faster
			return false, p.Check(ctx, db)
		}
		return false, health.During(health.CreatePublication, fmt.Errorf("create publication %s: %w", p.Name, err))
	}
	return true, nil
}

// Repair makes an existing publication publish the outbox as it must, and leaves other
// tables in it alone. Rows that were written before are not in the stream, and the caller
// has to look for them. Its statements are those that Check names.
func (p Publication) Repair(ctx context.Context, db Execer) error {
	_, steps, err := p.compare(ctx, db)
	if err != nil {
		return err
	}
	for _, sql := range steps {
		if _, err := db.Exec(ctx, sql); err != nil {
			return health.During(health.CreatePublication, fmt.Errorf("repair publication %s: %w", p.Name, err))
		}
	}
	return nil
}

// Check compares the publication with what it must be.
func (p Publication) Check(ctx context.Context, db Queryer) error {
	faults, steps, err := p.compare(ctx, db)
	if err != nil {
		return err
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %s: %s; repair: %s", ErrPublicationIncomplete, p.Name,
			strings.Join(faults, " and "), strings.Join(steps, "; "))
	}
	return nil
}

// compare finds what is wrong with the publication, and the statements that mend it. They add to it and never replace its
// list of tables: another one that it publishes may be an outbox too.
func (p Publication) compare(ctx context.Context, db Queryer) (faults, steps []string, err error) {
	const q = `
SELECT p.pubinsert, p.pubupdate OR p.pubdelete OR p.pubtruncate, p.pubviaroot,
       EXISTS (SELECT FROM pg_publication_tables t
                WHERE t.pubname = p.pubname AND t.schemaname = $2 AND t.tablename = $3
                  AND t.rowfilter IS NULL
                  AND NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prattrs IS NOT NULL
                                     AND r.prrelid = to_regclass($4))),
       EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = to_regclass($4))
  FROM pg_publication p WHERE p.pubname = $1`
	name, table := pgx.Identifier{p.Name}.Sanitize(), pgx.Identifier{p.Schema, p.Table}.Sanitize()
	var inserts, others, viaRoot, whole, member bool
	err = db.QueryRow(ctx, q, p.Name, p.Schema, p.Table, table).Scan(&inserts, &others, &viaRoot, &whole, &member)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, fmt.Errorf("%w: %s; it should publish %s.%s, and rows written while it is missing are not in the stream",
			ErrPublicationMissing, p.Name, p.Schema, p.Table)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("check publication %s: %w", p.Name, err)
	}
	if !whole {
		faults = append(faults, fmt.Sprintf("it lacks %s.%s (or filters its rows or columns)", p.Schema, p.Table))
		if member { // a filter goes with the table only
			steps = append(steps, "ALTER PUBLICATION "+name+" DROP TABLE "+table)
		}
		steps = append(steps, "ALTER PUBLICATION "+name+" ADD TABLE "+table)
	}
	if !inserts || !viaRoot || others {
		faults = append(faults, "it must publish inserts only, through the partition root")
		steps = append(steps, "ALTER PUBLICATION "+name+" SET (publish = 'insert', publish_via_partition_root = true)")
	}
	return faults, steps, nil
}
