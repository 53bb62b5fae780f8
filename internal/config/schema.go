package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// Schema returns the JSON Schema (2020-12) of the configuration file, for editors and for checks where
// the relay is not at hand. Rules between keys and the ranges of durations and sizes are in Load alone.
func Schema() ([]byte, error) {
	root := object("Configuration of the relay.")
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "relay"
	objects := map[string]map[string]any{"": root}
	for i := range settings {
		s := &settings[i]
		section, leaf, _ := cutLast(s.key)
		properties := sectionSchema(objects, section)["properties"].(map[string]any)
		properties[leaf] = s.describe()
		if s.secret {
			properties[leaf+fileSuffix] = map[string]any{
				"type": []string{"string", "null"}, "description": "File that holds " + s.key + ".",
			}
		}
	}
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return append(b, '\n'), nil
}

func object(doc string) map[string]any {
	return map[string]any{
		"type": "object", "description": doc, "additionalProperties": false, "properties": map[string]any{},
	}
}

func sectionSchema(objects map[string]map[string]any, path string) map[string]any {
	if o := objects[path]; o != nil {
		return o
	}
	above, name, _ := cutLast(path)
	o := object(sectionDocs[path])
	o["type"] = []string{"object", "null"} // all its keys may be commented out
	objects[path] = o
	sectionSchema(objects, above)["properties"].(map[string]any)[name] = o
	return o
}

// describe returns the schema of one setting.
func (s *setting) describe() map[string]any {
	schema := maps.Clone(s.schema)
	if s.def == "" {
		schema = map[string]any{"anyOf": []any{s.schema, map[string]any{"type": "null"}}}
	}
	schema["description"] = strings.TrimSuffix(s.doc, ".") + " (" + s.expected + ")."
	if s.def != "" {
		schema["default"] = s.plain(Default())
	}
	return schema
}
