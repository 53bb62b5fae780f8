package outbox

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// payloadCorpus holds texts on which decoders disagree or which the shape and the schema might judge
// differently.
var payloadCorpus = []string{
	`{}`, `[]`, `null`, `1`, `"x"`, ` {} `, "\ufeff{}", `{"a":1,}`, `{"a" 1}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":-}`,
	`{"a":1e}`, `{"a":+1}`, `{"a":NaN}`, `{"a":tru}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, "{\"a\":\"\n\"}", "{\"a\":\"\xff\"}",
	`{"a":"\u0000\ud800"}`, `{"a":1}{}`, `{"a":[1,[2,{"b":[]}]]}`, `{"a":1e400,"b":-0,"c":123456789012345678901234567890}`,
	`{"payment_id":1,"invoice_id":"i","amount":"1500.00","currency":"EUR"}`,
	`{"payment_id":1.0,"invoice_id":1e2,"amount":-0.10,"currency":"EUR"}`,
	`{"payment_id":1.5,"invoice_id":"","amount":"1,5","currency":null}`,
	`{"payment_id":1e99999999,"invoice_id":1E+0000001,"amount":1e-99999999,"currency":"EUR"}`,
	`{"payment_id":1,"payment_id":null,"invoice_id":1,"amount":1,"currency":"EUR"}`,
	`{"payment_id":null,"payment_id":1,"invoice_id":1,"amount":1,"currency":"EUR"}`,
	`{"Payment_ID":1,"invoice_id":1,"amount":1,"currency":"EUR"}`,
	`{"\u0070ayment_id":1,"invoice_id":1,"amount":1,"currency":"\u0000"}`,
	`{"customer_id":1,"customer_name":"Ada","changes":{},"changes":{"a":1}}`,
	`{"order_id":1,"order_number":2,"reason":null,"amount":"-1.0","currency":"x","items_count":1.0}`,
}

func TestValidate_AcceptsTheExamples(t *testing.T) {
	c := mustCatalog(t)
	for _, typ := range c.Types() {
		if err := c.Validate(typ.Name, typ.Example); err != nil {
			t.Errorf("%s: %v", typ.Name, err)
		}
	}
}

// required lists, for each built-in type, the members that it must have.
var required = map[string][]string{
	"payment.received":      {"payment_id", "invoice_id", "amount", "currency"},
	"payment.failed":        {"payment_id", "invoice_id", "amount", "currency"},
	"customer.created":      {"customer_id", "customer_name"},
	"customer.updated":      {"customer_id", "customer_name", "changes"},
	"sales_order.created":   {"order_id", "order_number", "amount", "currency"},
	"sales_order.confirmed": {"order_id", "order_number", "amount", "currency"},
	"sales_order.cancelled": {"order_id", "order_number"},
}

var optional = map[string][]string{
	"payment.received":      {"payment_method", "reference_number"},
	"payment.failed":        {"reason", "error_code"},
	"customer.created":      {"customer_email", "customer_phone", "customer_type"},
	"customer.updated":      {"customer_email", "customer_phone"},
	"sales_order.created":   {"customer_id", "customer_name", "items_count"},
	"sales_order.confirmed": {"customer_id", "customer_name"},
	"sales_order.cancelled": {"reason"},
}

func TestValidate_KnowsRequiredAndOptionalMembers(t *testing.T) {
	c := mustCatalog(t)
	if len(c.Types()) != len(required) {
		t.Fatalf("%d built-in types, want %d", len(c.Types()), len(required))
	}
	for _, typ := range c.Types() {
		with := func(name, value string) []byte {
			var members map[string]json.RawMessage
			if err := json.Unmarshal(typ.Example, &members); err != nil {
				t.Fatal(err)
			}
			if delete(members, name); value != "" {
				members[name] = json.RawMessage(value)
			}
			payload, err := json.Marshal(members)
			if err != nil {
				t.Fatal(err)
			}
			return payload
		}
		for _, name := range required[typ.Name] {
			mustReject(t, c.Validate(typ.Name, with(name, "")), ReasonInvalidPayload, name+": required, but absent")
			mustReject(t, c.Validate(typ.Name, with(name, "null")), ReasonInvalidPayload, name+": must be ")
			mustReject(t, c.Validate(typ.Name, with(name, `""`)), ReasonInvalidPayload, name+": must ")
			mustReject(t, c.Validate(typ.Name, with(name, "[]")), ReasonInvalidPayload, "but is an array")
		}
		for _, name := range optional[typ.Name] {
			for _, value := range []string{"", "null"} {
				if err := c.Validate(typ.Name, with(name, value)); err != nil {
					t.Errorf("%s with %s %q: %v", typ.Name, name, value, err)
				}
			}
			mustReject(t, c.Validate(typ.Name, with(name, "[]")), ReasonInvalidPayload, name+": must be ")
		}
		if err := c.Validate(typ.Name, with("unknown", `{"a":[1]}`)); err != nil {
			t.Errorf("%s with an unknown member: %v", typ.Name, err)
		}
	}
}

func TestValidate_TakesAmountsAndIDsInBothForms(t *testing.T) {
	c := mustCatalog(t)
	payload := func(id, amount string) []byte {
		return []byte(`{"payment_id":` + id + `,"invoice_id":1,"amount":` + amount + `,"currency":"EUR"}`)
	}
	for _, amount := range []string{
		`1500.00`, `"1500.00"`, `0`, `-1`, `"-1"`, `123456789012345678901234567890.123456789012345678901234567890`,
		`"123456789012345678901234567890.12"`, `1e400`, `1E-400`, `1e999999999999`,
	} {
		if err := c.Validate("payment.received", payload("1", amount)); err != nil {
			t.Errorf("amount %s: %v", amount, err)
		}
	}
	for _, amount := range []string{`""`, `"x"`, `"1,5"`, `"1."`, `".5"`, `"1e3"`, `" 1"`, `"1\n"`, `"--1"`, `true`, `null`, `{}`} {
		mustReject(t, c.Validate("payment.received", payload("1", amount)), ReasonInvalidPayload, "amount: must be ")
	}
	for _, id := range []string{`"a"`, `1`, `-1`, `123456789012345678901234567890`, `1.0`, `1e3`, `"\u0061"`, `1e99999999`} {
		if err := c.Validate("payment.received", payload(id, "1")); err != nil {
			t.Errorf("id %s: %v", id, err)
		}
	}
	for _, id := range []string{`""`, `1.5`, `1e-3`, `1e-99999999`, `true`, `null`, `[]`} {
		mustReject(t, c.Validate("payment.received", payload(id, "1")), ReasonInvalidPayload, "payment_id: must ")
	}
}

func TestValidate_SaysWhatIsWrong(t *testing.T) {
	c := mustCatalog(t)
	for payload, want := range map[string]string{
		`{"a":`:     "payload: not valid JSON at byte 6",
		`{"a":1,}`:  "payload: not valid JSON at byte 8",
		"{\"\xff\"": "payload: not valid UTF-8",
		`[]`:        "payload: must be an object, but is an array",
		`{"order_number":"","reason":1}`: "order_id: required, but absent; order_number: must not be empty; " +
			"reason: must be a string or null, but is a number",
	} {
		r := mustReject(t, c.Validate("sales_order.cancelled", []byte(payload)), ReasonInvalidPayload, want)
		if r.EventType != "sales_order.cancelled" {
			t.Errorf("%s: got %+v", payload, r)
		}
	}
	mustReject(t, c.Validate("sales_order.canceled", []byte(`{}`)), ReasonUnknownType, "the nearest is sales_order.cancelled")
}

func TestValidate_ShowsLittleOfWhatRowsHold(t *testing.T) {
	c := mustCatalog(t)
	long := strings.Repeat("secret\x01", 1000)
	r := mustReject(t, c.Validate(long, nil), ReasonUnknownType, "...")
	if strings.Count(r.Detail, "secret") > 15 || strings.ContainsRune(r.Detail, 1) {
		t.Errorf("got %q", r.Detail)
	}
	payload := `{"payment_id":1,"invoice_id":1,"currency":"x","amount":"` + strings.Repeat("4111111111111111 ", 1000) + `"}`
	r = mustReject(t, c.Validate("payment.received", []byte(payload)), ReasonInvalidPayload, "amount: must be a decimal number")
	if strings.Contains(r.Detail, "4111") {
		t.Errorf("got %q", r.Detail)
	}
}

func TestTameNumber_KeepsWhatASchemaCanTell(t *testing.T) {
	schema := func(text string) *entry {
		e, err := newEntry(EventType{Name: "x", Schema: []byte(text)}, "relay:///x")
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	whole, positive := schema(`{"type":"integer"}`), schema(`{"exclusiveMinimum":0}`)
	above, below := schema(`{"minimum":1000000}`), schema(`{"maximum":0.000001}`)
	nines, zeros := strings.Repeat("9", 5_000), strings.Repeat("0", 5_000)
	for _, test := range []struct {
		number                        string
		whole, positive, above, below bool
	}{
		{nines, true, true, true, false},
		{"-" + nines, true, false, false, true},
		{nines + "." + nines, false, true, true, false},
		{"1." + zeros, true, true, false, false},
		{"1." + zeros + "1", false, true, false, false},
		{"0." + zeros + "1", false, true, false, true},
		{"1e99999999", true, true, true, false},
		{"-1.5E+99999999", true, false, false, true},
		{"1e-99999999", false, true, false, true},
		{"0e99999999", true, false, false, true},
		{"2e0000000000001", true, true, false, false},
	} {
		for name, check := range map[string]struct {
			entry *entry
			want  bool
		}{"whole": {whole, test.whole}, "positive": {positive, test.positive}, "above": {above, test.above}, "below": {below, test.below}} {
			if _, err := check.entry.check([]byte(test.number), nil); (err == nil) != check.want {
				t.Errorf("%s: %s is %v, want %v", plain(test.number, 40), name, err == nil, check.want)
			}
		}
	}
}

func TestTameNumber_LimitsWhatValidationComputesWith(t *testing.T) {
	for _, n := range []string{
		strings.Repeat("9", 1<<20), "0." + strings.Repeat("3", 1<<20), "1e99999999", "1e-" + strings.Repeat("9", 1<<20), "7",
	} {
		got := string(tameNumber(json.Number(n)))
		if !json.Valid([]byte(got)) || len(got) > 2*maxDigits+20 {
			t.Errorf("%s became %d bytes: %s", plain(n, 40), len(got), plain(got, 40))
		}
	}
}

func TestShape_CoversTheBuiltInTypes(t *testing.T) {
	for _, e := range mustCatalog(t).entries {
		if e.shape == nil {
			t.Errorf("%s has no shape: every payload would be decoded", e.Name)
			continue
		}
		doc, err := scanDocument(e.Example, nil)
		if err != nil || !e.shape.accepts(&doc) {
			t.Errorf("%s: the shape does not take the example", e.Name)
		}
	}
}

func TestNewShape_LeavesWhatItCannotCheckToTheSchema(t *testing.T) {
	for _, schema := range []string{
		`true`, `{}`, `{"type":"object","additionalProperties":false}`, `{"type":["object","null"]}`,
		`{"type":"object","properties":{"a":true}}`, `{"type":"object","properties":{"a":{}}}`,
		`{"type":"object","properties":{"a":{"type":"string","minLength":2}}}`,
		`{"type":"object","properties":{"a":{"type":"string","enum":["x"]}}}`,
		`{"type":"object","properties":{"a":{"Type":"string"}}}`,
		`{"type":"object","required":["a"]}`,
		`{"$schema":"http://json-schema.org/draft-04/schema#","type":"object"}`,
	} {
		if newShape([]byte(schema)) != nil {
			t.Errorf("%s has a shape", schema)
		}
	}
}

// FuzzValidate holds the scanner against encoding/json, and the shape against the schema.
func FuzzValidate(f *testing.F) {
	for _, p := range payloadCorpus {
		f.Add([]byte(p))
	}
	c := mustCatalog(f)
	for _, typ := range c.Types() {
		f.Add([]byte(typ.Example))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := scanDocument(text, nil)
		if valid := json.Valid(text) && utf8.Valid(text); valid != (err == nil) && !errors.Is(err, errTooDeep) {
			t.Fatalf("%q: got %v, but encoding/json says %v", text, err, valid)
		}
		if err != nil {
			return
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		value = tame(value)
		for _, e := range c.entries {
			err := e.schema.Validate(value)
			if err != nil && e.shape.accepts(&doc) {
				t.Fatalf("%s: the shape accepts %q, the schema says %v", e.Name, text, err)
			}
			if err == nil && e.SuppressWhenEmpty != "" && e.shape.accepts(&doc) &&
				doc.empty(e.SuppressWhenEmpty) != isEmpty(value.(map[string]any), e.SuppressWhenEmpty) {
				t.Fatalf("%s: two opinions on whether %q is empty", e.Name, text)
			}
		}
	})
}
