package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Bounds of a filter.
const (
	MaxBytes      = 4096
	MaxConditions = 50 // comparisons, an item of a list counts as one
	maxDepth      = 16
)

// Fault is what is wrong with a filter, and where: a JSON pointer into it (RFC 6901), "" for all of it.
type Fault struct{ Pointer, Detail string }

func (f *Fault) Error() string {
	if f.Pointer == "" {
		return f.Detail
	}
	return f.Pointer + ": " + f.Detail
}

// Filter is what a payload has to be like. It is read-only, and safe for concurrent use.
type Filter struct {
	text string
	root []condition
}

// condition is one thing that has to hold of a value.
type condition struct {
	at      string      // pointer to it in the filter
	op      string      // "" for a member, else an operator
	name    string      // of the member
	inner   []condition // of the member, or of $not
	choices [][]condition
	operand operand
	list    []operand
	exist   bool
}

// operand is what a value is compared with.
type operand struct {
	value  any    // string, bool, nil; a number is in number
	number number // when isNum
	isNum  bool
}

// Parse reads a filter. Its error is a *Fault.
func Parse(text []byte) (*Filter, error) {
	if len(text) > MaxBytes {
		return nil, &Fault{"", fmt.Sprintf("a filter has up to %d bytes", MaxBytes)}
	}
	v, err := decode(text)
	if err != nil {
		return nil, &Fault{"", "not valid JSON"}
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, &Fault{"", `expected an object such as {"currency": "EUR"}`}
	}
	p := parser{}
	root, err := p.object(object, "", 1)
	if err != nil {
		return nil, err
	}
	if len(root) == 0 {
		return nil, &Fault{"", "it asks for nothing: leave it out"}
	}
	var canonical bytes.Buffer
	enc := json.NewEncoder(&canonical)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, &Fault{"", err.Error()}
	}
	return &Filter{text: strings.TrimSpace(canonical.String()), root: root}, nil
}

// String is the filter as JSON, spelled in one way.
func (f *Filter) String() string { return f.text }

// MarshalJSON returns the filter's JSON.
func (f *Filter) MarshalJSON() ([]byte, error) { return []byte(f.text), nil }

// UnmarshalJSON is Parse.
func (f *Filter) UnmarshalJSON(text []byte) error {
	parsed, err := Parse(text)
	if err == nil {
		*f = *parsed
	}
	return err
}

func decode(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return v, nil
}

type parser struct{ conditions int }

const (
	opEq, opNeq, opIn, opNin   = "$eq", "$neq", "$in", "$nin"
	opGt, opGte, opLt, opLte   = "$gt", "$gte", "$lt", "$lte"
	opStart, opEnd, opContains = "$startsWith", "$endsWith", "$contains"
	opExist, opAnd, opOr       = "$exist", "$and", "$or"
	opNot                      = "$not"
)

var operators = []string{opEq, opNeq, opGt, opGte, opLt, opLte, opIn, opNin, opExist, opStart, opEnd, opContains, opAnd, opOr, opNot}

// object reads what has to hold of one value.
func (p *parser) object(object map[string]any, at string, depth int) ([]condition, error) {
	if depth > maxDepth {
		return nil, &Fault{at, fmt.Sprintf("a filter is nested up to %d deep", maxDepth)}
	}
	var out []condition
	for _, name := range slices.Sorted(maps.Keys(object)) {
		c, err := p.entry(name, object[name], at+"/"+escape(name), depth)
		if err != nil {
			return nil, err
		}
		out = append(out, *c)
	}
	return out, nil
}

// escape makes a name part of a pointer.
func escape(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

func (p *parser) count(at string) error {
	if p.conditions++; p.conditions > MaxConditions {
		return &Fault{at, fmt.Sprintf("a filter has up to %d comparisons", MaxConditions)}
	}
	return nil
}

func (p *parser) entry(name string, v any, at string, depth int) (*condition, error) {
	c := &condition{at: at}
	var err error
	if !strings.HasPrefix(name, "$") {
		c.name = name
		switch v := v.(type) {
		case map[string]any:
			c.inner, err = p.object(v, at, depth+1)
			if err == nil && len(c.inner) == 0 {
				return nil, &Fault{at, "it asks for nothing"}
			}
			return c, err
		case []any:
			return nil, &Fault{at, `expected a value, or {"$in": [...]} for one of several`}
		}
		is := condition{at: at, op: opEq}
		is.operand, err = p.operand(v, at)
		c.inner = []condition{is}
		return c, err
	}
	c.op = name
	switch name {
	case opEq, opNeq:
		c.operand, err = p.operand(v, at)
	case opGt, opGte, opLt, opLte:
		if c.operand, err = p.operand(v, at); err == nil && !c.operand.isNum && !isString(c.operand.value) {
			return nil, &Fault{at, "expected a number or a string"}
		}
	case opIn, opNin:
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			return nil, &Fault{at, "expected a list of values"}
		}
		for i, item := range list {
			o, err := p.operand(item, fmt.Sprintf("%s/%d", at, i))
			if err != nil {
				return nil, err
			}
			c.list = append(c.list, o)
		}
	case opStart, opEnd, opContains:
		if s, ok := v.(string); !ok || s == "" {
			return nil, &Fault{at, "expected a string"}
		}
		c.operand, err = p.operand(v, at)
	case opExist:
		var ok bool
		if c.exist, ok = v.(bool); !ok {
			return nil, &Fault{at, "expected true or false"}
		}
		err = p.count(at)
	case opAnd, opOr:
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			return nil, &Fault{at, "expected a list of filters"}
		}
		for i, item := range list {
			inner, err := p.filter(item, fmt.Sprintf("%s/%d", at, i), depth+1)
			if err != nil {
				return nil, err
			}
			c.choices = append(c.choices, inner)
		}
	case opNot:
		c.inner, err = p.filter(v, at, depth+1)
	default:
		return nil, &Fault{at, "no such operator; there are " + strings.Join(operators, ", ")}
	}
	return c, err
}

// filter reads one that is an operator's.
func (p *parser) filter(v any, at string, depth int) ([]condition, error) {
	object, ok := v.(map[string]any)
	if !ok || len(object) == 0 {
		return nil, &Fault{at, `expected a filter, such as {"currency": "EUR"}`}
	}
	return p.object(object, at, depth)
}

func (p *parser) operand(v any, at string) (operand, error) {
	if err := p.count(at); err != nil {
		return operand{}, err
	}
	switch v := v.(type) {
	case json.Number:
		return operand{number: parseNumber(v.String()), isNum: true}, nil
	case string, bool, nil:
		return operand{value: v}, nil
	}
	return operand{}, &Fault{at, "expected a string, a number, true, false or null"}
}

func isString(v any) bool { _, ok := v.(string); return ok }

// Payload is a payload that is decoded when a filter first looks at it, once for all filters. Not safe for concurrent use.
type Payload struct {
	text    []byte
	value   any
	decoded bool
	failed  bool
}

// NewPayload returns the payload with a JSON text. No text is null.
func NewPayload(text []byte) *Payload { return &Payload{text: text} }

func (p *Payload) get() (any, bool) {
	if !p.decoded {
		p.decoded = true
		if len(p.text) > 0 {
			var err error
			p.value, err = decode(p.text)
			p.failed = err != nil
		}
	}
	return p.value, !p.failed
}

// Match tells whether a payload is what the filter asks for. A nil Filter asks for nothing, and every payload matches it.
func (f *Filter) Match(p *Payload) bool {
	_, ok := f.Explain(p)
	return ok
}

// Explain is Match, and tells the first condition that does not hold, as a pointer into the filter. It says nothing of the
// payload, so that it may be logged.
func (f *Filter) Explain(p *Payload) (failed string, ok bool) {
	if f == nil {
		return "", true
	}
	v, ok := p.get()
	if !ok {
		return "", false // text that the mapper did not let through
	}
	return all(f.root, v, true)
}

// all tells whether all conditions hold of a value, which there may be none of.
func all(list []condition, v any, present bool) (failed string, ok bool) {
	for i := range list {
		if failed, ok := list[i].holds(v, present); !ok {
			return failed, false
		}
	}
	return "", true
}

func (c *condition) holds(v any, present bool) (failed string, ok bool) {
	switch c.op {
	case "":
		return c.member(v)
	case opAnd:
		for _, inner := range c.choices {
			if failed, ok := all(inner, v, present); !ok {
				return failed, false
			}
		}
		return "", true
	case opOr:
		for _, inner := range c.choices {
			if _, ok := all(inner, v, present); ok {
				return "", true
			}
		}
		return c.at, false
	case opNot:
		_, ok = all(c.inner, v, present)
		return c.at, !ok
	case opExist:
		return c.at, present == c.exist
	case opNeq:
		return c.at, !present || !anyOf(v, c.operand.equals)
	case opNin:
		return c.at, !present || !anyOf(v, c.oneOfList)
	case opIn:
		return c.at, present && anyOf(v, c.oneOfList)
	case opEq:
		return c.at, present && anyOf(v, c.operand.equals)
	}
	return c.at, present && anyOf(v, c.compares)
}

// member looks at a member of an object, or of any object in an array.
func (c *condition) member(v any) (failed string, ok bool) {
	switch v := v.(type) {
	case map[string]any:
		inner, present := v[c.name]
		return all(c.inner, inner, present)
	case []any:
		failed = c.at
		for i, item := range v {
			if _, isObject := item.(map[string]any); !isObject {
				continue
			}
			why, ok := c.member(item)
			if ok {
				return "", true
			}
			if i == 0 {
				failed = why
			}
		}
		return failed, false
	}
	return all(c.inner, nil, false)
}

// anyOf tells whether something holds of a value, or of an element of an array.
func anyOf(v any, holds func(any) bool) bool {
	if list, ok := v.([]any); ok {
		return slices.ContainsFunc(list, holds)
	}
	return holds(v)
}

func (c *condition) oneOfList(v any) bool {
	return slices.ContainsFunc(c.list, func(o operand) bool { return o.equals(v) })
}

func (o operand) equals(v any) bool {
	if o.isNum {
		n, ok := asNumber(v)
		return ok && n.compare(o.number) == 0
	}
	switch v.(type) {
	case string, bool, nil:
		return v == o.value
	}
	return false
}

// asNumber returns the number that a value is, or spells as amounts are spelled.
func asNumber(v any) (number, bool) {
	switch v := v.(type) {
	case json.Number:
		return parseNumber(v.String()), true
	case string:
		return parseDecimal(v)
	}
	return number{}, false
}

// compares tells whether a value has the order, or the part, that the condition asks for.
func (c *condition) compares(v any) bool {
	var order int
	if c.operand.isNum {
		n, ok := asNumber(v)
		if !ok {
			return false
		}
		order = n.compare(c.operand.number)
	} else {
		s, ok := v.(string)
		if !ok {
			return false
		}
		want, _ := c.operand.value.(string)
		switch c.op {
		case opStart:
			return strings.HasPrefix(s, want)
		case opEnd:
			return strings.HasSuffix(s, want)
		case opContains:
			return strings.Contains(s, want)
		}
		order = strings.Compare(s, want)
	}
	switch c.op {
	case opGt:
		return order > 0
	case opGte:
		return order >= 0
	case opLt:
		return order < 0
	case opLte:
		return order <= 0
	}
	return false
}
