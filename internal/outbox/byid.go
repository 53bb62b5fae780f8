package outbox

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// Place is where a row is found again: its id, and the transaction that wrote it, 0 when that is not known.
type Place struct {
	ID  string
	XID uint64
}

// ReadPlaces gives take those of some rows that are still in the table. They are looked up by their transactions, for which
// there is an index that costs writers next to nothing; for ids there is none, so the table is read whole when the first
// place has no transaction.
//
// tx must have its snapshot already, and should have been told to read by the index: see audit.Table.BeginNarrow. Its settings
// are changed.
func ReadPlaces(ctx context.Context, tx pgx.Tx, table string, c Columns, places []Place, take func(cdc.Row)) error {
	if len(places) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, textSettings); err != nil {
		return fmt.Errorf("read rows of %s: %w", table, err)
	}
	schema, name, _ := strings.Cut(table, ".")
	var ids, xids []string
	for _, p := range places {
		ids, xids = append(ids, strconv.Quote(p.ID)), append(xids, strconv.FormatUint(p.XID, 10))
	}
	slices.Sort(xids)
	xids = slices.Compact(xids) // a large transaction has many rows
	which := "true OR $1 = ''"
	if places[0].XID != 0 {
		which = "(" + pgx.Identifier{"e", c.XID}.Sanitize() + "::text)::bigint = ANY ($1::bigint[])"
	}
	rows, err := tx.Query(ctx, fmt.Sprintf("SELECT NULL, e.* FROM %s AS e WHERE (%s) AND %s = ANY ($2)",
		pgx.Identifier{schema, name}.Sanitize(), which, pgx.Identifier{"e", c.ID}.Sanitize()),
		pgx.QueryExecModeSimpleProtocol, "{"+strings.Join(xids, ",")+"}", "{"+strings.Join(ids, ",")+"}")
	if err == nil {
		err = EachRow(rows, schema, name, func(row cdc.Row, _ []byte) error {
			take(row)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("read rows of %s: %w", table, err)
	}
	return nil
}
