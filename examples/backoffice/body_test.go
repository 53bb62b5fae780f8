package backoffice

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

func FuzzForm_AcceptsOnlyOneObjectOfKnownMembers(f *testing.F) {
	for _, seed := range []string{
		`{"name":"Ada","amount":1500.00,"items":3}`, `{"name":null}`, `{"Name":"a"}`, `{"name":"a","name":"b"}`, `{`, `{}x`,
		`{"name":"\ud800"}`, `{"amount":"1e5"}`, `{"items":1.0}`, ``, `[1]`, `{"name":"a"}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var name string
		var amount Amount
		var items *int32
		err := newForm().require("name", &name).allow("amount", &amount).allow("items", &items).decode(body)
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if json.Unmarshal(body, &members) != nil {
			t.Fatalf("%q was taken", body)
		}
		for member := range members {
			if member != "name" && member != "amount" && member != "items" {
				t.Fatalf("%q was taken with %q", body, member)
			}
		}
		if name == "" || strings.ContainsRune(name, 0) {
			t.Fatalf("%q was taken with the name %q", body, name)
		}
		if amount != "" && !strings.Contains(string(body), string(amount)) {
			t.Fatalf("%q gave the amount %s", body, amount)
		}
	})
}

func FuzzAmount_TakesDigitsAsTheyStand(f *testing.F) {
	for _, seed := range []string{`1500.00`, `"1500.00"`, `0`, `-1`, `1e5`, `"0.001"`, `""`, `"`, `null`, `"1`} {
		f.Add([]byte(seed))
	}
	plain := regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a Amount
		if a.UnmarshalJSON(raw) != nil {
			return
		}
		if !plain.MatchString(string(a)) || strings.Trim(string(raw), `"`) != string(a) ||
			!strings.ContainsAny(string(a), "123456789") || len(a) > maxDigits+1 {
			t.Fatalf("%q became %q", raw, a)
		}
	})
}
