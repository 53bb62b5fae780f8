package outbox

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// shape is a schema that is simple enough to be checked without decoding: an object whose top-level members
// have types, least lengths and patterns. It only ever accepts. What it does not accept, the schema itself
// decides, so that there is one truth and one wording of faults.
type shape struct {
	properties []property
	required   uint64 // a bit for each property
}

type property struct {
	name    string
	kinds   kind
	least   int // bytes of a string; only 0 and 1, where bytes and characters agree
	pattern *regexp.Regexp
	decimal bool // instead of a pattern
}

// decimalPattern is the pattern of amounts that are strings. isDecimal is the same, ten times as fast.
const decimalPattern = `^-?[0-9]+(\.[0-9]+)?$`

// newShape returns the shape of a schema, or nil when the schema says anything that a shape cannot check.
func newShape(schema []byte) *shape {
	var top struct {
		Type       string                     `json:"type"`
		Required   []string                   `json:"required"`
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if !onlyKeywords(schema, "type", "required", "properties") || json.Unmarshal(schema, &top) != nil ||
		top.Type != "object" || len(top.Properties) > 64 {
		return nil
	}
	s := &shape{}
	for name, raw := range top.Properties {
		p, ok := newProperty(name, raw)
		if !ok {
			return nil
		}
		s.properties = append(s.properties, p)
	}
	slices.SortFunc(s.properties, func(a, b property) int { return strings.Compare(a.name, b.name) })
	for _, name := range top.Required {
		i := slices.IndexFunc(s.properties, func(p property) bool { return p.name == name })
		if i < 0 {
			return nil
		}
		s.required |= 1 << i
	}
	return s
}

func newProperty(name string, schema []byte) (property, bool) {
	var raw struct {
		Type      json.RawMessage `json:"type"`
		MinLength int             `json:"minLength"`
		Pattern   *string         `json:"pattern"`
	}
	if !onlyKeywords(schema, "type", "minLength", "pattern") || json.Unmarshal(schema, &raw) != nil {
		return property{}, false
	}
	var types []string
	if json.Unmarshal(raw.Type, &types) != nil {
		var one string
		if json.Unmarshal(raw.Type, &one) != nil {
			return property{}, false
		}
		types = []string{one}
	}
	p := property{name: name, least: raw.MinLength}
	for _, t := range types {
		k, ok := kindNames[t]
		if !ok {
			return property{}, false
		}
		p.kinds |= k
	}
	if p.least > 1 {
		return property{}, false
	}
	switch {
	case raw.Pattern == nil:
	case *raw.Pattern == decimalPattern:
		p.decimal = true
	default:
		re, err := regexp.Compile(*raw.Pattern)
		if err != nil {
			return property{}, false
		}
		p.pattern = re
	}
	return p, true
}

var kindNames = map[string]kind{
	"null": kindNull, "boolean": kindBool, "number": kindNumber, "integer": kindInteger,
	"string": kindString, "array": kindArray, "object": kindObject,
}

// onlyKeywords tells whether schema is an object of the given keywords and of those that assert nothing.
func onlyKeywords(schema []byte, keywords ...string) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(schema, &members) != nil {
		return false
	}
	for name, value := range members {
		switch name {
		case "title", "description", "examples", "$comment", "default", "deprecated":
		case "$schema":
			if string(value) != `"https://json-schema.org/draft/2020-12/schema"` {
				return false
			}
		default:
			if !slices.Contains(keywords, name) {
				return false
			}
		}
	}
	return true
}

// accepts tells that the document certainly matches the schema. False says nothing.
func (s *shape) accepts(doc *document) bool {
	if doc.kind != kindObject || !doc.listed {
		return false
	}
	var seen uint64
	for i := range doc.members {
		m := &doc.members[i]
		if m.nameEscaped {
			return false
		}
		at := s.find(m.name)
		if at < 0 {
			continue
		}
		if seen&(1<<at) != 0 || !s.properties[at].accepts(m) {
			return false
		}
		seen |= 1 << at
	}
	return s.required&^seen == 0
}

func (s *shape) find(name []byte) int {
	for i := range s.properties {
		if s.properties[i].name == string(name) {
			return i
		}
	}
	return -1
}

func (p *property) accepts(m *member) bool {
	if p.kinds&m.kind == 0 {
		return false
	}
	if m.kind != kindString {
		return true
	}
	switch {
	case len(m.value) < p.least:
		return false
	case p.decimal:
		return isDecimal(m.value)
	case p.pattern != nil:
		return !m.escaped && p.pattern.Match(m.value)
	}
	return true
}

func isDecimal(b []byte) bool {
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	whole, fraction, found := bytes.Cut(b, []byte{'.'})
	return allDigits(whole) && (!found || allDigits(fraction))
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}
