package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/token"
)

// number gives a delivery its number, and says how far the numbers are on record.
func (w *world) number(delivery uuid.UUID, n, recorded int64) {
	w.t.Helper()
	for _, table := range []string{"deliveries", "parked"} {
		if _, err := w.db.Exec(w.t.Context(), "UPDATE relay."+table+" SET sequence = $2 WHERE id = $1", delivery, n); err != nil {
			w.t.Fatal(err)
		}
	}
	if _, err := w.db.Exec(w.t.Context(), `INSERT INTO relay.sequences SELECT subscription_id, $2, '{}', now() FROM (SELECT subscription_id FROM relay.deliveries
		WHERE id = $1 UNION SELECT subscription_id FROM relay.parked WHERE id = $1) AS d ON CONFLICT (subscription_id) DO UPDATE SET recorded = $2`,
		delivery, recorded); err != nil {
		w.t.Fatal(err)
	}
}

func TestPull_ListsByNumberWithGapsAndAWatermark(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	sub := w.subscribe(acme).ID
	other := w.subscribe(acme).ID
	at := time.Now().Add(-time.Hour)
	var events []uuid.UUID
	for i, n := range []int64{1, 2, 4, 5, 9} {
		id := w.ended("acme", sub, at.Add(time.Duration(i)*time.Second), byte(n), "DELIVERED", "payment.received", fmt.Sprint("inv_", n))
		w.number(id, n, 8)
		var event uuid.UUID
		if err := w.db.QueryRow(t.Context(), "SELECT event_id FROM relay.deliveries WHERE id = $1", id).Scan(&event); err != nil {
			t.Fatal(err)
		}
		events = append(events, event)
	}
	w.number(w.parked("acme", sub, at, 7), 7, 8)
	w.number(w.ended("acme", other, at, 50, "DELIVERED", "payment.received", "inv_x"), 3, 3)
	get := func(query string) (out EventsAfter) {
		t.Helper()
		a := w.call("GET", "/subscriptions/"+sub.String()+"/events"+query, acme, nil)
		if a.Status != 200 {
			t.Fatalf("status %d: %s", a.Status, a.Text)
		}
		a.into(t, &out)
		return out
	}
	say := func(e EventsAfter) string {
		var s []string
		for _, i := range e.Items {
			s = append(s, fmt.Sprint(i.Sequence, i.Status[:1]))
		}
		return strings.Join(s, " ") + fmt.Sprint(" ", e.Gaps, " ", e.Last, "/", e.Watermark)
	}
	for query, want := range map[string]string{
		"":                 "1D 2D 4D 5D 7P [{3 3} {6 6} {8 8}] 8/8", // 9 is beyond what is on record as a whole
		"?after=2":         "4D 5D 7P [{3 3} {6 6} {8 8}] 8/8",
		"?limit=2":         "1D 2D [] 2/8",
		"?limit=3":         "1D 2D [{3 3}] 3/8",
		"?after=2&limit=2": "4D [{3 3}] 4/8",
		"?after=5&limit=1": " [{6 6}] 6/8",
		"?after=7":         " [{8 8}] 8/8",
		"?after=8":         " [] 8/8",
		"?after=100":       " [] 8/8", // the database was restored: begin again from there
	} {
		if got := say(get(query)); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
	// A subscription to which nothing was sent yet.
	a := w.call("GET", "/subscriptions/"+w.subscribe(acme).ID.String()+"/events", acme, nil)
	if strings.TrimSpace(a.Text) != `{"items":[],"gaps":[],"last":0,"watermark":0}` {
		t.Errorf("of a new one: %s", a.Text)
	}
	// Bodies: that of what waits is the relay's own, the others are those that the outbox retains.
	w.outbox = map[uuid.UUID][]byte{events[0]: []byte(`{"data":{"n":1}}`), events[2]: []byte(`{"data":{"n":4}}`)}
	var bodies []string
	for _, i := range get("?bodies=true").Items {
		bodies = append(bodies, string(i.Body))
	}
	if got := strings.Join(bodies, " "); got != `{"data":{"n":1}}  {"data":{"n":4}}  {"data":{"amount":1500.00}}` {
		t.Errorf("bodies %s", got)
	}
	large, err := json.Marshal(strings.Repeat("x", pulledBytes/2))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		w.outbox[e] = large
	}
	if got := say(get("?bodies=true")); got != "1D [] 1/8" {
		t.Errorf("with large bodies: %s", got)
	}
	w.incomplete = true
	if a := w.call("GET", "/subscriptions/"+sub.String()+"/events", acme, nil); a.Status != 409 || !strings.Contains(a.Text, "deliver.log") {
		t.Errorf("without a record of all: status %d, %s", a.Status, a.Text)
	}
}

func TestDelivery_ShowsItsNumberAndTheBodyThatTheOutboxRetains(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantRead, "acme")
	sub := w.subscribe(w.token(token.RoleTenantWrite, "acme")).ID
	id := w.ended("acme", sub, time.Now(), 1, "DELIVERED", "payment.received", "inv_1")
	w.number(id, 12, 12)
	var d DeliveryDetail
	w.call("GET", "/deliveries/"+id.String(), acme, nil).into(t, &d)
	if d.Sequence == nil || *d.Sequence != 12 || d.Request.Headers["Relay-Sequence"] != "12" || d.Request.Body != nil && string(d.Request.Body) != "null" {
		t.Errorf("%+v, body %s", d, d.Request.Body)
	}
	w.outbox = map[uuid.UUID][]byte{d.EventID: []byte(`{"data":{"n":1}}`)}
	w.call("GET", "/deliveries/"+id.String(), acme, nil).into(t, &d)
	if string(d.Request.Body) != `{"data":{"n":1}}` {
		t.Errorf("body %s", d.Request.Body)
	}
}
