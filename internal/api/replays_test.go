package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/token"
)

func TestReplay_CountsBeforeItSends(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	sub := w.subscribe(acme)
	body := func(more string) string {
		return `{"subscription_id":"` + sub.ID.String() + `","from":"2026-01-31T15:04:05Z"` + more + `}`
	}
	a := w.call("POST", "/replays", acme, body(`,"dry_run":true`))
	if a.Status != 200 || strings.TrimSpace(a.Text) != `{"found":12,"events":{"payment.received":12},"skipped":1,`+
		`"skips":[{"event_id":"01a21045-e54f-72f6-866b-2636175a6f62","reason":"suppressed","detail":"says nothing"}],"replay":null}` {
		t.Errorf("dry run: status %d, %s", a.Status, a.Text)
	}
	w.limit(Limits{MaxReplay: 11})
	if a := w.call("POST", "/replays", acme, body("")); a.Status != 422 || a.problem(t).Errors[0].Pointer != "/from" || !strings.Contains(a.Text, "12 rows match, and one replay may send 11") {
		t.Errorf("too many: status %d, %s", a.Status, a.Text)
	}
	w.limit(Limits{MaxReplay: 12})
	for name, c := range map[string]struct{ more, pointer string }{"range": {`,"to":"2026-01-31T15:04:05Z"`, "/from"}, "pattern": {`,"events":["*","pay*"]`, "/events/1"}} {
		if a := w.call("POST", "/replays", acme, body(c.more)); a.Status != 422 || a.problem(t).Errors[0].Pointer != c.pointer {
			t.Errorf("%s: status %d, %s", name, a.Status, a.Text)
		}
	}
	a = w.call("POST", "/replays", acme, body(`,"events":["payment.received"]`))
	var got ReplayAnswer
	a.into(t, &got)
	if a.Status != http.StatusAccepted || got.Replay == nil || got.Replay.State != "RUNNING" || got.Replay.Found != 12 || got.Replay.Rate != 50 {
		t.Fatalf("status %d, %s", a.Status, a.Text)
	}
	again := w.call("POST", "/replays", acme, body(`,"events":["payment.received"]`))
	if again.Status != http.StatusAccepted || !strings.Contains(again.Text, got.Replay.ID.String()) {
		t.Errorf("the same again: status %d, %s", again.Status, again.Text)
	}
	if a := w.call("POST", "/replays", acme, body("")); a.Status != http.StatusConflict {
		t.Errorf("another one meanwhile: status %d, %s", a.Status, a.Text)
	}
	if !got.Replay.From.Equal(time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC)) || got.Replay.To.After(time.Now()) {
		t.Errorf("from %s to %s", got.Replay.From, got.Replay.To)
	}
	second := w.subscribe(acme)
	if a := w.call("POST", "/replays", acme, strings.Replace(body(""), sub.ID.String(), second.ID.String(), 1)); a.Status != http.StatusConflict {
		t.Errorf("of another subscription meanwhile: status %d, %s", a.Status, a.Text)
	}
	path := "/replays/" + got.Replay.ID.String()
	if a := w.call("GET", path, acme, nil); a.Status != 200 || strings.Contains(a.Text, `"number"`) {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if a := w.call("POST", path+"/cancel", acme, nil); a.Status != http.StatusAccepted {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if _, err := w.db.Exec(t.Context(), "UPDATE relay.replays SET state = 'CANCELLED', ended_at = now()"); err != nil {
		t.Fatal(err)
	}
	if a := w.call("POST", path+"/cancel", acme, nil); a.Status != http.StatusConflict {
		t.Errorf("one that has ended: status %d, %s", a.Status, a.Text)
	}
	var changes struct{ Items []Change }
	if w.call("GET", "/changes", acme, nil).into(t, &changes); changes.Items[0].Action != "replay.cancel" || changes.Items[2].Action != "replay.create" {
		t.Errorf("%+v", changes.Items)
	}
}

func TestStatistics_SayHowASubscriptionDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantRead, "acme")
	sub := w.subscribe(w.token(token.RoleTenantWrite, "acme"))
	other := w.subscribe(w.token(token.RoleTenantWrite, "acme"))
	stat := func() (s Statistics) {
		t.Helper()
		a := w.call("GET", "/subscriptions/"+sub.ID.String()+"/statistics", acme, nil)
		if a.Status != 200 {
			t.Fatalf("status %d, %s\n%s", a.Status, a.Text, w.logs)
		}
		a.into(t, &s)
		return s
	}
	if s := stat(); s.Breaker != nil || s.Watermark != 0 || s.Bookmark != 0 || s.SuccessRate != nil || s.Backlog != 0 || s.MedianMillis != nil || s.OldestWaiting != nil || s.LastError != nil {
		t.Errorf("of one that has had nothing: %+v", s)
	}
	now := time.Now()
	for i := range 8 {
		status := "DELIVERED"
		if i >= 6 {
			status = "DEAD"
		}
		w.ended("acme", sub.ID, now.Add(-time.Duration(i)*time.Minute), byte(i), status, "payment.received", "inv")
	}
	w.ended("acme", other.ID, now, 20, "DEAD", "payment.received", "inv")
	w.ended("acme", sub.ID, now.Add(-25*time.Hour), 21, "DEAD", "payment.received", "inv")
	oldest := now.Add(-90 * time.Minute).Truncate(time.Millisecond)
	w.number(w.parked("acme", sub.ID, oldest, 22), 8, 12)
	w.number(w.parked("acme", sub.ID, now, 23), 11, 12)
	probe := now.Add(time.Minute).UTC()
	w.breakers = map[uuid.UUID]deliver.BreakerState{sub.ID: {State: "open", Failures: 7, Until: probe}, other.ID: {State: "closed"}}
	s := stat()
	if s.Watermark != 12 || s.Bookmark != 7 || s.Breaker == nil || s.Breaker.State != "open" || s.Breaker.Failures != 7 || !s.Breaker.NextProbeAt.Equal(probe) {
		t.Errorf("%+v", s)
	}
	if s.Delivered != 6 || s.DeliveredFirst != 6 || s.Dead != 2 || *s.SuccessRate != 0.75 || *s.MedianMillis != 1.5 || s.Partial {
		t.Errorf("%+v", s)
	}
	if s.Backlog != 2 || s.BacklogMore || !s.OldestWaiting.Truncate(time.Millisecond).Equal(oldest) || *s.LastError != "http_5xx: 503 Service Unavailable" || s.NextAttemptAt == nil {
		t.Errorf("%+v", s)
	}
}

// What is kept for a replay is kept for everybody's tables: it reaches no further than what there is.
func TestReplay_ReachesNeitherBehindWhatIsRetainedNorIntoTheFuture(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	sub := w.subscribe(acme)
	a := w.call("POST", "/replays", acme, `{"subscription_id":"`+sub.ID.String()+`","from":"0001-01-01T00:00:00Z","to":"2999-01-01T00:00:00Z"}`)
	var got ReplayAnswer
	if a.into(t, &got); got.Replay == nil || got.Replay.From.Year() != 2026 || got.Replay.To.After(time.Now().Add(time.Second)) {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if a := w.call("POST", "/replays", acme, `{"subscription_id":"`+sub.ID.String()+`","from":"2998-01-01T00:00:00Z"}`); a.Status != 422 {
		t.Errorf("from the future: status %d, %s", a.Status, a.Text)
	}
	off := w.subscribe(acme)
	w.call("POST", "/subscriptions/"+off.ID.String()+"/disable", acme, nil)
	if a := w.call("POST", "/replays", acme, `{"subscription_id":"`+off.ID.String()+`","from":"2026-01-31T15:04:05Z"}`); a.Status != http.StatusConflict {
		t.Errorf("for one that is disabled: status %d, %s", a.Status, a.Text)
	}
}

func TestReplay_WithAKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	body := `{"subscription_id":"` + w.subscribe(acme).ID.String() + `","from":"2026-01-31T15:04:05Z"}`
	key := header{"Idempotency-Key", "again-1"}
	var first, second ReplayAnswer
	w.call("POST", "/replays", acme, body, key).into(t, &first)
	if _, err := w.db.Exec(t.Context(), "UPDATE relay.replays SET state = 'DONE', ended_at = now()"); err != nil {
		t.Fatal(err)
	}
	w.call("POST", "/replays", acme, body, key).into(t, &second)
	if first.Replay == nil || second.Replay == nil || first.Replay.ID != second.Replay.ID || second.Replay.State != "DONE" {
		t.Errorf("%+v, then %+v", first.Replay, second.Replay)
	}
}

func TestForgetChanges_RemovesWhatIsOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	for range 3 {
		w.subscribe(acme)
	}
	if _, err := w.db.Exec(t.Context(), "UPDATE relay.changes SET at = at - interval '400 days' WHERE id <> (SELECT max(id::text)::uuid FROM relay.changes)"); err != nil {
		t.Fatal(err)
	}
	if n, err := ForgetChanges(t.Context(), w.db, 365*24*time.Hour); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	var changes struct{ Items []Change }
	if w.call("GET", "/changes", acme, nil).into(t, &changes); len(changes.Items) != 1 {
		t.Errorf("%d are left", len(changes.Items))
	}
}
