package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/cdc"
)

var updateGolden = flag.Bool("update", false, "rewrite the golden files")

// eventsRelation is outbox.events as the stream describes it.
var eventsRelation = &cdc.Relation{ID: 16388, Schema: "outbox", Name: "events", Columns: []cdc.Column{
	{Name: "id", TypeOID: 2950, TypeMod: -1},
	{Name: "tenant_id", TypeOID: 25, TypeMod: -1},
	{Name: "aggregate_type", TypeOID: 25, TypeMod: -1},
	{Name: "aggregate_id", TypeOID: 25, TypeMod: -1},
	{Name: "event_type", TypeOID: 25, TypeMod: -1},
	{Name: "payload", TypeOID: 114, TypeMod: -1},
	{Name: "headers", TypeOID: 3802, TypeMod: -1},
	{Name: "created_at", TypeOID: 1184, TypeMod: -1},
	{Name: "xid", TypeOID: 5069, TypeMod: -1},
}}

const typicalPayload = `{"payment_id": "pay_01HZX4T8K2", "invoice_id": "inv_2024_000173", "amount": 1500.00, ` +
	`"currency": "EUR", "payment_method": "sepa_credit_transfer", "reference_number": "RF18 5390 0754 7034", ` +
	`"note": "Zahlung für Rechnung 173, Größe <M> & Farbe blau", "booked": {"by": "import", "at": "2026-11-24"}}`

func textValue(s string) cdc.Value { return cdc.Value{Kind: cdc.KindText, Data: []byte(s)} }

// eventRow returns a row of outbox.events that maps; set replaces the text of columns.
func eventRow(set map[string]string) cdc.Row {
	texts := map[string]string{
		"id": "0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11", "tenant_id": "acme", "aggregate_type": "payment",
		"aggregate_id": "pay_01HZX4T8K2", "event_type": "payment.received", "payload": typicalPayload,
		"headers": `{"trace": "1"}`, "created_at": "2026-11-24 10:00:00.123456+00", "xid": "742",
	}
	for name, text := range set {
		texts[name] = text
	}
	row := cdc.Row{Relation: eventsRelation}
	for _, c := range eventsRelation.Columns {
		row.Values = append(row.Values, textValue(texts[c.Name]))
	}
	return row
}

func withNull(row cdc.Row, column string) cdc.Row {
	for i, c := range row.Relation.Columns {
		if c.Name == column {
			row.Values[i] = cdc.Value{Kind: cdc.KindNull}
		}
	}
	return row
}

func mustCatalog(t testing.TB, files ...string) *Catalog {
	t.Helper()
	c, err := NewCatalog(files...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustMapper(t testing.TB, o MappingOptions) *Mapper {
	t.Helper()
	m, err := NewMapper(o, mustCatalog(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustReject(t *testing.T, err error, reason Reason, detail string) *Rejection {
	t.Helper()
	var r *Rejection
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a rejection for %s", err, reason)
	}
	if r.Reason != reason || !strings.Contains(r.Detail, detail) {
		t.Fatalf("got %q, want %s: ...%s...", r, reason, detail)
	}
	return r
}

func TestMapper_ReadsEveryColumn(t *testing.T) {
	e, err := mustMapper(t, MappingOptions{}).Map(eventRow(nil))
	if err != nil {
		t.Fatal(err)
	}
	if e.ID.String() != "0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11" || e.TenantID != "acme" ||
		e.AggregateType != "payment" || e.AggregateID != "pay_01HZX4T8K2" || e.Type != "payment.received" ||
		!e.CreatedAt.Equal(time.Date(2026, 11, 24, 10, 0, 0, 123456000, time.UTC)) ||
		string(e.Payload) != typicalPayload || string(e.Headers) != `{"trace": "1"}` || e.XID != 742 {
		t.Fatalf("got %+v", e)
	}
}

func TestMapper_TakesTheLastPartOfAType(t *testing.T) {
	m := mustMapper(t, MappingOptions{})
	for _, test := range []struct{ aggregate, event, want string }{
		{"payment", "received", "payment.received"},
		{"payment", "payment.received", "payment.received"},
		{"anything", "payment.received", "payment.received"},
		{"Payment", "received", ""},
		{"payment", "Received", ""},
		{"payment", "Payment.received", ""},
		{"payment", "created", ""},
		{"payment", ".received", ""},
		{"payment", " received", ""},
		{"payment.", "received", ""},
	} {
		e, err := m.Map(eventRow(map[string]string{"aggregate_type": test.aggregate, "event_type": test.event}))
		if test.want == "" {
			mustReject(t, err, ReasonUnknownType, "not in the catalog")
			continue
		}
		if err != nil || e.Type != test.want || e.AggregateType != test.aggregate {
			t.Errorf("%s %s: got %q of %q, %v", test.aggregate, test.event, e.Type, e.AggregateType, err)
		}
	}
}

func TestMapper_NamesTheNearestType(t *testing.T) {
	_, err := mustMapper(t, MappingOptions{}).Map(eventRow(map[string]string{"event_type": "payment.recieved"}))
	r := mustReject(t, err, ReasonUnknownType, `"payment.recieved" is not in the catalog; the nearest is payment.received`)
	if r.EventType != "payment.recieved" || r.TenantID != "acme" || r.EventID == "" {
		t.Fatalf("got %+v", r)
	}
}

func TestMapper_RejectsBadColumns(t *testing.T) {
	long := strings.Repeat("x", 256)
	for _, test := range []struct {
		column, text string
		reason       Reason
		detail       string
	}{
		{"id", "nonsense", ReasonInvalidColumn, "column id: must be a UUID"},
		{"id", "", ReasonMissingField, "column id: required, but empty"},
		{"tenant_id", "", ReasonMissingField, "column tenant_id: required, but empty"},
		{"tenant_id", long, ReasonInvalidColumn, "255 bytes"},
		{"tenant_id", "a\x00b", ReasonInvalidColumn, "control characters"},
		{"tenant_id", "a\nb", ReasonInvalidColumn, "control characters"},
		{"tenant_id", "a\u0085b", ReasonInvalidColumn, "control characters"},
		{"tenant_id", "a\xffb", ReasonInvalidColumn, "valid UTF-8"},
		{"aggregate_type", "", ReasonMissingField, "column aggregate_type"},
		{"aggregate_id", "", ReasonMissingField, "column aggregate_id"},
		{"aggregate_id", "\x7f", ReasonInvalidColumn, "control characters"},
		{"event_type", "", ReasonMissingField, "column event_type"},
		{"event_type", long, ReasonInvalidColumn, "255 bytes"},
		{"payload", "", ReasonMissingField, "column payload: required, but empty"},
		{"headers", "", ReasonInvalidColumn, "JSON object"},
		{"headers", "[]", ReasonInvalidColumn, "JSON object"},
		{"headers", "{", ReasonInvalidColumn, "JSON object"},
		{"headers", `{"a":"` + strings.Repeat("x", MaxHeaders) + `"}`, ReasonTooLarge, "column headers"},
		{"created_at", "infinity", ReasonInvalidColumn, "infinite"},
		{"created_at", "-infinity", ReasonInvalidColumn, "infinite"},
		{"created_at", "0044-03-15 12:00:00+00 BC", ReasonInvalidColumn, "years 0001 to 9999"},
		{"created_at", "12026-01-01 00:00:00+00", ReasonInvalidColumn, "years 0001 to 9999"},
		{"created_at", "24.11.2026 10:00:00 CET", ReasonInvalidColumn, "must be a timestamp"},
		{"xid", "-1", ReasonInvalidColumn, "transaction id"},
		{"xid", "18446744073709551616", ReasonInvalidColumn, "transaction id"},
	} {
		_, err := mustMapper(t, MappingOptions{}).Map(eventRow(map[string]string{test.column: test.text}))
		mustReject(t, err, test.reason, test.detail)
	}
}

func TestMapper_RejectsNullOnlyWhereAValueIsNeeded(t *testing.T) {
	m := mustMapper(t, MappingOptions{})
	for _, column := range []string{"id", "tenant_id", "aggregate_type", "aggregate_id", "event_type", "payload"} {
		_, err := m.Map(withNull(eventRow(nil), column))
		mustReject(t, err, ReasonMissingField, "column "+column+": required, but NULL")
	}
	row := withNull(withNull(withNull(eventRow(nil), "headers"), "xid"), "created_at")
	e, err := m.Map(row)
	if err != nil || e.Headers != nil || e.XID != 0 {
		t.Fatalf("got %+v, %v", e, err)
	}
	if want := time.UnixMilli(0x0190b6f07c1e).UTC(); !e.CreatedAt.Equal(want) {
		t.Errorf("got %v, want the time of the version 7 id, %v", e.CreatedAt, want)
	}
	e, err = m.Map(withNull(eventRow(map[string]string{"id": "c56a4180-65aa-42ec-a945-5fd21dec0538"}), "created_at"))
	if err != nil || !e.CreatedAt.IsZero() {
		t.Errorf("got %v, %v, want the zero time for a version 4 id", e.CreatedAt, err)
	}
}

func TestMapper_RejectsValuesThatAreNotText(t *testing.T) {
	for _, kind := range []byte{cdc.KindUnchanged, cdc.KindBinary} {
		row := eventRow(nil)
		row.Values[5] = cdc.Value{Kind: kind, Data: []byte("{}")}
		_, err := mustMapper(t, MappingOptions{}).Map(row)
		mustReject(t, err, ReasonInvalidColumn, "column payload: was not sent as text")
	}
}

func TestMapper_FollowsTheTableAsItChanges(t *testing.T) {
	m := mustMapper(t, MappingOptions{})
	whole := eventRow(nil)
	reversed := cdc.Row{Relation: &cdc.Relation{Schema: "outbox", Name: "events"}}
	for i := len(whole.Values) - 1; i >= 0; i-- {
		reversed.Relation.Columns = append(reversed.Relation.Columns, eventsRelation.Columns[i])
		reversed.Values = append(reversed.Values, whole.Values[i])
	}
	extra := cdc.Row{
		Relation: &cdc.Relation{Schema: "outbox", Name: "events", Columns: append([]cdc.Column{{Name: "new"}}, eventsRelation.Columns...)},
		Values:   append([]cdc.Value{textValue("?")}, whole.Values...),
	}
	want, err := m.Map(whole)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []cdc.Row{reversed, extra, whole} {
		got, err := m.Map(row)
		if err != nil || !bytes.Equal(got.Body(), want.Body()) || got.Key() != want.Key() {
			t.Fatalf("got %s, %v", got.Body(), err)
		}
	}
	without := func(column string) cdc.Row {
		row := cdc.Row{Relation: &cdc.Relation{Schema: "outbox", Name: "events"}}
		for i, c := range eventsRelation.Columns {
			if c.Name != column {
				row.Relation.Columns = append(row.Relation.Columns, c)
				row.Values = append(row.Values, whole.Values[i])
			}
		}
		return row
	}
	for _, column := range []string{"id", "tenant_id", "payload", "headers", "created_at"} {
		_, err := m.Map(without(column))
		r := mustReject(t, err, ReasonUnmappedColumn, `no column "`+column+`"`)
		if column != "tenant_id" && r.TenantID != "acme" || column != "id" && r.EventID == "" {
			t.Errorf("without %s: got %+v", column, r)
		}
	}
	if e, err := m.Map(without("xid")); err != nil || e.XID != 0 {
		t.Errorf("without xid: got %d, %v", e.XID, err)
	}
	if _, err := m.Map(whole); err != nil {
		t.Errorf("after the column came back: %v", err)
	}
}

func TestMapper_MapsOtherTables(t *testing.T) {
	m := mustMapper(t, MappingOptions{
		Table:   `"My.Schema".messages`,
		Columns: Columns{TenantID: "org", Payload: "body"},
	})
	row := cdc.Row{Relation: &cdc.Relation{Schema: "My.Schema", Name: "messages"}}
	whole := eventRow(map[string]string{"payload": `\x` + fmt.Sprintf("%x", typicalPayload)})
	for i, c := range eventsRelation.Columns[:6] {
		switch c.Name {
		case "tenant_id":
			c.Name = "org"
		case "payload":
			c.Name, c.TypeOID = "body", byteaOID
		}
		row.Relation.Columns = append(row.Relation.Columns, c)
		row.Values = append(row.Values, whole.Values[i])
	}
	e, err := m.Map(row)
	if err != nil || string(e.Payload) != typicalPayload || e.TenantID != "acme" {
		t.Fatalf("got %+v, %v", e, err)
	}
	row.Values[5] = textValue(`\x7`)
	_, err = m.Map(row)
	mustReject(t, err, ReasonInvalidColumn, "column body: must be bytea")
	_, err = m.Map(eventRow(nil))
	mustReject(t, err, ReasonUnexpectedTable, `row of table "outbox.events", expected "My.Schema.messages"`)
}

func TestMapper_RejectsRowsThatAreNoRows(t *testing.T) {
	m := mustMapper(t, MappingOptions{})
	_, err := m.Map(cdc.Row{})
	mustReject(t, err, ReasonUnexpectedTable, "no table")
	_, err = m.Map(cdc.Row{Relation: eventsRelation})
	mustReject(t, err, ReasonInvalidColumn, "0 values for 9 columns")
}

func TestNewMapper_RefusesBadOptions(t *testing.T) {
	for _, o := range []MappingOptions{
		{Table: "events"}, {Table: "a.b.c"}, {Table: ".b"}, {Table: "a."}, {Table: `"a.b`}, {Table: `"a"b.c`},
		{MaxPayload: -1}, {Columns: Columns{ID: "x", TenantID: "x"}}, {Columns: Columns{Headers: "payload"}},
	} {
		if _, err := NewMapper(o, mustCatalog(t)); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	if _, err := NewMapper(MappingOptions{}, nil); err == nil {
		t.Error("a nil catalog is accepted")
	}
}

func TestMapper_LimitsPayloads(t *testing.T) {
	payload := func(size int) string {
		fixed := `{"order_id":1,"order_number":"1","x":""}`
		return fixed[:len(fixed)-2] + strings.Repeat("x", size-len(fixed)) + `"}`
	}
	m := mustMapper(t, MappingOptions{MaxPayload: 1000})
	set := map[string]string{"event_type": "sales_order.cancelled", "payload": payload(1000)}
	if _, err := m.Map(eventRow(set)); err != nil {
		t.Fatalf("at the limit: %v", err)
	}
	set["payload"] = payload(1001)
	_, err := m.Map(eventRow(set))
	mustReject(t, err, ReasonTooLarge, "column payload: 1001 bytes, the limit is 1000")
}

func TestMapper_LimitsNestingSoThatTheBodyCanBeDecoded(t *testing.T) {
	nested := func(levels int) map[string]string {
		return map[string]string{
			"event_type": "sales_order.cancelled",
			"payload": `{"order_id":1,"order_number":"1","x":` +
				strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + "}",
		}
	}
	m := mustMapper(t, MappingOptions{})
	e, err := m.Map(eventRow(nested(maxDepth)))
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(e.Body(), &v); err != nil {
		t.Fatalf("the deepest body that is accepted: %v", err)
	}
	for _, levels := range []int{maxDepth + 1, 10_001, 500_000} {
		_, err = m.Map(eventRow(nested(levels)))
		mustReject(t, err, ReasonTooDeep, "nested deeper than 9999 levels")
	}
}

func TestMapper_SuppressesAnUpdateWithoutChanges(t *testing.T) {
	m := mustMapper(t, MappingOptions{})
	update := func(changes string) map[string]string {
		return map[string]string{
			"event_type": "customer.updated",
			"payload":    `{"customer_id":1,"customer_name":"Ada","changes":` + changes + `}`,
		}
	}
	for _, changes := range []string{`{}`, "{ \n}", `{"a":1},"changes":{}`, `{"a":1},"\u0063hanges":{}`} {
		e, err := m.Map(eventRow(update(changes)))
		if !errors.Is(err, ErrSuppressed) || e.Type != "customer.updated" || e.TenantID != "acme" {
			t.Errorf("changes %s: got %+v, %v", changes, e, err)
		}
	}
	for _, changes := range []string{`{"a":null}`, `{},"changes":{"a":1}`} {
		if _, err := m.Map(eventRow(update(changes))); err != nil {
			t.Errorf("changes %s: %v", changes, err)
		}
	}
	for _, changes := range []string{`[]`, `null`, `""`} {
		_, err := m.Map(eventRow(update(changes)))
		mustReject(t, err, ReasonInvalidPayload, "changes: must be an object, but is")
	}
}

// TestMapper_MapsAsTheGoldenFilesSay compares rows with the bodies or rejections that become of them. Each
// file holds a row as EncodeRow renders it, and what comes out.
func TestMapper_MapsAsTheGoldenFilesSay(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			encoded, _, _ := strings.Cut(string(text), "\n")
			row, err := DecodeRow([]byte(encoded))
			if err != nil {
				t.Fatal(err)
			}
			got := encoded + "\n" + outcome(mustMapper(t, MappingOptions{}), row)
			if *updateGolden {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("got\n%s\nwant\n%s", got, text)
			}
		})
	}
}

func outcome(m *Mapper, row cdc.Row) string {
	e, err := m.Map(row)
	var r *Rejection
	switch {
	case errors.As(err, &r):
		return fmt.Sprintf("rejected: %s\nid: %s\ntenant: %q\ntype: %q\n", r, r.EventID, r.TenantID, r.EventType)
	case err != nil:
		return fmt.Sprintf("suppressed: %s %s\n", e.Type, e.ID)
	}
	return fmt.Sprintf("key: %016x\nheaders: %s\nxid: %d\n%s\n", e.Key(), e.Headers, e.XID, e.Body())
}
