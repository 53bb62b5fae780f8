package outbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNewCatalog_AddsTheOperatorsTypes(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"catalog.yaml": `
events:
  - name: shipment.sent
    description: A shipment left.
    schema:
      type: object
      required: [shipment_id, weight]
      properties:
        shipment_id: {type: string, minLength: 3}
        weight: {type: number, minimum: 0.10}
      additionalProperties: true
    example: {shipment_id: shp_1, weight: 1500.00, when: 2026-11-24}
  - name: shipment.changed
    schema_file: changed.json
    suppress_when_empty: diff
`,
		"changed.json": `{"type": "object", "properties": {"diff": {"$ref": "diff.json"}}}`,
		"diff.json":    `{"type": ["object", "array", "null"]}`,
	})
	file := filepath.Join(dir, "catalog.yaml")
	c := mustCatalog(t, file)
	types := c.Types()
	if len(types) != len(builtIn)+2 || types[len(types)-2].Name != "shipment.sent" {
		t.Fatalf("got %d types", len(types))
	}
	sent, ok := c.Lookup("shipment.sent")
	if !ok || sent.File != file || sent.Description != "A shipment left." {
		t.Errorf("got %+v", sent)
	}
	if got := string(sent.Example); got != `{"shipment_id":"shp_1","weight":1500.00,"when":"2026-11-24"}` {
		t.Errorf("got example %s", got)
	}
	if err := c.Validate("shipment.sent", []byte(`{"shipment_id":"shp","weight":1e99999999}`)); err != nil {
		t.Error(err)
	}
	mustReject(t, c.Validate("shipment.sent", []byte(`{"shipment_id":"s","weight":0}`)), ReasonInvalidPayload, "weight: ")
	mustReject(t, c.Validate("shipment.sent", []byte(`{"weight":-1e99999999,"shipment_id":"shp"}`)), ReasonInvalidPayload, "weight")
	for payload, want := range map[string]error{
		`{"diff":{}}`: ErrSuppressed, `{"diff":[]}`: ErrSuppressed, `{"diff":null}`: ErrSuppressed,
		`{}`: nil, `{"diff":[0]}`: nil,
	} {
		if err := c.Validate("shipment.changed", []byte(payload)); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", payload, err, want)
		}
	}
}

func TestNewCatalog_ResolvesTheOperatorsTypesByParts(t *testing.T) {
	dir := writeFiles(t, map[string]string{"c.yaml": "events: [{name: a.b.c, schema: true}, {name: ping, schema: {}}]"})
	m, err := NewMapper(MappingOptions{}, mustCatalog(t, filepath.Join(dir, "c.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ aggregate, event, want string }{{"a.b", "c", "a.b.c"}, {"x", "ping", "ping"}} {
		e, err := m.Map(eventRow(map[string]string{"aggregate_type": test.aggregate, "event_type": test.event}))
		if err != nil || e.Type != test.want {
			t.Errorf("got %s, %v, want %s", e.Type, err, test.want)
		}
	}
}

func TestNewCatalog_ReportsFaultsWithTheirPlace(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "f.yaml:1: events: required, but the file is empty"},
		{"not yaml", "events:\n\t- x", "f.yaml:2: not valid YAML: "},
		{"two documents", "events: []\n---\nevents: []", "a second YAML document"},
		{"no mapping", "- a", "f.yaml:1: must be a mapping with the keys events"},
		{"unknown top key", "event: []", "f.yaml:1: event: unknown key; the nearest is events"},
		{"no list", "events: x", "f.yaml:1: events: must be a list"},
		{"unknown key", "events:\n  - name: a\n    shema: {}", "f.yaml:3: events[0].shema: unknown key; the nearest is schema"},
		{"key twice", "events:\n  - name: a\n    name: b\n    schema: {}", "f.yaml:3: events[0].name: given twice"},
		{"no name", "events:\n  - schema: {}", "f.yaml:2: events[0].name: required, but absent"},
		{"name not a string", "events:\n  - name: 1\n    schema: {}", "f.yaml:2: events[0].name: must be a string"},
		{"bad name", "events:\n  - name: a.*\n    schema: {}", "f.yaml:2: events[0].name: must be letters"},
		{"built in", "events:\n  - name: payment.failed\n    schema: {}", "f.yaml:2: events[0].name: payment.failed is built in"},
		{"twice", "events:\n  - {name: a, schema: {}}\n  - {name: a, schema: {}}", "f.yaml:3: events[1].name: a is already defined in"},
		{"no schema", "events:\n  - name: a", "f.yaml:2: events[0].schema: required (or schema_file), but absent"},
		{"two schemas", "events:\n  - name: a\n    schema: {}\n    schema_file: x", "f.yaml:4: events[0].schema_file: schema is given too"},
		{"no such file", "events:\n  - name: a\n    schema_file: none.json", "f.yaml:3: events[0].schema_file: open "},
		{"bad schema", "events:\n  - name: a\n    schema: {type: objekt}", "f.yaml:3: events[0].schema: not a valid JSON Schema"},
		{"network", "events:\n  - name: a\n    schema: {$ref: 'https://example.com/x'}", "f.yaml:3: events[0].schema: not a valid JSON Schema"},
		{"bad example", "events:\n  - name: a\n    schema: {type: object}\n    example: 1", "f.yaml:4: events[0].example: does not match"},
		{"bad number", "events:\n  - name: a\n    schema: {minimum: .nan}", "f.yaml:3: events[0].schema: \".nan\" is not a number in JSON"},
		{"twice in schema", "events:\n  - name: a\n    schema: {type: object, type: object}", "key \"type\" is given twice"},
		{"cycle", "events:\n  - name: a\n    schema: &a {not: *a}", "f.yaml:3: events[0].schema: "},
		{"broken file", "events:\n  - name: a\n    schema_file: broken.json", "broken.json:3: not valid JSON"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := writeFiles(t, map[string]string{"f.yaml": test.text, "broken.json": "{\n\n!"})
			_, err := NewCatalog(filepath.Join(dir, "f.yaml"))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got  %v\nwant ...%s...", err, test.want)
			}
			var fault *FileError
			if !errors.As(err, &fault) {
				t.Errorf("%v is no FileError", err)
			}
		})
	}
}

func TestNewCatalog_ReportsAllFaultsOfAllFiles(t *testing.T) {
	dir := writeFiles(t, map[string]string{"a.yaml": "events: [{nam: x}, 1]", "b.yaml": "evens: []"})
	_, err := NewCatalog(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml"), filepath.Join(dir, "c.yaml"))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"events[0].nam", "events[0].name", "events[1]", "evens", "c.yaml: no such file"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in %v", want, err)
		}
	}
}

func FuzzCatalogFile(f *testing.F) {
	f.Add([]byte("events:\n  - name: a\n    schema: {type: object, minimum: 0x1F}\n    example: {a: 1_000, b: ~, c: yes}"))
	f.Add([]byte("events: [{name: a, schema: &a [*a]}]"))
	f.Add([]byte("events:\n- <<: {name: b}\n  schema: true\n  suppress_when_empty: x"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(dir, "f.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := NewCatalog(file)
		if err != nil {
			return
		}
		for _, typ := range c.Types() {
			if typ.Example != nil && c.Validate(typ.Name, typ.Example) != nil && typ.SuppressWhenEmpty == "" {
				t.Fatalf("%s does not take its own example %s", typ.Name, typ.Example)
			}
		}
	})
}
