package outbox

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// textSettings print values as the stream does.
const textSettings = `SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL TimeZone = 'UTC'; SET LOCAL IntervalStyle = 'postgres';
SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 3`

// TableQuery selects rows of the outbox table.
type TableQuery struct {
	Table   string // schema.table
	Columns Columns
	Join    string // further tables in SQL, joined to e, which is the outbox; may be empty
	Where   string // a condition in SQL, with $1... for Args
	Args    []any
	// Beside is a further expression, whose text comes beside each row; empty for none.
	Beside string
}

// ReadRows reads rows from the table, each as the stream would bring it, in the order
// in which they were inserted as well as that can be known: by the time in their id
// (its default is a UUID of version 7), which is commit order for the rows of one key
// whose writers lock what the key stands for. Transaction ids are not: one is taken
// before the lock is waited for. They order rows with other ids, and rows of one
// instant.
//
// tx must have its snapshot already: see audit.BeginReading. Its settings are changed.
func ReadRows(ctx context.Context, tx pgx.Tx, q TableQuery, take func(row cdc.Row, beside []byte) error) error {
	if _, err := tx.Exec(ctx, textSettings); err != nil {
		return fmt.Errorf("read rows of %s: %w", q.Table, err)
	}
	schema, name, _ := strings.Cut(q.Table, ".")
	id, order := pgx.Identifier{"e", q.Columns.ID}.Sanitize(), "e.tableoid, e.ctid"
	if q.Columns.XID != "" {
		order = pgx.Identifier{"e", q.Columns.XID}.Sanitize() + ", " + order
	}
	beside := q.Beside
	if beside == "" {
		beside = "NULL"
	}
	rows, err := tx.Query(ctx, "SELECT "+beside+", e.* FROM "+pgx.Identifier{schema, name}.Sanitize()+" AS e "+q.Join+" WHERE "+q.Where+
		" ORDER BY CASE WHEN substr("+id+"::text, 15, 1) = '7' THEN substr("+id+"::text, 1, 18) END COLLATE \"C\", "+order,
		append([]any{pgx.QueryExecModeSimpleProtocol}, q.Args...)...)
	if err != nil {
		return fmt.Errorf("read rows of %s: %w", q.Table, err)
	}
	if err := EachRow(rows, schema, name, take); err != nil {
		return fmt.Errorf("read rows of %s: %w", q.Table, err)
	}
	return nil
}

// EachRow gives each row to take as the stream would bring it, and its first column beside. The text of the rows is that of
// the simple protocol, under settings that print values as the stream does. It closes rows.
func EachRow(rows pgx.Rows, schema, name string, take func(row cdc.Row, beside []byte) error) error {
	defer rows.Close()
	var rel *cdc.Relation
	for rows.Next() {
		if rel == nil {
			rel = &cdc.Relation{Schema: schema, Name: name}
			for _, f := range rows.FieldDescriptions()[1:] {
				rel.Columns = append(rel.Columns, cdc.Column{Name: f.Name, TypeOID: f.DataTypeOID, TypeMod: f.TypeModifier})
			}
		}
		raw := rows.RawValues()
		row := cdc.Row{Relation: rel, Values: make([]cdc.Value, len(rel.Columns))}
		for i, v := range raw[1:] {
			if v == nil {
				row.Values[i] = cdc.Value{Kind: cdc.KindNull}
				continue
			}
			row.Values[i] = cdc.Value{Kind: cdc.KindText, Data: append(make([]byte, 0, len(v)), v...)}
		}
		if err := take(row, raw[0]); err != nil {
			return err
		}
	}
	return rows.Err()
}
