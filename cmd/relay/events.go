package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/outbox"
)

// eventType is an entry of the catalog as it is printed.
type eventType struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Required    []string        `json:"required"`
	Optional    []string        `json:"optional"`
	File        string          `json:"file,omitempty"` // empty for a built-in type
	Schema      json.RawMessage `json:"schema"`
	Example     json.RawMessage `json:"example,omitempty"`
}

func newEvents() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "events", Short: "List the event types of the catalog", Args: cobra.NoArgs,
		Long:    "List the event types of the catalog: the built-in ones and those of catalog.files. -o json has schemas and examples.",
		Example: "  relay events\n  relay events -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			catalog, err := outbox.NewCatalog(cfg.Catalog.Files...)
			if err != nil {
				return configError{err}
			}
			var types []eventType
			var rows [][]string
			for _, t := range catalog.Types() {
				e, err := describeEvent(t)
				if err != nil {
					return err
				}
				types = append(types, e)
				rows = append(rows, []string{printable(e.Name), fields(e.Required), fields(e.Optional), printable(e.Description)})
			}
			if output == formJSON {
				return printJSON(cmd.OutOrStdout(), items(types))
			}
			return table(cmd.OutOrStdout(), "EVENT REQUIRED OPTIONAL DESCRIPTION", rows)
		},
	}
	addOutput(c, &output)
	return c
}

// describeEvent reads the top level of a schema. What is required is listed in
// the schema's order, what is optional by name.
func describeEvent(t outbox.EventType) (eventType, error) {
	var schema struct {
		Required   []string                   `json:"required"`
		Properties map[string]json.RawMessage `json:"properties"`
	}
	// A schema may also be true: then nothing is known of the payload.
	if strings.HasPrefix(strings.TrimSpace(string(t.Schema)), "{") {
		if err := json.Unmarshal(t.Schema, &schema); err != nil {
			return eventType{}, fmt.Errorf("read schema of %s: %w", t.Name, err)
		}
	}
	optional := slices.DeleteFunc(slices.Sorted(maps.Keys(schema.Properties)), func(name string) bool {
		return slices.Contains(schema.Required, name)
	})
	return eventType{Name: t.Name, Description: t.Description, Required: append([]string{}, schema.Required...),
		Optional: append([]string{}, optional...), File: t.File, Schema: t.Schema, Example: t.Example}, nil
}

func fields(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return printable(strings.Join(names, ","))
}
