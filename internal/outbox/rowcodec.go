package outbox

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/outbox-relay/relay/internal/cdc"
)

// EncodeRow renders a row as a JSON object that keeps all of it, for people to read and for DecodeRow:
//
//	{"schema":"outbox","table":"events","relation_id":16388,"columns":[
//	  {"name":"id","type":2950,"text":"0190b6f0-..."},
//	  {"name":"payload","type":114,"base64":"ew=="},
//	  {"name":"headers","type":3802,"null":true}]}
//
// A value stands in text, in base64 when it is not valid UTF-8 or holds a NUL (so that the whole fits into any
// json or text column), or in binary, also base64, when it came in binary format. The member unchanged says
// that it was not sent. A modifier stands beside the type unless it is -1.
func EncodeRow(row cdc.Row) []byte {
	n := 128
	for i := range row.Values {
		n += 96 + encodedLen(row.Values[i].Data)
	}
	b := append(make([]byte, 0, n), '{')
	var columns []cdc.Column
	if r := row.Relation; r != nil {
		columns = r.Columns
		b = appendText(b, "schema", r.Schema)
		b = appendText(append(b, ','), "table", r.Name)
		b = strconv.AppendUint(append(b, `,"relation_id":`...), uint64(r.ID), 10)
		b = append(b, ',')
	}
	b = append(b, `"columns":[`...)
	for i := range max(len(columns), len(row.Values)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if i < len(columns) {
			b = appendText(b, "name", columns[i].Name)
			b = strconv.AppendUint(append(b, `,"type":`...), uint64(columns[i].TypeOID), 10)
			if columns[i].TypeMod != -1 {
				b = strconv.AppendInt(append(b, `,"modifier":`...), int64(columns[i].TypeMod), 10)
			}
			if i < len(row.Values) {
				b = append(b, ',')
			}
		}
		if i < len(row.Values) {
			b = appendValue(b, row.Values[i])
		}
		b = append(b, '}')
	}
	return append(b, `]}`...)
}

func isText(s []byte) bool { return utf8.Valid(s) && bytes.IndexByte(s, 0) < 0 }

func encodedLen(data []byte) int {
	if isText(data) {
		return quotedLen(data)
	}
	return base64.StdEncoding.EncodedLen(len(data))
}

// appendText appends "key":"s", or "key_base64":"..." when s is not text.
func appendText(b []byte, key, s string) []byte {
	if isText([]byte(s)) {
		return appendQuoted(append(append(append(b, '"'), key...), `":`...), s)
	}
	return appendBase64(append(append(append(b, '"'), key...), `_base64":`...), []byte(s))
}

func appendBase64(b, data []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), data), '"')
}

func appendValue(b []byte, v cdc.Value) []byte {
	switch v.Kind {
	case cdc.KindText:
		if isText(v.Data) {
			return appendQuoted(append(b, `"text":`...), v.Data)
		}
		return appendBase64(append(b, `"base64":`...), v.Data)
	case cdc.KindBinary:
		return appendBase64(append(b, `"binary":`...), v.Data)
	case cdc.KindUnchanged:
		return append(b, `"unchanged":true`...)
	}
	return append(b, `"null":true`...)
}

type encodedRow struct {
	Schema       *string         `json:"schema"`
	SchemaBase64 *[]byte         `json:"schema_base64"`
	Table        *string         `json:"table"`
	TableBase64  *[]byte         `json:"table_base64"`
	RelationID   uint32          `json:"relation_id"`
	Columns      []encodedColumn `json:"columns"`
}

type encodedColumn struct {
	Name       *string `json:"name"`
	NameBase64 *[]byte `json:"name_base64"`
	Type       uint32  `json:"type"`
	Modifier   *int32  `json:"modifier"`

	Text      *string `json:"text"`
	Base64    *[]byte `json:"base64"`
	Binary    *[]byte `json:"binary"`
	Null      bool    `json:"null"`
	Unchanged bool    `json:"unchanged"`
}

// DecodeRow reads what EncodeRow wrote, and passes over members that it does not know. The row has a relation
// of its own and owns its memory.
func DecodeRow(text []byte) (cdc.Row, error) {
	var in encodedRow
	if err := json.Unmarshal(text, &in); err != nil {
		return cdc.Row{}, fmt.Errorf("decode row: %w", err)
	}
	var row cdc.Row
	schema, hasSchema := eitherText(in.Schema, in.SchemaBase64)
	table, hasTable := eitherText(in.Table, in.TableBase64)
	if hasSchema != hasTable {
		return cdc.Row{}, errors.New("decode row: schema and table come only together")
	}
	if hasTable {
		row.Relation = &cdc.Relation{ID: in.RelationID, Schema: schema, Name: table}
	}
	for i := range in.Columns {
		if err := in.Columns[i].appendTo(&row, i); err != nil {
			return cdc.Row{}, fmt.Errorf("decode row: column %d: %w", i+1, err)
		}
	}
	return row, nil
}

func eitherText(text *string, encoded *[]byte) (string, bool) {
	switch {
	case text != nil:
		return *text, true
	case encoded != nil:
		return string(*encoded), true
	}
	return "", false
}

func (c *encodedColumn) appendTo(row *cdc.Row, i int) error {
	if name, ok := eitherText(c.Name, c.NameBase64); ok {
		if row.Relation == nil || len(row.Relation.Columns) != i {
			return errors.New("has a name, but those before it or the table have none")
		}
		column := cdc.Column{Name: name, TypeOID: c.Type, TypeMod: -1}
		if c.Modifier != nil {
			column.TypeMod = *c.Modifier
		}
		row.Relation.Columns = append(row.Relation.Columns, column)
	}
	var values []cdc.Value
	if c.Text != nil {
		values = append(values, cdc.Value{Kind: cdc.KindText, Data: []byte(*c.Text)})
	}
	if c.Base64 != nil {
		values = append(values, cdc.Value{Kind: cdc.KindText, Data: notNil(*c.Base64)})
	}
	if c.Binary != nil {
		values = append(values, cdc.Value{Kind: cdc.KindBinary, Data: notNil(*c.Binary)})
	}
	if c.Null {
		values = append(values, cdc.Value{Kind: cdc.KindNull})
	}
	if c.Unchanged {
		values = append(values, cdc.Value{Kind: cdc.KindUnchanged})
	}
	switch {
	case len(values) > 1:
		return errors.New("has more than one value")
	case len(values) == 1 && len(row.Values) != i:
		return errors.New("has a value, but those before it have none")
	}
	row.Values = append(row.Values, values...)
	return nil
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
