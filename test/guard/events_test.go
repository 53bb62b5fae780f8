package guard

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/outbox"
)

// blocks returns the fenced blocks of a language in a text.
func blocks(text, language string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

func TestEventsDoc_IsWhatTheCatalogSays(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs/events.md"))
	if err != nil {
		t.Fatal(err)
	}
	yaml := blocks(string(doc), "yaml")
	if len(yaml) != 1 {
		t.Fatalf("%d blocks of YAML, expected one", len(yaml))
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"catalog.yaml": yaml[0], "shipment.updated.json": `{"type": "object"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	catalog, err := outbox.NewCatalog(filepath.Join(dir, "catalog.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.Validate("shipment.sent", []byte(`{"shipment_id": "shp_1", "order_id": 7}`)); err != nil {
		t.Errorf("shipment.sent: %v", err)
	}

	row := regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| (.*) \\| (.*) \\|$")
	member := regexp.MustCompile("`([a-z_]+)`")
	members := func(cell string) []string {
		var names []string
		for _, m := range member.FindAllStringSubmatch(cell, -1) {
			names = append(names, m[1])
		}
		return slices.Sorted(slices.Values(names))
	}
	table := make(map[string][2][]string)
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		table[m[1]] = [2][]string{members(m[2]), members(m[3])}
	}
	for _, typ := range catalog.Types() {
		if typ.File != "" {
			continue
		}
		var schema struct {
			Required   []string                   `json:"required"`
			Properties map[string]json.RawMessage `json:"properties"`
		}
		if err := json.Unmarshal(typ.Schema, &schema); err != nil {
			t.Fatal(err)
		}
		for _, name := range schema.Required {
			delete(schema.Properties, name)
		}
		want := [2][]string{slices.Sorted(slices.Values(schema.Required)), slices.Sorted(maps.Keys(schema.Properties))}
		if got := table[typ.Name]; !slices.Equal(got[0], want[0]) || !slices.Equal(got[1], want[1]) {
			t.Errorf("%s: the table says %v, the schema %v", typ.Name, got, want)
		}
		if !strings.Contains(string(doc), string(typ.Example)) {
			t.Errorf("%s: the example of its schema is not shown: %s", typ.Name, typ.Example)
		}
	}
}
