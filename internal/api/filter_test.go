package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/token"
)

func TestFilter_IsKeptChangedAndTakenAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	var c Created
	w.call("POST", "/subscriptions", acme, `{"url":"https://h.example.com","event":"*","filter":{"amount":{"$gte":12345678901234567890.5},"currency":"EUR"}}`).into(t, &c)
	if string(c.Filter) != `{"amount":{"$gte":12345678901234567890.5},"currency":"EUR"}` {
		t.Errorf("created with %s", c.Filter)
	}
	for _, step := range []struct{ patch, want string }{
		{`{"description":"x"}`, string(c.Filter)},
		{`{"filter":{"$or":[{"a":1},{"b":null}]}}`, `{"$or":[{"a":1},{"b":null}]}`},
		{`{"filter":null}`, "null"},
		{`{"filter":{"a":"<&>"}}`, `{"a":"<&>"}`},
		{`{"filter":{}}`, "null"},
	} {
		a := w.call("PATCH", "/subscriptions/"+c.ID.String(), acme, step.patch)
		var s Subscription
		if a.into(t, &s); a.Status != 200 || string(s.Filter) != step.want {
			t.Errorf("after %s: status %d, filter %s", step.patch, a.Status, s.Filter)
		}
		w.call("GET", "/subscriptions/"+c.ID.String(), acme, nil).into(t, &s)
		if string(s.Filter) != step.want {
			t.Errorf("after %s, read again: %s", step.patch, s.Filter)
		}
	}
	var changes struct {
		Items []struct {
			Before, After struct{ Filter Filter }
		}
	}
	w.call("GET", "/changes", acme, nil).into(t, &changes)
	if len(changes.Items) != 6 || string(changes.Items[0].Before.Filter) != `{"a":"<&>"}` {
		t.Errorf("changes %+v", changes)
	}
}

func TestFilter_ThatIsNoneIsRefusedByItsPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	for filter, pointer := range map[string]string{
		`{"a":{"$ge":1}}`:           "/filter/a/$ge",
		`{"a":{}}`:                  "/filter/a",
		`{"a/b":[1]}`:               "/filter/a~1b",
		`{"$or":[{"a":1},{}]}`:      "/filter/$or/1",
		`{"a":{"$in":[1,{"b":1}]}}`: "/filter/a/$in/1",
		`[]`:                        "/filter",
		`"x"`:                       "/filter",
		`1`:                         "/filter",
		fmt.Sprintf(`{"a":{"$in":[%s1]}}`, strings.Repeat("1,", 60)): "/filter/a/$in/50",
		`{"a":"` + strings.Repeat("x", 5000) + `"}`:                  "/filter",
	} {
		for _, call := range [][3]string{{"POST", "/subscriptions", `{"url":"https://h.example.com","event":"*","filter":` + filter + `}`},
			{"PATCH", "/subscriptions/" + c.ID.String(), `{"filter":` + filter + `}`}, {"POST", "/subscriptions/try", `{"event":"*","filter":` + filter + `}`}} {
			a := w.call(call[0], call[1], acme, call[2])
			if a.Status != 422 {
				t.Errorf("%s %s with filter %.60s: status %d", call[0], call[1], filter, a.Status)
				continue
			}
			if p := a.problem(t); len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
				t.Errorf("%s %s with filter %.60s: %+v", call[0], call[1], filter, p)
			}
		}
	}
}

// A filter that somebody wrote into the database, and that is none, is not lost by another change: without it the endpoint
// would get everything.
func TestFilter_OfOtherHandsIsNotLostByAnotherChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	if _, err := w.db.Exec(t.Context(), `UPDATE relay.subscriptions SET filter = '{"a":{"$what":1}}'`); err != nil {
		t.Fatal(err)
	}
	if a := w.call("PATCH", "/subscriptions/"+c.ID.String(), acme, `{"description":"x"}`); a.Status != 409 || !strings.Contains(a.Text, "filter") {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if a := w.call("PATCH", "/subscriptions/"+c.ID.String(), acme, `{"filter":{"a":1}}`); a.Status != 200 {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
}

func TestTry_TellsWhatASubscriptionWouldHaveGot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.retained = map[string][]string{"acme": {`{"currency":"EUR","amount":"250.00"}`, `{"currency":"EUR","amount":"99.99"}`, `{"currency":"USD","amount":"250.00"}`},
		"globex": {`{"currency":"EUR","amount":"1000.00"}`}}
	reader := w.token(token.RoleTenantRead, "acme")
	var got Trial
	a := w.call("POST", "/subscriptions/try", reader, `{"event":"payment.*","filter":{"currency":"EUR","amount":{"$gte":100}}}`)
	a.into(t, &got)
	if a.Status != 200 || got.Looked != 3 || got.Matched != 1 || !got.Items[0].Matches || got.Items[1].Pointer != "/filter/amount/$gte" ||
		got.Items[1].Reason != "filter" || got.Items[2].Pointer != "/filter/currency" || got.Since == nil || !got.Since.Equal(got.Items[2].Timestamp) {
		t.Errorf("status %d: %s", a.Status, a.Text)
	}
	got = Trial{}
	w.call("POST", "/subscriptions/try", reader, `{"events":["customer.*"],"last":2}`).into(t, &got)
	if got.Looked != 2 || got.Matched != 0 || got.Items[0].Reason != "event" {
		t.Errorf("%+v", got)
	}
	if a := w.call("POST", "/subscriptions/try", w.token(token.RoleTenantRead, "nobody"), `{"event":"*"}`); a.Status != 200 ||
		strings.TrimSpace(a.Text) != `{"looked":0,"matched":0,"since":null,"items":[]}` {
		t.Errorf("status %d: %s", a.Status, a.Text)
	}
	w.api.server.counting <- struct{}{}
	if a := w.call("POST", "/subscriptions/try", reader, `{"event":"*"}`); a.Status != 503 || a.Header.Get("Retry-After") == "" {
		t.Errorf("while another looks: status %d", a.Status)
	}
}
