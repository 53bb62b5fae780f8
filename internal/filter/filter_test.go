package filter

import (
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
)

const payment = `{"amount":"129.90","fee":1.5e2,"currency":"EUR","paid":true,"note":null,"at":"2026-11-28T10:00:00Z",
	"customer":{"country":"AT","tags":["vip","new"]},"lines":[{"sku":"A-1","qty":2},{"sku":"B-7","qty":10}],"$odd":1,"a/b":{"c~d":1}}`

func TestFilter_Match(t *testing.T) {
	for _, c := range []struct {
		filter string
		want   bool
		failed string
	}{
		{`{"currency":"EUR"}`, true, ""},
		{`{"currency":"USD"}`, false, "/currency"},
		{`{"currency":"eur"}`, false, "/currency"},
		{`{"currency":{"$eq":"EUR"},"paid":true,"note":null}`, true, ""},
		{`{"paid":false}`, false, "/paid"},
		{`{"nothing":null}`, false, "/nothing"},
		{`{"currency":{"$neq":"EUR"}}`, false, "/currency/$neq"},
		{`{"nothing":{"$neq":"EUR"}}`, true, ""},
		// Amounts are strings, and compared by value.
		{`{"amount":{"$gte":129.9}}`, true, ""},
		{`{"amount":{"$gt":129.90}}`, false, "/amount/$gt"},
		{`{"amount":129.9}`, true, ""},
		{`{"amount":{"$gte":20}}`, true, ""}, // by its digits it would be less
		{`{"amount":{"$lt":1000,"$gt":100}}`, true, ""},
		{`{"amount":"129.9"}`, false, "/amount"}, // a string is compared with strings as it is
		{`{"fee":150}`, true, ""},
		{`{"fee":{"$lte":149.99999999999999999999999}}`, false, "/fee/$lte"},
		{`{"currency":{"$gt":1}}`, false, "/currency/$gt"},
		{`{"paid":{"$gt":0}}`, false, "/paid/$gt"},
		{`{"fee":{"$gt":"1"}}`, false, "/fee/$gt"},
		// Dates.
		{`{"at":{"$gte":"2026-11-28","$lt":"2026-11-29"}}`, true, ""},
		{`{"at":{"$lt":"2026-11-28"}}`, false, "/at/$lt"},
		// Lists.
		{`{"customer":{"country":{"$in":["DE","AT"]}}}`, true, ""},
		{`{"customer":{"country":{"$nin":["DE","AT"]}}}`, false, "/customer/country/$nin"},
		{`{"customer":{"region":{"$nin":["DE","AT"]}}}`, true, ""},
		{`{"fee":{"$in":[1,150.0]}}`, true, ""},
		// Parts of strings.
		{`{"currency":{"$startsWith":"E"},"at":{"$endsWith":"Z","$contains":"T10:"}}`, true, ""},
		{`{"currency":{"$contains":"X"}}`, false, "/currency/$contains"},
		{`{"fee":{"$startsWith":"1"}}`, false, "/fee/$startsWith"},
		// What there is.
		{`{"note":{"$exist":true},"nothing":{"$exist":false},"customer":{"country":{"$exist":true}}}`, true, ""},
		{`{"note":{"$exist":false}}`, false, "/note/$exist"},
		{`{"nothing":{"inner":{"$exist":false}}}`, true, ""},
		{`{"currency":{"inner":"x"}}`, false, "/currency/inner"},
		// Arrays: any element.
		{`{"customer":{"tags":"vip"}}`, true, ""},
		{`{"customer":{"tags":"old"}}`, false, "/customer/tags"},
		{`{"customer":{"tags":{"$neq":"vip"}}}`, false, "/customer/tags/$neq"},
		{`{"customer":{"tags":{"$nin":["old"]}}}`, true, ""},
		{`{"lines":{"sku":"B-7"}}`, true, ""},
		{`{"lines":{"qty":{"$gt":10}}}`, false, "/lines/qty/$gt"},
		{`{"lines":"A-1"}`, false, "/lines"},
		{`{"customer":"AT"}`, false, "/customer"},
		// Put together.
		{`{"$or":[{"currency":"USD"},{"amount":{"$gt":100}}]}`, true, ""},
		{`{"$or":[{"currency":"USD"},{"amount":{"$gt":200}}]}`, false, "/$or"},
		{`{"$and":[{"currency":"EUR"},{"paid":false}]}`, false, "/$and/1/paid"},
		{`{"$not":{"currency":"USD"},"paid":true}`, true, ""},
		{`{"amount":{"$not":{"$lt":200}}}`, false, "/amount/$not"},
		{`{"amount":{"$or":[{"$lt":100},{"$gt":129}]}}`, true, ""},
		{`{"a/b":{"c~d":2}}`, false, "/a~1b/c~0d"},
	} {
		f, err := Parse([]byte(c.filter))
		if err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		failed, ok := f.Explain(NewPayload([]byte(payment)))
		if ok && failed != "" || !ok && failed != c.failed || ok != c.want {
			t.Errorf("%s: got %v and %q, want %v and %q", c.filter, ok, failed, c.want, c.failed)
		}
		if again, err := Parse([]byte(f.String())); err != nil || again.String() != f.String() {
			t.Errorf("%s is spelled %s, which is not the same: %v", c.filter, f, err)
		}
	}
}

func TestFilter_OfPayloadsThatAreNoObject(t *testing.T) {
	f, err := Parse([]byte(`{"a":{"$neq":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	is, err := Parse([]byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{"", "null", "1", `"x"`, "true", "[]"} {
		want := payload != "[]" // no element has an a that is not 1
		if got := f.Match(NewPayload([]byte(payload))); got != want {
			t.Errorf("$neq of %q: %v", payload, got)
		}
		if is.Match(NewPayload([]byte(payload))) {
			t.Errorf("%q has an a", payload)
		}
	}
	if !is.Match(NewPayload([]byte(`[1,{"b":1},{"a":1}]`))) {
		t.Error("an array of objects does not match by one of them")
	}
	if is.Match(NewPayload([]byte(`{"a":1`))) {
		t.Error("matches what is no JSON")
	}
	var none *Filter
	if !none.Match(NewPayload(nil)) {
		t.Error("no filter keeps something out")
	}
}

func TestParse_SaysWhatIsWrongAndWhere(t *testing.T) {
	many := `{"a":{"$in":[` + strings.Repeat("1,", MaxConditions) + `1]}}`
	deep := strings.Repeat(`{"a":`, maxDepth+1) + `1` + strings.Repeat("}", maxDepth+1)
	for _, c := range []struct{ filter, pointer, detail string }{
		{``, "", "not valid JSON"},
		{`{"a":1} {}`, "", "not valid JSON"},
		{`[]`, "", "expected an object"},
		{`null`, "", "expected an object"},
		{`{}`, "", "asks for nothing"},
		{`{"a":{}}`, "/a", "asks for nothing"},
		{`{"a":[1]}`, "/a", "$in"},
		{`{"a":{"$ge":1}}`, "/a/$ge", "$gte"},
		{`{"a":{"$gt":true}}`, "/a/$gt", "a number or a string"},
		{`{"a":{"$gt":{}}}`, "/a/$gt", "a string, a number"},
		{`{"a":{"$eq":[1]}}`, "/a/$eq", "a string, a number"},
		{`{"a":{"$in":1}}`, "/a/$in", "a list"},
		{`{"a":{"$in":[]}}`, "/a/$in", "a list"},
		{`{"a":{"$in":[1,{}]}}`, "/a/$in/1", "a string, a number"},
		{`{"a":{"$startsWith":1}}`, "/a/$startsWith", "a string"},
		{`{"a":{"$exist":1}}`, "/a/$exist", "true or false"},
		{`{"$or":{}}`, "/$or", "a list of filters"},
		{`{"$or":[]}`, "/$or", "a list of filters"},
		{`{"$or":[1]}`, "/$or/0", "a filter"},
		{`{"$and":[{"a":1},{}]}`, "/$and/1", "a filter"},
		{`{"$not":1}`, "/$not", "a filter"},
		{`{"x":{"$not":{"$nope":1}}}`, "/x/$not/$nope", "no such operator"},
		{`{"a":"b\u0000"}`, "/a", "NUL"},
		{`{"a\u0000":1}`, "", "NUL"},
		{`{"a":1e1001}`, "/a", "exponent"},
		{`{"a":{"$gt":-1e-1002}}`, "/a/$gt", "exponent"},
		{`{"a":` + strings.Repeat("9", 101) + `}`, "/a", "digits"},
		{`{"a":"` + strings.Repeat("\u2028", 1000) + `"}`, "", "bytes"}, // which are written as six each
		{many, "/a/$in/50", "up to 50"},
		{deep, strings.Repeat("/a", maxDepth), "nested"},
		{`{"a":"` + strings.Repeat("x", MaxBytes) + `"}`, "", "bytes"},
	} {
		_, err := Parse([]byte(c.filter))
		var fault *Fault
		if !errors.As(err, &fault) {
			t.Errorf("%.60s: %v", c.filter, err)
			continue
		}
		if fault.Pointer != c.pointer || !strings.Contains(fault.Detail, c.detail) {
			t.Errorf("%.60s: at %q: %s", c.filter, fault.Pointer, fault.Detail)
		}
	}
}

// What is too much work is let through, however the filter says no, and costs no more than what is allowed.
func TestFilter_LetsThroughWhatIsTooMuchWork(t *testing.T) {
	list := strings.Repeat("1,", 49) + "2"
	for _, filter := range []string{`{"a":{"$in":[3,` + list[2:] + `]}}`, `{"a":{"$nin":[1]}}`, `{"$not":{"a":1}}`, `{"a":{"$gt":5}}`, `{"a":{"b":1}}`,
		`{"$or":[` + strings.Repeat(`{"a":{"b":3}},`, 40) + `{"a":4}]}`, `{"a":{"$contains":"zz"}}`} {
		f, err := Parse([]byte(filter))
		if err != nil {
			t.Fatalf("%s: %v", filter, err)
		}
		for _, c := range []struct {
			element string
			n       int
		}{{`7`, 100_000}, {`{"c":1}`, 20_000}, {`"` + strings.Repeat("z y", 30_000) + `"`, 20}} {
			payload := []byte(`{"a":[` + strings.Repeat(c.element+",", c.n) + c.element + `]}`)
			p := NewPayload(payload)
			v, _ := p.get()
			w := work{left: MaxSteps}
			w.all(f.root, v, true)
			if w.left < -1000 { // one more text may be looked at
				t.Errorf("%.50s of %d times %.10s: goes on after %d steps", filter, c.n, c.element, MaxSteps-w.left)
			}
			if w.left < 0 && !f.Match(p) {
				t.Errorf("%.50s of %d times %.10s: too much work, and kept out", filter, c.n, c.element)
			}
		}
	}
	f, err := Parse([]byte(`{"a":{"$gt":5}}`))
	if err != nil {
		t.Fatal(err)
	}
	if !f.Match(NewPayload([]byte(`{"a":[` + strings.Repeat("1,", 10_000) + `1]}`))) {
		t.Error("ten thousand numbers are not too much")
	}
	if f.Match(NewPayload([]byte(`{"a":[` + strings.Repeat("1,", 4_000) + `1]}`))) {
		t.Error("four thousand numbers are too much")
	}
}

// TestNumber_ComparesLikeRationals holds our comparison against math/big's.
func TestNumber_ComparesLikeRationals(t *testing.T) {
	texts := []string{"0", "-0", "0.0", "0e10", "1", "-1", "1.0", "1.50", "15e-1", "0.15e1", "100", "1e2", "1E+2", "10", "9", "99.99",
		"0.001", "0.0010", "-0.001", "-0.0011", "123456789012345678901234567890", "123456789012345678901234567891", "1e-30", "-1e30", "20", "129.90"}
	for _, a := range texts {
		for _, b := range texts {
			x, _ := new(big.Rat).SetString(a)
			y, _ := new(big.Rat).SetString(b)
			if got, want := parseNumber(a).compare(parseNumber(b)), x.Cmp(y); got != want {
				t.Errorf("%s and %s compare as %d, not %d", a, b, got, want)
			}
		}
	}
	// math/big would take all memory there is for these.
	if parseNumber("1e999999999999999999999").compare(parseNumber("9e99999999")) != 1 || parseNumber("1e-999999999999999999999").compare(parseNumber("0")) != 1 ||
		parseNumber("-1e999999999999999999999").compare(parseNumber("-1")) != -1 {
		t.Error("far exponents have no order")
	}
	for text, want := range map[string]bool{"1": true, "-1.5": true, "": false, "-": false, "1.": false, ".5": false, "1e5": false, "+1": false, " 1": false, "0x1": false, "1.2.3": false} {
		if _, ok := parseDecimal(text); ok != want {
			t.Errorf("%q is a decimal number: %v", text, ok)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, filter := range []string{`{"amount":{"$gte":100}}`, `{"$or":[{"a":1},{"$not":{"b":null}}]}`, `{"lines":{"qty":{"$in":[1,"2",true]}}}`, `{"a":{"$lt":"x"}}`} {
		f.Add([]byte(filter), []byte(payment))
	}
	f.Fuzz(func(t *testing.T, text, payload []byte) {
		parsed, err := Parse(text)
		if err != nil {
			if fault := (*Fault)(nil); !errors.As(err, &fault) {
				t.Fatalf("%v is no Fault", err)
			}
			return
		}
		again, err := Parse([]byte(parsed.String()))
		if err != nil {
			t.Fatalf("%s does not parse: %v", parsed, err)
		}
		got := parsed.Match(NewPayload(payload))
		if again.Match(NewPayload(payload)) != got {
			t.Fatalf("%s and %s disagree", text, parsed)
		}
		if json.Valid(payload) && len(payload) < 500 { // within MaxSteps
			if not, err := Parse([]byte(`{"$not":` + parsed.String() + `}`)); err == nil && not.Match(NewPayload(payload)) == got {
				t.Fatalf("%s and its opposite agree on %s", parsed, payload)
			}
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	f, err := Parse([]byte(`{"currency":"EUR","amount":{"$gte":100},"customer":{"country":{"$in":["DE","AT"]}}}`))
	if err != nil {
		b.Fatal(err)
	}
	text := []byte(payment)
	for b.Loop() {
		if !f.Match(NewPayload(text)) {
			b.Fatal("does not match")
		}
	}
}
