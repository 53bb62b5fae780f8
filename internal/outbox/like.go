package outbox

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// ReadLike gives take the rows of the table that are a row of an outdated shape: equal to it in each column that both have, with
// the same type. It finds none when the shape of the table is the row's still. A row that cannot be found by its id, because that
// column was another one, is found by the others.
//
// tx must have its snapshot already: see audit.BeginReading. Its settings are changed.
func ReadLike(ctx context.Context, tx pgx.Tx, table string, row cdc.Row, take func(cdc.Row)) error {
	schema, name, err := splitTable(table)
	if err != nil {
		return fmt.Errorf("read rows of %s: %w", table, err)
	}
	if _, err := tx.Exec(ctx, textSettings); err != nil {
		return fmt.Errorf("read rows of %s: %w", table, err)
	}
	rows, err := tx.Query(ctx, `SELECT attname::text, atttypid::bigint FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`,
		pgx.Identifier{schema, name}.Sanitize())
	if err != nil {
		return fmt.Errorf("read columns of %s: %w", table, err)
	}
	types := make(map[string]uint32)
	var column string
	var oid int64
	if _, err := pgx.ForEachRow(rows, []any{&column, &oid}, func() error {
		types[column] = uint32(oid) // #nosec G115 -- an OID
		return nil
	}); err != nil {
		return fmt.Errorf("read columns of %s: %w", table, err)
	}
	where, args := "true", []any{pgx.QueryExecModeSimpleProtocol}
	same := 0
	for i, c := range row.Relation.Columns {
		if i >= len(row.Values) || types[c.Name] != c.TypeOID {
			continue
		}
		same++
		quoted := pgx.Identifier{"e", c.Name}.Sanitize()
		if row.Values[i].Kind == cdc.KindText {
			args = append(args, string(row.Values[i].Data))
			where += fmt.Sprintf(" AND %s::text = $%d", quoted, len(args)-1)
		} else {
			where += " AND " + quoted + " IS NULL"
		}
	}
	if same == 0 || same == len(types) && same == len(row.Relation.Columns) {
		return nil
	}
	found, err := tx.Query(ctx, "SELECT NULL, e.* FROM "+pgx.Identifier{schema, name}.Sanitize()+" AS e WHERE "+where+" LIMIT 2", args...)
	if err == nil {
		err = EachRow(found, schema, name, func(row cdc.Row, _ []byte) error {
			take(row)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("read rows of %s: %w", table, err)
	}
	return nil
}
