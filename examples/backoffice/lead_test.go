package backoffice_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
)

const leads = "/api/v1/tenant/crm/leads"

func TestCreateLead_EmitsCustomerCreated(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	a := s.must(http.StatusCreated, "POST", leads,
		`{"name":"Ada <Lovelace> & Söhne","email":"ada@example.com","type":"company"}`)
	id := a.text(t, "id")
	if got := s.must(http.StatusOK, "GET", a.header.Get("Location"), ""); got.body["email"] != "ada@example.com" {
		t.Fatalf("GET answered %v", got.body)
	}
	e := s.wantEvents("customer.created")[0]
	if e.TenantID != acme || e.AggregateType != "customer" || e.AggregateID != id {
		t.Fatalf("event %+v", e)
	}
	want := fmt.Sprintf(`{"customer_id":%q,"customer_name":"Ada <Lovelace> & Söhne",`+
		`"customer_email":"ada@example.com","customer_phone":null,"customer_type":"company"}`, id)
	if e.Payload != want {
		t.Fatalf("payload %s, want these bytes: %s", e.Payload, want)
	}
}

func TestUpdateLead_EmitsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	const before = `{"name":"Ada","email":"ada@example.com","phone":"1"}`
	for name, c := range map[string]struct{ put, changes string }{
		"one field": {
			`{"name":"Ada","email":"new@example.com","phone":"1"}`,
			`{"customer_email":{"from":"ada@example.com","to":"new@example.com"}}`,
		},
		"absent clears": {
			`{"name":"Ada","email":"ada@example.com"}`,
			`{"customer_phone":{"from":"1","to":null}}`,
		},
		"null clears": {
			`{"name":"Ada","email":null,"phone":"1"}`,
			`{"customer_email":{"from":"ada@example.com","to":null}}`,
		},
		"set from null": {
			`{"name":"Ada","email":"ada@example.com","phone":"1","type":"vip"}`,
			`{"customer_type":{"from":null,"to":"vip"}}`,
		},
		"case matters": {
			`{"name":"ada","email":"ada@example.com","phone":"1"}`,
			`{"customer_name":{"from":"Ada","to":"ada"}}`,
		},
		"several at once": {
			`{"name":"Eve","email":"ada@example.com","phone":"2"}`,
			`{"customer_name":{"from":"Ada","to":"Eve"},"customer_phone":{"from":"1","to":"2"}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			path := leads + "/" + s.must(http.StatusCreated, "POST", leads, before).text(t, "id")
			a := s.must(http.StatusOK, "PUT", path, c.put)
			var payload map[string]json.RawMessage
			e := s.wantEvents("customer.created", "customer.updated")[1]
			if err := json.Unmarshal([]byte(e.Payload), &payload); err != nil {
				t.Fatal(err)
			}
			sameJSON(t, string(payload["changes"]), c.changes)
			name, err := json.Marshal(a.body["name"])
			if err != nil {
				t.Fatal(err)
			}
			sameJSON(t, string(payload["customer_name"]), string(name))
		})
	}
}

func TestUpdateLead_EmitsNothingWhenNothingChanged(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	path := leads + "/" + s.must(http.StatusCreated, "POST", leads, `{"name":"Ada","phone":"1"}`).text(t, "id")
	for _, body := range []string{
		`{"name":"Ada","phone":"1"}`, `{"phone":"1","name":"Ada","email":null}`, `{"name":"Ada","phone":"1","type":""}`,
	} {
		s.must(http.StatusOK, "PUT", path, body)
	}
	s.wantEvents("customer.created")
	if n := s.count(`SELECT count(*) FROM backoffice.leads WHERE updated_at = created_at`); n != 1 {
		t.Fatal("the row was written")
	}
}

func TestUpdateLead_EventsFollowTheHistoryOfTheRow(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	path := leads + "/" + s.must(http.StatusCreated, "POST", leads, `{"name":"start"}`).text(t, "id")
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { s.as("PUT", path, fmt.Sprintf(`{"name":"writer %d"}`, i)) })
	}
	wg.Wait()
	// Each event's "from" is the "to" of exactly one other: the ten changes form one chain from the start to the row.
	next := make(map[string]string)
	for _, e := range s.events()[1:] {
		var payload struct {
			Changes map[string]struct{ From, To string } `json:"changes"`
		}
		if err := json.Unmarshal([]byte(e.Payload), &payload); err != nil {
			t.Fatal(err)
		}
		c := payload.Changes["customer_name"]
		if _, twice := next[c.From]; twice {
			t.Fatalf("two changes start at %q", c.From)
		}
		next[c.From] = c.To
	}
	at, steps := "start", 0
	for ; next[at] != ""; steps++ {
		at = next[at]
	}
	if got := s.must(http.StatusOK, "GET", path, "").body["name"]; steps != 10 || at != got {
		t.Fatalf("%d steps end at %q; the row says %q", steps, at, got)
	}
}
