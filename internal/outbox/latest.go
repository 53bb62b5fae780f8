package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// Bounds of ReadLatest, so that it costs no more with a large outbox than with a small one.
const (
	latestPages = 8192     // of 8 KiB that it looks through
	latestBytes = 32 << 20 // of rows that it brings
)

// errEnough ends a read early.
var errEnough = errors.New("enough")

// ReadLatest gives take the rows of a tenant that were inserted last, up to a number of them. It reads each partition from
// its end: rows stand in a table nearly in the order in which they were inserted, and there is no index by tenant, for which
// every writer would pay. It looks at 64 MiB of the table at most, so it may find nothing of a tenant that was quiet for long.
//
// tx must have its snapshot already: see audit.BeginReading. Its settings are changed.
func ReadLatest(ctx context.Context, tx pgx.Tx, table string, c Columns, tenant string, number int, take func(cdc.Row)) error {
	if err := readLatest(ctx, tx, table, c, tenant, number, take); err != nil {
		return fmt.Errorf("read the latest rows of %s: %w", table, err)
	}
	return nil
}

func readLatest(ctx context.Context, tx pgx.Tx, table string, c Columns, tenant string, number int, take func(cdc.Row)) error {
	if _, err := tx.Exec(ctx, textSettings); err != nil {
		return err
	}
	leaves, err := leavesOf(ctx, tx, table)
	if err != nil {
		return err
	}
	schema, name, _ := strings.Cut(table, ".")
	budget, size := int64(latestPages), 0
	for _, leaf := range leaves {
		for step, upper := int64(32), leaf.pages; upper > 0 && number > 0 && budget > 0; step = min(2*step, 2048) {
			lower := max(0, upper-min(step, budget))
			rows, err := tx.Query(ctx, "SELECT ctid, e.* FROM ONLY "+leaf.name+fmt.Sprintf(" AS e WHERE ctid >= '(%d,0)' AND ctid < '(%d,0)' AND %s = $1 "+
				"ORDER BY ctid DESC LIMIT %d", lower, upper, pgx.Identifier{"e", c.TenantID}.Sanitize(), number), pgx.QueryExecModeSimpleProtocol, tenant)
			if err != nil {
				return err
			}
			err = EachRow(rows, schema, name, func(row cdc.Row, _ []byte) error {
				take(row)
				number--
				for _, v := range row.Values {
					size += len(v.Data)
				}
				if size > latestBytes {
					return errEnough
				}
				return nil
			})
			if errors.Is(err, errEnough) {
				return nil
			}
			if err != nil {
				return err
			}
			budget -= upper - lower
			upper = lower
		}
	}
	return nil
}

// rowsQuerier asks for rows. A pgx connection, pool or transaction does.
type rowsQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// leaf is a table that holds rows itself.
type leaf struct {
	name  string // quoted
	pages int64
}

// leavesOf returns the partitions of a table, or the table when it has none, the default partition first, because what
// came last may stand there, and then by their bounds from the latest on. One that is dropped this moment has no pages.
func leavesOf(ctx context.Context, db rowsQuerier, table string) ([]leaf, error) {
	rows, err := db.Query(ctx, `
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), coalesce(pg_relation_size(c.oid) / current_setting('block_size')::bigint, 0)
  FROM (SELECT relid FROM pg_partition_tree($1::text::regclass) WHERE isleaf UNION SELECT $1::text::regclass) AS t
  JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r'
  JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT' DESC NULLS LAST, pg_get_expr(c.relpartbound, c.oid) DESC`,
		pgx.Identifier(strings.SplitN(table, ".", 2)).Sanitize())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (l leaf, err error) {
		err = row.Scan(&l.name, &l.pages)
		return l, err
	})
}
