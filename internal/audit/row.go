package audit

import (
	"strconv"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/cdc"
)

// Columns names the columns of the outbox that the audit reads.
type Columns struct{ ID, XID string }

// RowReader finds the id and the transaction of rows. It remembers where the
// columns of the last relation are: one goroutine at a time may use it.
type RowReader struct {
	columns  Columns
	relation *cdc.Relation
	id, xid  int
}

// NewRowReader returns a RowReader for columns of these names.
func NewRowReader(columns Columns) *RowReader { return &RowReader{columns: columns} }

// Read returns the id and the transaction of a row, and false when it has none
// that can be read.
func (r *RowReader) Read(row cdc.Row) (id uuid.UUID, xid uint64, ok bool) {
	if row.Relation != r.relation {
		r.relation, r.id, r.xid = row.Relation, -1, -1
		for i, c := range row.Relation.Columns {
			switch c.Name {
			case r.columns.ID:
				r.id = i
			case r.columns.XID:
				r.xid = i
			}
		}
	}
	if r.id < 0 || r.xid < 0 || r.id >= len(row.Values) || r.xid >= len(row.Values) {
		return id, 0, false
	}
	id, err := uuid.ParseBytes(row.Values[r.id].Data)
	if err != nil {
		return id, 0, false
	}
	xid, err = strconv.ParseUint(string(row.Values[r.xid].Data), 10, 64)
	return id, xid, err == nil
}
