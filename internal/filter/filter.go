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
	maxDigits     = 100 // of a number, and its exponent is not beyond a thousand
)

// MaxSteps is how many values a filter looks at in one payload, 256 bytes of a text counting as one. What needs more is let
// through: tenants write filters, and the goroutine that works them out is everybody's.
const MaxSteps = 5000

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
	operand any          // what a value is compared with: a string, bool, nil or number
	list    map[any]bool // the same, of $in and $nin
	exist   bool
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
	f := &Filter{text: strings.TrimSpace(canonical.String()), root: root}
	if len(f.text) > MaxBytes { // escapes make it longer, and this is what is kept
		return nil, &Fault{"", fmt.Sprintf("a filter has up to %d bytes", MaxBytes)}
	}
	return f, nil
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
		if strings.ContainsRune(name, 0) {
			return nil, &Fault{at, "a name has a NUL character"}
		}
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
		if c.operand, err = p.operand(v, at); err == nil && !isNumber(c.operand) && !isString(c.operand) {
			return nil, &Fault{at, "expected a number or a string"}
		}
	case opIn, opNin:
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			return nil, &Fault{at, "expected a list of values"}
		}
		c.list = make(map[any]bool, len(list))
		for i, item := range list {
			o, err := p.operand(item, fmt.Sprintf("%s/%d", at, i))
			if err != nil {
				return nil, err
			}
			c.list[o] = true
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

func (p *parser) operand(v any, at string) (any, error) {
	if err := p.count(at); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case json.Number:
		n := parseNumber(v.String())
		if len(v) > maxDigits || n.exp > 1000 || n.exp < -1000 {
			return nil, &Fault{at, fmt.Sprintf("a number has up to %d digits, and an exponent of up to 1000", maxDigits)}
		}
		return n, nil
	case string:
		if strings.ContainsRune(v, 0) {
			return nil, &Fault{at, "it has a NUL character"}
		}
		return v, nil
	case bool, nil:
		return v, nil
	}
	return nil, &Fault{at, "expected a string, a number, true, false or null"}
}

func isString(v any) bool { _, ok := v.(string); return ok }

func isNumber(v any) bool { _, ok := v.(number); return ok }

// Payload is a payload that is decoded when a filter first looks at it, once for all filters. Not safe for concurrent use.
type Payload struct {
	text    []byte
	value   any
	decoded bool
	failed  bool
	worked  map[string]verdict // what filters said, by their texts: subscriptions may have equal ones
}

type verdict struct {
	failed string
	ok     bool
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
	if v, ok := p.worked[f.text]; ok {
		return v.failed, v.ok
	}
	v, ok := p.get()
	if !ok {
		return "", false // text that the mapper did not let through
	}
	w := work{left: MaxSteps}
	failed, ok = w.all(f.root, v, true)
	if w.left < 0 {
		failed, ok = "", true
	}
	if p.worked == nil {
		p.worked = make(map[string]verdict)
	}
	p.worked[f.text] = verdict{failed, ok}
	return failed, ok
}

// work is one look of a filter at a payload. When nothing is left, what it says is worth nothing.
type work struct{ left int }

// step counts a look at a value, and tells whether it is still to be done.
func (w *work) step(v any) bool {
	w.left--
	switch v := v.(type) {
	case string:
		w.left -= len(v) / 256
	case json.Number:
		w.left -= len(v) / 256
	}
	return w.left >= 0
}

// all tells whether all conditions hold of a value, which there may be none of.
func (w *work) all(list []condition, v any, present bool) (failed string, ok bool) {
	for i := range list {
		if failed, ok := w.holds(&list[i], v, present); !ok {
			return failed, false
		}
	}
	return "", true
}

func (w *work) holds(c *condition, v any, present bool) (failed string, ok bool) {
	if !w.step(nil) {
		return c.at, false
	}
	switch c.op {
	case "":
		return w.member(c, v)
	case opAnd:
		for _, inner := range c.choices {
			if failed, ok := w.all(inner, v, present); !ok {
				return failed, false
			}
		}
		return "", true
	case opOr:
		for _, inner := range c.choices {
			if _, ok := w.all(inner, v, present); ok {
				return "", true
			}
		}
		return c.at, false
	case opNot:
		_, ok = w.all(c.inner, v, present)
		return c.at, !ok
	case opExist:
		return c.at, present == c.exist
	case opNeq, opNin:
		return c.at, !present || !w.anyOf(v, c.equals)
	case opEq, opIn:
		return c.at, present && w.anyOf(v, c.equals)
	}
	return c.at, present && w.anyOf(v, c.compares)
}

// member looks at a member of an object, or of any object in an array.
func (w *work) member(c *condition, v any) (failed string, ok bool) {
	switch v := v.(type) {
	case map[string]any:
		inner, present := v[c.name]
		return w.all(c.inner, inner, present)
	case []any:
		failed = c.at
		for i, item := range v {
			if !w.step(nil) {
				return failed, false
			}
			if _, isObject := item.(map[string]any); !isObject {
				continue
			}
			why, ok := w.member(c, item)
			if ok {
				return "", true
			}
			if i == 0 {
				failed = why
			}
		}
		return failed, false
	}
	return w.all(c.inner, nil, false)
}

// anyOf tells whether something holds of a value, or of an element of an array.
func (w *work) anyOf(v any, holds func(any) bool) bool {
	list, ok := v.([]any)
	if !ok {
		return w.step(v) && holds(v)
	}
	for _, item := range list {
		if !w.step(item) {
			return false
		}
		if holds(item) {
			return true
		}
	}
	return false
}

// equals tells whether a value is the operand, or one of the list.
func (c *condition) equals(v any) bool {
	is := func(key any) bool {
		if c.list != nil {
			return c.list[key]
		}
		return key == c.operand
	}
	switch v := v.(type) {
	case json.Number:
		return is(parseNumber(v.String()))
	case string:
		if is(v) {
			return true
		}
		n, ok := parseDecimal(v)
		return ok && is(n)
	case bool, nil:
		return is(v)
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
	switch want := c.operand.(type) {
	case number:
		n, ok := asNumber(v)
		if !ok {
			return false
		}
		order = n.compare(want)
	case string:
		s, ok := v.(string)
		if !ok {
			return false
		}
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
