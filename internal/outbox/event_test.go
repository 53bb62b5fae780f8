package outbox

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestEvent_KeyDependsOnTheThreeNamesAlone(t *testing.T) {
	a := Event{TenantID: "acme", AggregateType: "payment", AggregateID: "pay_1"}
	b := Event{TenantID: "acme", AggregateType: "payment", AggregateID: "pay_1", Type: "x", XID: 1, Payload: []byte("{}")}
	if a.Key() != b.Key() {
		t.Error("other fields change the key")
	}
	seen := map[uint64]Event{}
	for _, e := range []Event{
		a,
		{TenantID: "acmep", AggregateType: "ayment", AggregateID: "pay_1"},
		{TenantID: "acme", AggregateType: "paymentp", AggregateID: "ay_1"},
		{TenantID: "acme\x07payment", AggregateType: "", AggregateID: "pay_1"},
		{TenantID: "", AggregateType: "acme", AggregateID: "paymentpay_1"},
		{TenantID: "payment", AggregateType: "acme", AggregateID: "pay_1"},
	} {
		if other, ok := seen[e.Key()]; ok {
			t.Errorf("%+v and %+v have the same key", e, other)
		}
		seen[e.Key()] = e
	}
}

func TestEvent_KeyIsStable(t *testing.T) {
	e := Event{TenantID: "acme", AggregateType: "payment", AggregateID: "pay_1"}
	if got, want := e.Key(), uint64(0x11b61737593de0f5); got != want {
		t.Errorf("got %#x, want %#x: parked deliveries are stored with their keys", got, want)
	}
}

func TestEvent_KeyTakesLongNames(t *testing.T) {
	long := string(bytes.Repeat([]byte("x"), 1000))
	a := Event{TenantID: long, AggregateType: long, AggregateID: long}
	b := Event{TenantID: long, AggregateType: long, AggregateID: long + "y"}
	if a.Key() == b.Key() {
		t.Error("the end of long names is overlooked")
	}
}

func TestEvent_BodyIsRendered(t *testing.T) {
	id := uuid.MustParse("0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11")
	at := time.Date(2026, 11, 24, 11, 0, 0, 123400000, time.FixedZone("", 3600))
	for _, test := range []struct {
		event Event
		want  string
	}{
		{
			Event{ID: id, TenantID: "acme", Type: "payment.received", CreatedAt: at, Payload: []byte(" { \"a\": 1500.00 }\n")},
			`{"id":"0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11","type":"payment.received",` +
				`"timestamp":"2026-11-24T10:00:00.1234Z","tenant_id":"acme","data": { "a": 1500.00 }` + "\n}",
		},
		{
			Event{TenantID: `a"\<&>ü`, Type: "x"},
			`{"id":"00000000-0000-0000-0000-000000000000","type":"x",` +
				`"timestamp":"0001-01-01T00:00:00Z","tenant_id":"a\"\\<&>ü","data":null}`,
		},
	} {
		if got := string(test.event.Body()); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestEvent_BodyAllocatesOnce(t *testing.T) {
	for _, tenant := range []string{"acme", "a\"b", "ü\u2028", "\xff\xff\xff"} {
		e := Event{TenantID: tenant, Type: "payment.received", CreatedAt: time.Unix(1, 1), Payload: []byte(typicalPayload)}
		if n := testing.AllocsPerRun(100, func() { _ = e.Body() }); n > 1 {
			t.Errorf("tenant %q: %v allocations", tenant, n)
		}
	}
}

func FuzzQuoted(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"\\/\b\f\n\r\t\x00\x1f\x7f", "<&>", "\u2028\u2029\u0085", "\xff\xe2\x80", "\xe2\x80\xa8", "😀"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want bytes.Buffer
		encoder := json.NewEncoder(&want)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(s); err != nil {
			t.Fatal(err)
		}
		got := appendQuoted(nil, s)
		if string(got)+"\n" != want.String() {
			t.Errorf("%q: got %s, encoding/json says %s", s, got, want.Bytes())
		}
		if again := appendQuoted(nil, []byte(s)); !bytes.Equal(again, got) {
			t.Errorf("%q: got %s of bytes, %s of a string", s, again, got)
		}
		if n := quotedLen(s); n < len(got) {
			t.Errorf("%q: length %d is said to be at most %d", s, len(got), n)
		}
	})
}
