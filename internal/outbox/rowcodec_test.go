package outbox

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/outbox-relay/relay/internal/cdc"
)

func TestEncodeRow_IsReadable(t *testing.T) {
	row := cdc.Row{
		Relation: &cdc.Relation{ID: 7, Schema: "outbox", Name: "events", Columns: []cdc.Column{
			{Name: "id", TypeOID: 2950, TypeMod: -1}, {Name: "n", TypeOID: 1700, TypeMod: 655366},
			{Name: "raw", TypeOID: 25, TypeMod: -1}, {Name: "gone", TypeOID: 25, TypeMod: -1},
		}},
		Values: []cdc.Value{textValue(`a"<b>`), {Kind: cdc.KindNull}, textValue("\xff{"), {Kind: cdc.KindUnchanged}},
	}
	want := `{"schema":"outbox","table":"events","relation_id":7,"columns":[` +
		`{"name":"id","type":2950,"text":"a\"<b>"},{"name":"n","type":1700,"modifier":655366,"null":true},` +
		`{"name":"raw","type":25,"base64":"/3s="},{"name":"gone","type":25,"unchanged":true}]}`
	if got := string(EncodeRow(row)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEncodeRow_LosesNothing(t *testing.T) {
	text := rapid.OneOf(
		rapid.String(),
		rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }),
	)
	value := rapid.Custom(func(t *rapid.T) cdc.Value {
		kind := rapid.SampledFrom([]byte{cdc.KindNull, cdc.KindUnchanged, cdc.KindText, cdc.KindBinary}).Draw(t, "kind")
		v := cdc.Value{Kind: kind}
		if kind == cdc.KindText || kind == cdc.KindBinary {
			v.Data = []byte(text.Draw(t, "data"))
		}
		return v
	})
	column := rapid.Custom(func(t *rapid.T) cdc.Column {
		return cdc.Column{
			Name: text.Draw(t, "name"), TypeOID: rapid.Uint32().Draw(t, "type"), TypeMod: rapid.Int32().Draw(t, "modifier"),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		var row cdc.Row
		if rapid.Bool().Draw(t, "relation") {
			row.Relation = &cdc.Relation{
				ID: rapid.Uint32().Draw(t, "id"), Schema: text.Draw(t, "schema"), Name: text.Draw(t, "table"),
			}
			for range rapid.IntRange(0, 5).Draw(t, "columns") {
				row.Relation.Columns = append(row.Relation.Columns, column.Draw(t, "column"))
			}
		}
		for range rapid.IntRange(0, 6).Draw(t, "values") {
			row.Values = append(row.Values, value.Draw(t, "value"))
		}
		encoded := EncodeRow(row)
		if !json.Valid(encoded) || !isText(encoded) || strings.Contains(string(encoded), `\u0000`) {
			t.Fatalf("%q cannot be stored as json", encoded)
		}
		got, err := DecodeRow(encoded)
		if err != nil || !reflect.DeepEqual(got, row) {
			t.Fatalf("%s\ngot  %+v, %v\nwant %+v", encoded, got, err, row)
		}
	})
}

func TestDecodeRow_RefusesWhatNoRowBecomes(t *testing.T) {
	for _, text := range []string{
		``, `[]`, `{`, `{"schema":"a"}`, `{"columns":[{"name":"a","text":"x"}]}`,
		`{"schema":"a","table":"b","columns":[{"name":"a","text":"x","null":true}]}`,
		`{"schema":"a","table":"b","columns":[{"name":"a"},{"name":"b","text":"x"}]}`,
		`{"schema":"a","table":"b","columns":[{"text":"x"},{"name":"b"}]}`,
		`{"columns":[{"base64":"%"}]}`,
	} {
		if row, err := DecodeRow([]byte(text)); err == nil {
			t.Errorf("%s: got %+v", text, row)
		}
	}
}

func FuzzDecodeRow(f *testing.F) {
	f.Add(EncodeRow(eventRow(nil)))
	f.Add(EncodeRow(withNull(eventRow(map[string]string{"payload": "\xff\x00"}), "headers")))
	f.Add([]byte(`{"columns":[{"binary":"AA=="},{"unchanged":true}]}`))
	f.Add([]byte(`{"schema_base64":"/w==","table":"t","columns":[{"name_base64":"AA==","base64":null}]}`))
	m := mustMapper(f, MappingOptions{})
	f.Fuzz(func(t *testing.T, text []byte) {
		row, err := DecodeRow(text)
		if err != nil {
			return
		}
		encoded := EncodeRow(row)
		again, err := DecodeRow(encoded)
		if err != nil || !reflect.DeepEqual(again, row) {
			t.Fatalf("%s\ngot  %+v, %v\nwant %+v", encoded, again, err, row)
		}
		if _, err := m.Map(row); err == nil && row.Relation.Name != "events" {
			t.Fatalf("a row of %s is mapped", row.Relation.Name)
		}
	})
}
