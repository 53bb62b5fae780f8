package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/cdc"
)

func FuzzMap(f *testing.F) {
	seed := func(set map[string]string) {
		row := eventRow(set)
		v := row.Values
		f.Add(v[0].Data, v[1].Data, v[2].Data, v[3].Data, v[4].Data, v[5].Data, v[6].Data, v[7].Data, v[8].Data)
	}
	seed(nil)
	for _, t := range mustCatalog(f).Types() {
		seed(map[string]string{"event_type": t.Name, "payload": string(t.Example)})
	}
	for _, p := range payloadCorpus {
		seed(map[string]string{"payload": p})
	}
	seed(map[string]string{"tenant_id": "a\"\\\u2028<&>", "created_at": "infinity"})
	m := mustMapper(f, MappingOptions{})
	f.Fuzz(func(t *testing.T, id, tenant, aggregate, aggregateID, event, payload, headers, created, xid []byte) {
		row := cdc.Row{Relation: eventsRelation}
		for _, data := range [][]byte{id, tenant, aggregate, aggregateID, event, payload, headers, created, xid} {
			row.Values = append(row.Values, cdc.Value{Kind: cdc.KindText, Data: data})
		}
		e, err := m.Map(row)
		var r *Rejection
		if errors.As(err, &r) {
			checkRejection(t, r)
			return
		}
		if err != nil && !errors.Is(err, ErrSuppressed) {
			t.Fatalf("got an error of no known kind: %v", err)
		}
		checkBody(t, &e, payload)
	})
}

func checkRejection(t *testing.T, r *Rejection) {
	t.Helper()
	known := false
	for _, reason := range Reasons() {
		known = known || reason == r.Reason
	}
	if !known || r.Detail == "" || len(r.Detail) > maxDetail+10 {
		t.Fatalf("got %q", r)
	}
	for _, s := range []string{r.Detail, r.EventID, r.TenantID, r.EventType} {
		if !isText([]byte(s)) {
			t.Fatalf("%q cannot be stored", s)
		}
	}
	if len(r.EventID) > maxName || len(r.TenantID) > maxName || len(r.EventType) > maxName {
		t.Fatalf("names are too long: %+v", r)
	}
}

func checkBody(t *testing.T, e *Event, payload []byte) {
	t.Helper()
	body := e.Body()
	var got struct {
		ID        string          `json:"id"`
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		TenantID  string          `json:"tenant_id"`
		Data      json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	// RawMessage leaves out the white space around a value.
	if !bytes.Equal(got.Data, bytes.Trim(payload, " \t\r\n")) || !bytes.Contains(body, payload) {
		t.Fatalf("data %q is not the payload %q", got.Data, payload)
	}
	if got.ID != e.ID.String() || got.Type != e.Type || got.TenantID != e.TenantID || !got.Timestamp.Equal(e.CreatedAt) {
		t.Fatalf("got %+v of %+v", got, e)
	}
	if !bytes.Equal(body, e.Body()) {
		t.Fatal("two bodies of one event differ")
	}
}
