package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/token"
)

type deliveryPage struct {
	Items []Delivery
	Next  *string `json:"next_cursor"`
}

func (w *world) deliveries(bearer, query string) deliveryPage {
	w.t.Helper()
	var p deliveryPage
	a := w.call("GET", "/deliveries?"+query, bearer, nil)
	if a.Status != 200 {
		w.t.Fatalf("status %d: %s", a.Status, a.Text)
	}
	a.into(w.t, &p)
	return p
}

func TestDeliveries_AreFoundByEachFilter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantRead, "acme")
	writer := w.token(token.RoleTenantWrite, "acme")
	first, second := w.subscribe(writer).ID, w.subscribe(writer).ID
	day := time.Now().UTC().Truncate(24 * time.Hour)
	d := []uuid.UUID{
		w.ended("acme", first, day.Add(1*time.Hour), 1, "DELIVERED", "payment.received", "inv_1"),
		w.ended("acme", first, day.Add(2*time.Hour), 2, "DEAD", "payment.failed", "inv_1"),
		w.ended("acme", second, day.Add(3*time.Hour), 3, "CANCELLED", "payment.received", "inv_2"),
		w.parked("acme", second, day.Add(4*time.Hour), 4), // payment.received of inv_9
	}
	w.ended("globex", first, day.Add(2*time.Hour), 5, "DELIVERED", "payment.received", "inv_1")
	at := func(h int) string { return day.Add(time.Duration(h) * time.Hour).Format(time.RFC3339) }
	for query, want := range map[string][]int{
		"":                                   {3, 2, 1, 0},
		"status=PENDING":                     {3},
		"status=DELIVERED":                   {0},
		"status=DEAD":                        {1},
		"status=CANCELLED":                   {2},
		"event=payment.received":             {3, 2, 0},
		"event=payment.Received":             {},
		"subscription=" + first.String():     {1, 0},
		"subscription=" + uuid.NewString():   {},
		"aggregate_id=inv_1":                 {1, 0},
		"aggregate_type=payment":             {3, 2, 1, 0},
		"aggregate_type=order":               {},
		"aggregate_id=inv_9":                 {3},
		"from=" + at(2):                      {3, 2, 1},
		"to=" + at(3):                        {1, 0},
		"from=" + at(2) + "&to=" + at(3):     {1},
		"from=" + at(3) + "&to=" + at(2):     {},
		"status=DEAD&event=payment.received": {},
		"aggregate_id=inv_1&subscription=" + first.String() + "&status=DEAD": {1},
	} {
		var got []uuid.UUID
		for _, item := range w.deliveries(acme, query).Items {
			got = append(got, item.ID)
		}
		var ids []uuid.UUID
		for _, i := range want {
			ids = append(ids, d[i])
		}
		if fmt.Sprint(got) != fmt.Sprint(ids) {
			t.Errorf("%q: %v, want %v", query, got, ids)
		}
	}
	for _, bad := range []string{"status=delivered", "subscription=x", "from=yesterday", "to=1", "event=" + strings.Repeat("x", 256)} {
		if a := w.call("GET", "/deliveries?"+bad, acme, nil); a.Status != http.StatusUnprocessableEntity || a.problem(t).Errors[0].In != "query" {
			t.Errorf("%s: status %d, %s", bad, a.Status, a.Text)
		}
	}
}

// What is committed between two pages is newer than both and moves nothing; what ends between them keeps its place.
func TestDeliveries_PagesAreStableUnderWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, sub := w.token(token.RoleTenantRead, "acme"), w.subscribe(w.token(token.RoleTenantWrite, "acme")).ID
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	want := make(map[uuid.UUID]bool)
	for i := range 40 {
		want[w.ended("acme", sub, begin.Add(time.Duration(i)*time.Second), byte(i), "DELIVERED", "payment.received", "inv")] = true
	}
	waits := w.parked("acme", sub, begin.Add(5*time.Second+time.Millisecond), 99)
	want[waits] = true
	query := "limit=7"
	for page := 0; ; page++ {
		p := w.deliveries(acme, query)
		for _, item := range p.Items {
			if !want[item.ID] {
				t.Errorf("%s twice, or not from before", item.ID)
			}
			delete(want, item.ID)
		}
		if p.Next == nil {
			break
		}
		w.ended("acme", sub, time.Now(), byte(100+page), "DELIVERED", "payment.received", "inv")
		if page == 2 { // it ends while it is ahead of the reader
			if _, err := w.db.Exec(t.Context(), `WITH gone AS (DELETE FROM relay.parked WHERE id = $1)
				INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id,
				commit_lsn, row_index, status, attempts, ended_at) VALUES ($1, $2, 'acme', $3, $3, 'payment.received', 'payment', 'inv', '0/1', 1,
				'DELIVERED', 2, now())`, waits, begin.Add(5*time.Second+time.Millisecond), sub); err != nil {
				t.Fatal(err)
			}
		}
		query = "limit=7&cursor=" + *p.Next
	}
	if len(want) != 0 {
		t.Errorf("%d are missing", len(want))
	}
}

func TestDelivery_ShowsWhatIsSentAndItsAttemptsButNotWhereTheyLed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	sub := w.subscribe(acme)
	waiting := w.parked("acme", sub.ID, time.Now(), 1)
	a := w.call("GET", "/deliveries/"+waiting.String(), acme, nil)
	var d DeliveryDetail
	a.into(t, &d)
	if d.Status != "PENDING" || *d.LastError != "http_5xx: 503 Service Unavailable" || *d.LastStatusCode != 503 || d.NextAttemptAt == nil {
		t.Errorf("%+v", d.Delivery)
	}
	if !strings.Contains(a.Text, `"body":{"data":{"amount":1500.00}}`) {
		t.Errorf("the body is not as it is sent: %s", a.Text)
	}
	if d.Request.Method != "POST" || *d.Request.URL != sub.URL || d.Request.Headers["webhook-id"] != d.EventID.String() ||
		d.Request.Headers["X-Event-Type"] != "payment.received" {
		t.Errorf("%+v", d.Request)
	}
	if len(d.History) != 1 || *d.History[0].Number != 1 || d.History[0].Phases.Connect != 300 || *d.History[0].StatusCode != 503 ||
		d.History[0].DurationMillis != 12 || d.History[0].Reason != "http_5xx" {
		t.Errorf("%+v", d.History)
	}
	for _, inside := range []string{"INSIDE", "10.0.0.7"} {
		if strings.Contains(a.Text, inside) {
			t.Errorf("the answer shows %s", inside)
		}
	}
	took := w.ended("acme", sub.ID, time.Now(), 2, "DELIVERED", "payment.received", "inv")
	var e DeliveryDetail
	w.call("GET", "/deliveries/"+took.String(), acme, nil).into(t, &e)
	if len(e.History) != 1 || *e.History[0].Number != 1 || e.History[0].DurationMillis != 1.5 || e.DeliveredAt == nil || string(e.Request.Body) != "null" {
		t.Errorf("one that was taken at once: %+v", e)
	}
	w.call("DELETE", "/subscriptions/"+sub.ID.String(), acme, nil)
	var f DeliveryDetail
	if w.call("GET", "/deliveries/"+took.String(), acme, nil).into(t, &f); f.Request.URL != nil || f.Status != "DELIVERED" {
		t.Errorf("without its subscription: %+v", f)
	}
}

func TestRetry_AsksTheRelayAndNotesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	sub := w.subscribe(acme)
	waiting := w.parked("acme", sub.ID, time.Now(), 1)
	// A relay that carries the request out.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			tag, err := w.db.Exec(context.WithoutCancel(t.Context()), `WITH asked AS (DELETE FROM relay.requests WHERE kind = 'retry_delivery' RETURNING target)
				UPDATE relay.parked SET next_attempt_at = '2101-01-01' WHERE id IN (SELECT target::uuid FROM asked)`)
			if err != nil || tag.RowsAffected() > 0 {
				return
			}
		}
	}()
	a := w.call("POST", "/deliveries/"+waiting.String()+"/retry", acme, nil)
	<-done
	var d Delivery
	if a.into(t, &d); a.Status != http.StatusAccepted || d.NextAttemptAt.Year() != 2101 {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if n := w.call("GET", "/changes?limit=1", acme, nil); !strings.Contains(n.Text, "delivery.retry") || !strings.Contains(n.Text, waiting.String()) {
		t.Errorf("%s", n.Text)
	}
	// Without a relay the call still ends, and the request stays for the one that comes.
	if a := w.call("POST", "/deliveries/"+waiting.String()+"/retry", acme, nil); a.Status != http.StatusAccepted {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	var left int
	if err := w.db.QueryRow(t.Context(), "SELECT count(*) FROM relay.requests").Scan(&left); err != nil || left != 1 {
		t.Errorf("%d requests, %v", left, err)
	}
	took := w.ended("acme", sub.ID, time.Now(), 2, "DELIVERED", "payment.received", "inv")
	if a := w.call("POST", "/deliveries/"+took.String()+"/retry", acme, nil); a.Status != http.StatusConflict || !strings.Contains(a.Text, "DELIVERED") {
		t.Errorf("a delivered one: status %d, %s", a.Status, a.Text)
	}
	w.call("POST", "/subscriptions/"+sub.ID.String()+"/disable", acme, nil)
	if a := w.call("POST", "/deliveries/"+waiting.String()+"/retry", acme, nil); a.Status != http.StatusConflict || !strings.Contains(a.Text, "disabled") {
		t.Errorf("one of a disabled subscription: status %d, %s", a.Status, a.Text)
	}
	var test TestResult
	if w.call("POST", "/subscriptions/"+sub.ID.String()+"/test", acme, nil).into(t, &test); len(test.Warnings) != 1 {
		t.Errorf("a test of a disabled subscription warns of %q", test.Warnings)
	}
}

// The relay has looked, and there is nothing left to send.
func TestRetry_OfWhatCannotBeSentAnyMoreIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	dead := w.ended("acme", w.subscribe(acme).ID, time.Now(), 1, "DEAD", "payment.received", "inv")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			tag, err := w.db.Exec(context.WithoutCancel(t.Context()), "DELETE FROM relay.requests WHERE kind = 'retry_delivery'")
			if err != nil || tag.RowsAffected() > 0 {
				return
			}
		}
	}()
	a := w.call("POST", "/deliveries/"+dead.String()+"/retry", acme, nil)
	<-done
	if a.Status != http.StatusConflict || !strings.Contains(a.Text, "not tried again") {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
}
