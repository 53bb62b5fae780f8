package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	schemakind "github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// The schema library makes whole numbers and fractions of every number that it compares. A few bytes of
// exponent could cost megabytes each, a long row of digits seconds, and an exponent above a million makes the
// library panic. So validation looks at numbers of at most these many digits before and after the point, and
// of exponents with at most these many digits.
const (
	maxDigits         = 1_000
	maxExponentDigits = 3
)

const maxProblems = 5 // named in one Detail

// check returns nil, a *Rejection without the row's names, or ErrSuppressed. It appends to buf, and returns
// what it has become for the next call.
func (e *entry) check(payload []byte, buf []member) ([]member, error) {
	doc, err := scanDocument(payload, buf)
	if err != nil {
		return buf, rejectText(err)
	}
	if e.shape != nil && e.shape.accepts(&doc) {
		if e.SuppressWhenEmpty != "" && doc.empty(e.SuppressWhenEmpty) {
			return doc.members, ErrSuppressed
		}
		return doc.members, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return doc.members, &Rejection{Reason: ReasonInvalidPayload, Detail: "payload: not valid JSON"}
	}
	if doc.hugeNumber {
		value = tame(value)
	}
	if err := e.schema.Validate(value); err != nil {
		return doc.members, &Rejection{Reason: ReasonInvalidPayload, Detail: explain(err)}
	}
	if e.SuppressWhenEmpty != "" {
		if object, ok := value.(map[string]any); ok && isEmpty(object, e.SuppressWhenEmpty) {
			return doc.members, ErrSuppressed
		}
	}
	return doc.members, nil
}

// recall is check for the payload of a row that was checked when it was committed. The schema of that day may be another; the
// entry is nil when the type is gone from the catalog. It still has to be JSON, because it becomes part of a body.
func (e *entry) recall(payload []byte, buf []member) ([]member, error) {
	doc, err := scanDocument(payload, buf)
	if err != nil {
		return buf, rejectText(err)
	}
	if e == nil || e.SuppressWhenEmpty == "" {
		return doc.members, nil
	}
	if e.shape != nil && e.shape.accepts(&doc) {
		if doc.empty(e.SuppressWhenEmpty) {
			return doc.members, ErrSuppressed
		}
		return doc.members, nil
	}
	var object map[string]any
	if json.Unmarshal(payload, &object) == nil && isEmpty(object, e.SuppressWhenEmpty) {
		return doc.members, ErrSuppressed
	}
	return doc.members, nil
}

func rejectText(err error) *Rejection {
	var at syntaxError
	switch {
	case errors.Is(err, errTooDeep):
		return &Rejection{
			Reason: ReasonTooDeep,
			Detail: fmt.Sprintf("payload: nested deeper than %d levels", maxDepth),
		}
	case errors.As(err, &at):
		return &Rejection{
			Reason: ReasonInvalidPayload,
			Detail: "payload: not valid JSON at byte " + strconv.Itoa(int(at)+1),
		}
	}
	return &Rejection{Reason: ReasonInvalidPayload, Detail: "payload: " + err.Error()}
}

// empty tells whether the named member is there and empty. A shape has accepted the document, so the name is
// not escaped; it may still come twice if the shape does not know it, and then the last one counts.
func (d *document) empty(name string) bool {
	for _, m := range slices.Backward(d.members) {
		if string(m.name) != name {
			continue
		}
		switch m.kind {
		case kindNull:
			return true
		case kindString:
			return len(m.value) == 0
		case kindObject, kindArray:
			return len(bytes.TrimLeft(m.value[1:], " \t\r\n")) == 1
		}
		return false
	}
	return false
}

func isEmpty(object map[string]any, name string) bool {
	value, ok := object[name]
	switch v := value.(type) {
	case nil:
		return ok
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// tame makes huge numbers in the decoded copy smaller, so that they stay as whole, and as large or small, as any
// bound of a schema can tell. The payload itself is not touched.
func tame(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for name := range v {
			v[name] = tame(v[name])
		}
	case []any:
		for i := range v {
			v[i] = tame(v[i])
		}
	case json.Number:
		return tameNumber(v)
	}
	return value
}

func tameNumber(n json.Number) json.Number {
	mantissa, exponent, sign := string(n), "", ""
	if at := strings.IndexAny(mantissa, "eE"); at >= 0 {
		mantissa, exponent = mantissa[:at], mantissa[at+1:]
		if exponent[0] == '+' || exponent[0] == '-' {
			sign, exponent = exponent[:1], exponent[1:]
		}
		exponent = strings.TrimLeft(exponent, "0")
		if len(exponent) > maxExponentDigits {
			exponent = strings.Repeat("9", maxExponentDigits)
		}
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	whole = whole[:min(len(whole), maxDigits)]
	if len(fraction) > maxDigits {
		// A last digit stands for all that are cut off, so that a fraction does not become a whole number.
		rest := strings.TrimLeft(fraction[maxDigits:], "0")
		if fraction = fraction[:maxDigits]; rest != "" {
			fraction += "1"
		}
	}
	return json.Number(whole + "." + fraction + "0e" + sign + "0" + exponent)
}

// explain words what the schema found, one problem after the other, in an order that does not change.
func explain(err error) string {
	var failed *jsonschema.ValidationError
	if !errors.As(err, &failed) {
		return plain("payload: "+err.Error(), maxDetail)
	}
	problems := leaves(failed, nil)
	slices.Sort(problems)
	problems = slices.Compact(problems)
	if more := len(problems) - maxProblems; more > 0 {
		problems = append(problems[:maxProblems], fmt.Sprintf("and %d more", more))
	}
	return plain(strings.Join(problems, "; "), maxDetail)
}

func leaves(e *jsonschema.ValidationError, problems []string) []string {
	if len(e.Causes) > 0 {
		for _, cause := range e.Causes {
			problems = leaves(cause, problems)
		}
		return problems
	}
	at := "payload"
	if len(e.InstanceLocation) > 0 {
		at = plain(strings.Join(e.InstanceLocation, "."), maxShown)
	}
	switch k := e.ErrorKind.(type) {
	case *schemakind.Required:
		for _, name := range k.Missing {
			location := append(slices.Clone(e.InstanceLocation), name)
			problems = append(problems, plain(strings.Join(location, "."), maxShown)+": required, but absent")
		}
		return problems
	case *schemakind.Type:
		if k.Got == "null" {
			return append(problems, at+": must be "+oneOf(k.Want)+", but is null")
		}
		return append(problems, at+": must be "+oneOf(k.Want)+", but is "+article(k.Got))
	case *schemakind.MinLength:
		if k.Want == 1 {
			return append(problems, at+": must not be empty")
		}
	case *schemakind.Pattern:
		if k.Want == decimalPattern {
			return append(problems, at+": must be a decimal number such as 1500.00")
		}
		return append(problems, at+": must match the pattern "+plain(k.Want, maxShown))
	}
	return append(problems, at+": "+plain(e.ErrorKind.LocalizedString(message.NewPrinter(language.English)), maxShown))
}

func oneOf(types []string) string {
	words := make([]string, 0, len(types))
	for _, t := range types {
		if t != "null" {
			words = append(words, article(t))
		}
	}
	if slices.Contains(types, "null") {
		words = append(words, "null")
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func article(t string) string {
	switch t {
	case "null":
		return t
	case "array", "integer", "object":
		return "an " + t
	}
	return "a " + t
}
