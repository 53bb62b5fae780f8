package outbox

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed schemas/*.json
var schemaFiles embed.FS

// builtIn lists the event types that every catalog has. Their schemas lie in schemas/.
var builtIn = []struct{ name, suppressWhenEmpty string }{
	{name: "payment.received"},
	{name: "payment.failed"},
	{name: "customer.created"},
	{name: "customer.updated", suppressWhenEmpty: "changes"},
	{name: "sales_order.created"},
	{name: "sales_order.confirmed"},
	{name: "sales_order.cancelled"},
}

// EventType is one entry of the catalog.
type EventType struct {
	// Name is the whole name. It is case-sensitive.
	Name string
	// Description says in a sentence when such an event occurs.
	Description string
	// Schema is the JSON Schema (draft 2020-12 unless it names another) of the payload.
	Schema json.RawMessage
	// Example is a payload that matches Schema; nil when none is given.
	Example json.RawMessage
	// SuppressWhenEmpty names a top-level member, or is empty. When that member of a valid payload is an empty
	// object, array or string, or null, the event is suppressed.
	SuppressWhenEmpty string
	// File is the catalog file that defines the type; empty for a built-in type.
	File string
}

// Catalog is the set of event types that may be delivered. It does not change after NewCatalog and is safe for
// concurrent use.
type Catalog struct {
	entries []*entry
	byName  map[string]*entry
	// byParts finds an entry by all of its name before the last dot, and by what comes after it.
	byParts map[string]map[string]*entry
}

type entry struct {
	EventType
	schema *jsonschema.Schema
	shape  *shape // nil when the schema is not that simple
}

// NewCatalog returns the built-in types and those of the given YAML files. A file has one list:
//
//	events:
//	  - name: shipment.sent
//	    description: A shipment left the warehouse.
//	    schema: {type: object, required: [shipment_id]}   # or schema_file: shipment.sent.json
//	    example: {shipment_id: "shp_1"}
//	    suppress_when_empty: changes                       # optional
//
// A schema_file is JSON and is looked for beside the YAML file. References in a schema are resolved in files,
// never over the network. All faults of all files are reported together; each is a [*FileError].
func NewCatalog(files ...string) (*Catalog, error) {
	c := &Catalog{byName: map[string]*entry{}, byParts: map[string]map[string]*entry{}}
	for _, b := range builtIn {
		raw, err := schemaFiles.ReadFile("schemas/" + b.name + ".json")
		if err != nil {
			return nil, fmt.Errorf("read schema of %s: %w", b.name, err)
		}
		var head struct {
			Description string            `json:"description"`
			Examples    []json.RawMessage `json:"examples"`
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			return nil, fmt.Errorf("read schema of %s: %w", b.name, err)
		}
		if len(head.Examples) == 0 {
			return nil, fmt.Errorf("read schema of %s: no examples", b.name)
		}
		e, err := newEntry(EventType{
			Name: b.name, Description: head.Description, Schema: raw, Example: head.Examples[0],
			SuppressWhenEmpty: b.suppressWhenEmpty,
		}, "relay:///"+b.name)
		if err != nil {
			return nil, fmt.Errorf("compile schema of %s: %w", b.name, err)
		}
		c.add(e)
	}
	var faults []error
	for _, file := range files {
		faults = append(faults, c.load(file)...)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return c, nil
}

func (c *Catalog) add(e *entry) {
	c.entries = append(c.entries, e)
	c.byName[e.Name] = e
	dot := strings.LastIndexByte(e.Name, '.')
	if dot < 0 {
		return
	}
	first, last := e.Name[:dot], e.Name[dot+1:]
	if c.byParts[first] == nil {
		c.byParts[first] = map[string]*entry{}
	}
	c.byParts[first][last] = e
}

// newEntry compiles the schema. The URL is the base of the schema's references.
func newEntry(t EventType, url string) (*entry, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(t.Schema))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(jsonschema.SchemeURLLoader{"file": jsonschema.FileLoader{}})
	if err := compiler.AddResource(url, doc); err != nil {
		return nil, err
	}
	schema, err := compiler.Compile(url)
	if err != nil {
		return nil, err
	}
	return &entry{EventType: t, schema: schema, shape: newShape(t.Schema)}, nil
}

// Types returns the event types, the built-in ones first, then those of the files in their order.
func (c *Catalog) Types() []EventType {
	types := make([]EventType, len(c.entries))
	for i, e := range c.entries {
		types[i] = e.EventType
	}
	return types
}

// Lookup returns the event type with the given whole name.
func (c *Catalog) Lookup(name string) (EventType, bool) {
	e, ok := c.byName[name]
	if !ok {
		return EventType{}, false
	}
	return e.EventType, true
}

// CatalogChange is what differs between two catalogs, by the names of types.
type CatalogChange struct{ Added, Removed, Changed []string }

// CompareCatalogs names the types that the second catalog has besides, lacks, or describes otherwise.
func CompareCatalogs(from, to *Catalog) (c CatalogChange) {
	for _, e := range to.entries {
		was, ok := from.byName[e.Name]
		switch {
		case !ok:
			c.Added = append(c.Added, e.Name)
		case was.Description != e.Description || was.SuppressWhenEmpty != e.SuppressWhenEmpty || !bytes.Equal(was.Schema, e.Schema) ||
			!bytes.Equal(was.Example, e.Example):
			c.Changed = append(c.Changed, e.Name)
		}
	}
	for _, e := range from.entries {
		if _, ok := to.byName[e.Name]; !ok {
			c.Removed = append(c.Removed, e.Name)
		}
	}
	return c
}

// NameOf returns the whole name of the type that a row means, as a Mapper of retained rows does.
func (c *Catalog) NameOf(aggregateType, eventType string) string {
	if e := c.resolve([]byte(aggregateType), []byte(eventType)); e != nil {
		return e.Name
	}
	return wholeName(aggregateType, eventType)
}

// Suppressing returns the names of the types of which some events say nothing.
func (c *Catalog) Suppressing() []string {
	names := []string{}
	for _, e := range c.entries {
		if e.SuppressWhenEmpty != "" {
			names = append(names, e.Name)
		}
	}
	return names
}

// Suppressed reports whether an event of a type says nothing.
func (c *Catalog) Suppressed(name string, payload []byte) bool {
	_, err := c.byName[name].recall(payload, nil)
	return errors.Is(err, ErrSuppressed)
}

// Validate checks a payload as it would be checked in a row with the given whole event type, but for its size.
// It returns nil, a [*Rejection], or [ErrSuppressed].
func (c *Catalog) Validate(eventType string, payload []byte) error {
	e, ok := c.byName[eventType]
	if !ok {
		return &Rejection{Reason: ReasonUnknownType, Detail: c.unknown(eventType), EventType: storable([]byte(eventType))}
	}
	var rejection *Rejection
	_, err := e.check(payload, nil)
	if errors.As(err, &rejection) {
		rejection.EventType = eventType
	}
	return err
}

// resolve finds the type that a row means: by its whole name, else by the last part of the name with the
// aggregate type before it.
func (c *Catalog) resolve(aggregateType, eventType []byte) *entry {
	if e, ok := c.byName[string(eventType)]; ok {
		return e
	}
	return c.byParts[string(aggregateType)][string(eventType)]
}

// unknown words the rejection of a type that is not in the catalog.
func (c *Catalog) unknown(eventType string) string {
	names := make([]string, len(c.entries))
	for i, e := range c.entries {
		names[i] = e.Name
	}
	detail := "event type " + show(eventType) + " is not in the catalog"
	if near := nearest(eventType, names); near != "" {
		detail += "; the nearest is " + plain(near, maxShown)
	}
	return detail
}
