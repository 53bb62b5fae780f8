package cdc

// Column is one column of a published relation, as pgoutput's Relation
// message describes it.
type Column struct {
	Name    string
	TypeOID uint32
	// TypeMod is the type modifier (atttypmod), -1 when there is none.
	TypeMod int32
}

// Relation is the shape of a published table at one point of the stream. A
// Relation is immutable: when the table changes, the stream sends a new
// message and later rows point at a new Relation. Comparing pointers is
// therefore enough to notice a change.
//
// Source: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
type Relation struct {
	ID      uint32
	Schema  string
	Name    string
	Columns []Column
}

// Column kinds of a tuple, as they stand on the wire.
const (
	KindNull      = 'n' // SQL NULL
	KindUnchanged = 'u' // unchanged TOAST value, not sent (never in an INSERT)
	KindText      = 't' // text format
	KindBinary    = 'b' // binary format (never asked for)
)

// Value is one column of a row. Data is nil unless Kind is KindText or
// KindBinary; an empty text value has a non-nil Data of length zero.
type Value struct {
	Kind byte
	Data []byte
}

// Row is one inserted row, in the column order of its Relation. It owns its
// memory: nothing in it aliases the connection's read buffer.
type Row struct {
	Relation *Relation
	Values   []Value
}
