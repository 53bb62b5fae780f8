package outbox

import (
	"strings"
	"testing"
)

func BenchmarkMap(b *testing.B) {
	m := mustMapper(b, MappingOptions{})
	row := eventRow(nil)
	b.ReportAllocs()
	b.SetBytes(int64(len(typicalPayload)))
	for b.Loop() {
		if _, err := m.Map(row); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMap_BySchema is a payload that only the schema itself can judge.
func BenchmarkMap_BySchema(b *testing.B) {
	m := mustMapper(b, MappingOptions{})
	row := eventRow(map[string]string{"payload": strings.Replace(typicalPayload, `"note"`, `"\u006eote"`, 1)})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Map(row); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBody(b *testing.B) {
	e, err := mustMapper(b, MappingOptions{}).Map(eventRow(nil))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = e.Body()
	}
}

func BenchmarkKey(b *testing.B) {
	e, err := mustMapper(b, MappingOptions{}).Map(eventRow(nil))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = e.Key()
	}
}

// BenchmarkMap_ManyHugeNumbers is the costliest kind of payload known: 1 MiB of numbers with large exponents,
// each of which a schema compares.
func BenchmarkMap_ManyHugeNumbers(b *testing.B) {
	schema := `{"type":"object","properties":{"l":{"items":{"type":"integer","minimum":0}}}}`
	e, err := newEntry(EventType{Name: "x", Schema: []byte(schema)}, "relay:///x")
	if err != nil {
		b.Fatal(err)
	}
	payload := []byte(`{"l":[` + strings.Repeat("1e999,", 174_000) + `1]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.check(payload, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMap_ManyDigits is an id of a million digits.
func BenchmarkMap_ManyDigits(b *testing.B) {
	c := mustCatalog(b)
	payload := []byte(`{"order_id":` + strings.Repeat("9", 1<<20-100) + `.0,"order_number":1}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Validate("sales_order.cancelled", payload); err != nil {
			b.Fatal(err)
		}
	}
}
