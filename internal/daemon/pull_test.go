package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/api"
	"github.com/outbox-relay/relay/internal/token"
)

// tenantToken makes a token that reads what is a tenant's.
func (r *rig) tenantToken(tenant string) string { return r.tokenOf(token.RoleTenantRead, tenant) }

func (r *rig) tokenOf(role token.Role, tenant string) string {
	r.t.Helper()
	_, text, err := token.Store{DB: r.pool()}.Create(context.Background(), role, tenant, "", time.Time{})
	if err != nil {
		r.t.Fatal(err)
	}
	return text.Reveal()
}

// get reads a path of the API.
func (r *rig) get(d *running, bearer, path string, into any) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+d.Addr()+api.Prefix+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		r.t.Fatalf("GET %s: status %d, %v: %s", path, resp.StatusCode, err, b)
	}
}

// compact is a JSON text without white space, as answers have it.
func compact(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A receiver checks by the numbers that it has everything, and gets the very bodies again that it was sent, whether they
// wait or are delivered.
func TestPull_ShowsAReceiverWhatItWasSentAndWhatWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	rec.setAnswer(func(a arrival, n int) int {
		if n > 20 {
			return 503
		}
		return 200
	})
	sub := r.subscribe("acme", rec.URL, "*")
	d := r.start()
	for i := range 40 {
		r.order("acme", fmt.Sprint("o", i%5), i)
	}
	bearer := r.tenantToken("acme")
	pull := func(after int64) (out api.EventsAfter) {
		t.Helper()
		r.get(d, bearer, fmt.Sprintf("/subscriptions/%s/events?bodies=true&limit=7&after=%d", sub, after), &out)
		return out
	}
	r.eventually("all numbers are on record", func() bool { return pull(0).Watermark == 40 })
	var after int64
	bodies := make(map[string]string)
	for after < 40 {
		page := pull(after)
		for _, item := range page.Items {
			after++
			if item.Sequence != after || len(item.Body) == 0 {
				t.Fatalf("number %d stands where %d should, with a body of %d bytes", item.Sequence, after, len(item.Body))
			}
			bodies[item.EventID.String()] = string(item.Body)
		}
		if page.Last != after || len(page.Gaps) != 0 {
			t.Fatalf("last %d after number %d, gaps %v", page.Last, after, page.Gaps)
		}
	}
	rec.setAnswer(nil)
	r.eventually("all are delivered", func() bool { return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == 40 })
	arrivals := rec.arrivals()
	if i := slices.IndexFunc(arrivals, func(a arrival) bool { return bodies[a.ID] != compact(t, a.Body) }); i >= 0 || len(bodies) != 40 {
		t.Errorf("%d bodies; arrival %d was %s, and is pulled as %s", len(bodies), i, arrivals[i].Body, bodies[arrivals[i].ID])
	}
	// The rows are found by the index on their transactions; once they are gone, so are the bodies, and nothing else.
	r.exec("DELETE FROM outbox.events")
	if page := pull(0); len(page.Items) != 7 || page.Items[0].Body != nil || page.Watermark != 40 {
		t.Errorf("%+v", page)
	}
}

func TestStatistics_ShowTheBreakerAndTheBookmark(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	sub := r.subscribe("acme", rec.URL, "*")
	d := r.start()
	bearer := r.tenantToken("acme")
	stat := func() (s api.Statistics) {
		t.Helper()
		r.get(d, bearer, "/subscriptions/"+sub+"/statistics", &s)
		return s
	}
	for i := range 10 {
		r.order("acme", fmt.Sprint("o", i), i)
	}
	r.eventually("all have ended", func() bool { s := stat(); return s.Watermark == 10 && s.Bookmark == 10 })
	if s := stat(); s.Breaker == nil || s.Breaker.State != "closed" || s.Breaker.Failures != 0 || s.Delivered != 10 {
		t.Errorf("%+v", s)
	}
	rec.setAnswer(func(arrival, int) int { return 503 })
	for i := range 10 {
		r.order("acme", fmt.Sprint("o", i), i)
	}
	r.eventually("the breaker is open", func() bool {
		s := stat()
		return s.Watermark == 20 && s.Bookmark == 10 && s.Breaker.State == "open" && s.Breaker.Failures >= 5 && s.Breaker.NextProbeAt != nil
	})
	rec.setAnswer(nil)
	r.eventually("it is closed", func() bool { s := stat(); return s.Bookmark == 20 && s.Breaker.State == "closed" && s.Backlog == 0 })
	rec.setAnswer(func(arrival, int) int { return http.StatusGone })
	r.order("acme", "o1", 1)
	r.eventually("the relay disables it, and that is on record as its own", func() bool {
		return r.number("SELECT count(*) FROM relay.changes WHERE actor = 'relay' AND action = 'subscription.disable' AND target = $1 AND after ->> 'disabled_reason' LIKE 'gone: %'", sub) == 1
	})
}

func TestDelivery_ShowsThePhasesOfAnAttemptThatOpensAConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_DELIVER_ENDPOINT_CONCURRENCY=1")
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	bearer := r.tenantToken("acme")
	for i := range 2 {
		r.order("acme", "o1", i)
		r.eventually("it is recorded", func() bool { return r.number("SELECT count(*) FROM relay.deliveries") == i+1 })
	}
	var list struct{ Items []api.Delivery }
	r.eventually("both are listed", func() bool {
		r.get(d, bearer, "/deliveries", &list)
		return len(list.Items) == 2
	})
	for i, opened := range []bool{false, true} { // newest first
		var one api.DeliveryDetail
		r.get(d, bearer, "/deliveries/"+list.Items[i].ID.String(), &one)
		if len(one.History) != 1 || *one.History[0].StatusCode != 200 || (one.History[0].Phases != nil) != opened {
			t.Fatalf("delivery %d: %+v", i, one.History)
		}
		if p := one.History[0].Phases; opened && (p.Connect <= 0 || p.FirstByte <= 0) {
			t.Errorf("phases %+v", p)
		}
	}
}
