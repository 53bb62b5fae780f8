package api

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
)

// The call of the system that relay replaces, as it is.
func TestCreate_TakesTheCallOfTheSystemBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	a := w.call("POST", "/subscriptions", acme, `{"url": "https://hooks.example.com/x", "event": "payment.received", "secret": "test-secret-key"}`)
	if a.Status != http.StatusCreated {
		t.Fatalf("status %d: %s", a.Status, a.Text)
	}
	var c Created
	a.into(t, &c)
	if c.TenantID != "acme" || c.URL != "https://hooks.example.com/x" || *c.Event != "payment.received" || len(c.Events) != 1 ||
		c.Secret != "test-secret-key" || !c.Active || c.Ordering != "key" || c.OnDead != "release" {
		t.Errorf("%+v", c)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "15 bytes") {
		t.Errorf("warnings %q of a short secret", c.Warnings)
	}
	if want := Prefix + "/subscriptions/" + c.ID.String(); a.Header.Get("Location") != want || a.Header.Get("ETag") == "" {
		t.Errorf("Location %q, ETag %q", a.Header.Get("Location"), a.Header.Get("ETag"))
	}
	kept, err := deliver.Subscriptions{DB: w.db}.Get(t.Context(), c.ID)
	if err != nil || kept.Secret.Reveal() != "test-secret-key" || kept.TenantID != "acme" {
		t.Errorf("kept %+v, %v", kept, err)
	}
}

func TestCreate_MakesASecretAndShowsItOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	if key, err := signature.Key(c.Secret); err != nil || len(key) != 32 || !strings.HasPrefix(c.Secret, "whsec_") {
		t.Errorf("a secret with a key of %d bytes, %v", len(key), err)
	}
	one := "/subscriptions/" + c.ID.String()
	for _, call := range [][2]string{{"GET", one}, {"GET", "/subscriptions"}, {"POST", one + "/disable"}, {"POST", one + "/enable"},
		{"POST", one + "/test"}, {"GET", "/changes"}, {"DELETE", one}, {"GET", "/changes"}} {
		if a := w.call(call[0], call[1], acme, nil); a.Status >= 300 || strings.Contains(a.Text, c.Secret) || strings.Contains(a.Text, `"secret"`) {
			t.Errorf("%s %s: status %d, %s", call[0], call[1], a.Status, a.Text)
		}
	}
	if strings.Contains(w.logs.String(), c.Secret) {
		t.Error("the log has the secret")
	}
}

func TestCreate_NamesTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	for name, c := range map[string]struct{ body, pointer string }{
		"no event":            {`{"url":"https://h.example.com"}`, "/event"},
		"both":                {`{"url":"https://h.example.com","event":"*","events":["*"]}`, "/event"},
		"bad event":           {`{"url":"https://h.example.com","event":"payment..received"}`, "/event"},
		"bad pattern":         {`{"url":"https://h.example.com","events":["payment.*","pay*"]}`, "/events/1"},
		"twice":               {`{"url":"https://h.example.com","events":["*","*"]}`, "/events/1"},
		"empty list":          {`{"url":"https://h.example.com","events":[]}`, "/events"},
		"null list":           {`{"url":"https://h.example.com","events":null}`, "/event"},
		"no url":              {`{"event":"*"}`, ""},
		"private url":         {`{"url":"http://localhost/x","event":"*"}`, "/url"},
		"long url":            {`{"url":"https://h.example.com/` + strings.Repeat("x", 2048) + `","event":"*"}`, "/url"},
		"url of another type": {`{"url":7,"event":"*"}`, "/url"},
		"empty secret":        {`{"url":"https://h.example.com","event":"*","secret":""}`, "/secret"},
		"bad secret":          {`{"url":"https://h.example.com","event":"*","secret":"whsec_CANARY-not-base64!"}`, "/secret"},
		"like a sealed one":   {`{"url":"https://h.example.com","event":"*","secret":"sealed:AAAA"}`, "/secret"},
		"long unknown field":  {`{"url":"https://h.example.com","event":"*","` + strings.Repeat("x", 1000) + `":1}`, "/" + strings.Repeat("x", maxDetail)},
		"escaped field":       {`{"url":"https://h.example.com","event":"*","a/b~c":1}`, "/a~1b~0c"},
		"rate":                {`{"url":"https://h.example.com","event":"*","rate_limit":0.001}`, "/rate_limit"},
		"high rate":           {`{"url":"https://h.example.com","event":"*","rate_limit":1001}`, "/rate_limit"},
		"wait":                {`{"url":"https://h.example.com","event":"*","retry_schedule":["0s","soon"]}`, "/retry_schedule/1"},
		"negative wait":       {`{"url":"https://h.example.com","event":"*","retry_schedule":["-1s"]}`, "/retry_schedule/0"},
		"long wait":           {`{"url":"https://h.example.com","event":"*","retry_schedule":["721h"]}`, "/retry_schedule/0"},
		"timeout":             {`{"url":"https://h.example.com","event":"*","timeout":"soon"}`, "/timeout"},
		"short timeout":       {`{"url":"https://h.example.com","event":"*","timeout":"1ms"}`, "/timeout"},
		"long timeout":        {`{"url":"https://h.example.com","event":"*","timeout":"91s"}`, "/timeout"},
		"format":              {`{"url":"https://h.example.com","event":"*","format":"xml"}`, "/format"},
		"ordering":            {`{"url":"https://h.example.com","event":"*","ordering":"KEY"}`, "/ordering"},
		"halt without order":  {`{"url":"https://h.example.com","event":"*","ordering":"none","on_dead":"halt"}`, "/on_dead"},
		"unknown field":       {`{"url":"https://h.example.com","event":"*","CANARY":1}`, "/CANARY"},
		"id":                  {`{"url":"https://h.example.com","event":"*","id":"01a21045-e54f-72f6-866b-2636175a6f62"}`, "/id"},
		"tenant":              {`{"url":"https://h.example.com","event":"*","tenant_id":"globex"}`, "/tenant_id"},
		"field in capitals":   {`{"URL":"https://h.example.com","event":"*"}`, "/URL"},
		"NUL":                 {`{"url":"https://h.example.com","event":"*","description":"a\u0000b"}`, "/description"},
		"active of a text":    {`{"url":"https://h.example.com","event":"*","active":"yes"}`, "/active"},
	} {
		a := w.call("POST", "/subscriptions", acme, c.body)
		if a.Status < 300 {
			t.Errorf("%s: it was made", name)
			continue
		}
		p := a.problem(t)
		found := false
		for _, f := range p.Errors {
			found = found || f.In == "body" && f.Pointer == c.pointer && f.Detail != ""
		}
		if a.Status != http.StatusUnprocessableEntity || !found {
			t.Errorf("%s: status %d, %s; want the field %q", name, a.Status, a.Text, c.pointer)
		}
		if strings.Contains(a.Text, "whsec_CANARY") {
			t.Errorf("%s: the answer repeats the secret: %s", name, a.Text)
		}
	}
	if n := len(w.list(acme)); n != 0 {
		t.Errorf("%d subscriptions were made", n)
	}
}

func (w *world) list(bearer string) []Subscription {
	w.t.Helper()
	var out []Subscription
	for cursor := ""; ; {
		var page struct {
			Items []Subscription
			Next  *string `json:"next_cursor"`
		}
		w.call("GET", "/subscriptions?limit=7&cursor="+cursor, bearer, nil).into(w.t, &page)
		if out = append(out, page.Items...); page.Next == nil {
			return out
		}
		cursor = *page.Next
	}
}

func TestCreate_TogetherStayWithinTheQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.limit(Limits{MaxSubscriptions: 20})
	acme := w.token(token.RoleTenantWrite, "acme")
	status := make([]int, 100)
	var wg sync.WaitGroup
	for i := range status {
		wg.Go(func() {
			var a answer
			for { // of one tenant, so many are worked on at once
				a = w.call("POST", "/subscriptions", acme, map[string]any{"url": fmt.Sprintf("https://h.example.com/%d", i), "event": "*"})
				if a.Status != http.StatusTooManyRequests && a.Status != http.StatusServiceUnavailable { // on a busy machine
					break
				}
			}
			status[i] = a.Status
			if a.Status == http.StatusConflict && !strings.Contains(a.Text, "20 subscriptions") {
				t.Errorf("the refusal does not say why: %s", a.Text)
			}
		})
	}
	wg.Wait()
	made := 0
	for _, s := range status {
		switch s {
		case http.StatusCreated:
			made++
		case http.StatusConflict:
		default:
			t.Errorf("status %d", s)
		}
	}
	if list := w.list(acme); made != 20 || len(list) != 20 {
		t.Errorf("%d made, %d there, want 20", made, len(list))
	}
	// Another tenant has a quota of its own.
	w.subscribe(w.token(token.RoleTenantWrite, "globex"))
}

func TestCreate_WithAKeyMakesOneHoweverOftenItIsRepeated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantWrite, "globex")
	const body = `{"url":"https://h.example.com","event":"*"}`
	key := header{"Idempotency-Key", "order-77"}
	answers := make([]answer, 12)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = w.call("POST", "/subscriptions", acme, body, key) })
	}
	wg.Wait()
	for _, a := range answers {
		if a.Status != http.StatusCreated || a.Text != answers[0].Text {
			t.Errorf("status %d, %s; the first was %s", a.Status, a.Text, answers[0].Text)
		}
	}
	var made Created
	answers[0].into(t, &made)
	if len(w.list(acme)) != 1 || made.Secret == "" {
		t.Errorf("%d were made", len(w.list(acme)))
	}
	if a := w.call("POST", "/subscriptions", acme, `{"url":"https://other.example.com","event":"*"}`, key); a.Status != http.StatusUnprocessableEntity ||
		a.problem(t).Errors[0].Parameter != "Idempotency-Key" {
		t.Errorf("the key with another body: status %d, %s", a.Status, a.Text)
	}
	if a := w.call("POST", "/subscriptions", globex, body, key); a.Status != http.StatusCreated || strings.Contains(a.Text, made.ID.String()) {
		t.Errorf("the key of another tenant: status %d, %s", a.Status, a.Text)
	}
	// After a change the secret may be another one, and is not told.
	w.call("PATCH", "/subscriptions/"+made.ID.String(), acme, `{"description":"x"}`)
	if a := w.call("POST", "/subscriptions", acme, body, key); a.Status != http.StatusCreated || strings.Contains(a.Text, `"secret"`) {
		t.Errorf("repeated after a change: status %d, %s", a.Status, a.Text)
	}
	if a := w.call("DELETE", "/subscriptions/"+made.ID.String(), acme, nil); a.Status != http.StatusNoContent {
		t.Fatalf("status %d", a.Status)
	}
	if a := w.call("POST", "/subscriptions", acme, body, key); a.Status != http.StatusConflict {
		t.Errorf("what the key made is gone: status %d, %s", a.Status, a.Text)
	}
	if _, err := w.db.Exec(t.Context(), "UPDATE relay.idempotency SET created_at = created_at - interval '24 hours'"); err != nil {
		t.Fatal(err)
	}
	if a := w.call("POST", "/subscriptions", acme, body, key); a.Status != http.StatusCreated {
		t.Errorf("a day later: status %d, %s", a.Status, a.Text)
	}
}

func TestUpdate_ChangesWhatTheBodyHasAndNotesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	path := "/subscriptions/" + c.ID.String()
	a := w.call("PATCH", path, acme, `{"events":["payment.*","customer.created"],"description":"the shop"}`, header{"X-Request-Id", "from-a-test"})
	var got Subscription
	a.into(t, &got)
	if a.Status != 200 || len(got.Events) != 2 || got.Event != nil || got.Description != "the shop" || got.URL != c.URL || !got.Active {
		t.Errorf("status %d, %+v", a.Status, got)
	}
	var read Subscription
	if w.call("GET", path, acme, nil).into(t, &read); fmt.Sprint(read.Events, read.Description, read.UpdatedAt) != fmt.Sprint(got.Events, got.Description, got.UpdatedAt) {
		t.Errorf("read %+v, answered %+v", read, got)
	}
	var changes struct{ Items []Change }
	w.call("GET", "/changes", acme, nil).into(t, &changes)
	if len(changes.Items) != 2 {
		t.Fatalf("%d changes", len(changes.Items))
	}
	n := changes.Items[0]
	if n.Action != "subscription.update" || n.Target != c.ID.String() || n.RequestID != "from-a-test" || !strings.HasPrefix(n.Actor, "token:") ||
		strings.Contains(string(n.Before), "the shop") || !strings.Contains(string(n.After), "the shop") {
		t.Errorf("%+v", n)
	}
	// One that changes nothing wakes nobody and is not noted.
	if a := w.call("PATCH", path, acme, `{"description":"the shop","events":["payment.*","customer.created"],"active":true}`); a.Status != 200 ||
		!strings.Contains(a.Text, got.UpdatedAt.Format(time.RFC3339Nano)) {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if w.call("GET", "/changes", acme, nil).into(t, &changes); len(changes.Items) != 2 {
		t.Errorf("%d changes", len(changes.Items))
	}
	for body, pointer := range map[string]string{`{"url":"http://localhost"}`: "/url", `{"event":"a..b"}`: "/event", `{"events":[]}`: "/events",
		`{"secret":"x"}`: "/secret", `{"ordering":"none","on_dead":"halt"}`: "/on_dead"} {
		p := w.call("PATCH", path, acme, body)
		if p.Status != 422 || len(p.problem(t).Errors) == 0 || p.problem(t).Errors[0].Pointer != pointer {
			t.Errorf("%s: status %d, %s", body, p.Status, p.Text)
		}
	}
}

func TestUpdate_SetsAndTakesAwayRateAndSchedule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	var c Created
	w.call("POST", "/subscriptions", acme, `{"url":"https://h.example.com","event":"*","rate_limit":2.5,"retry_schedule":["0s","1m30s","720h"]}`).into(t, &c)
	if c.RateLimit == nil || *c.RateLimit != 2.5 || fmt.Sprint(c.RetrySchedule) != "[0s 1m30s 720h]" {
		t.Fatalf("%+v", c)
	}
	path := "/subscriptions/" + c.ID.String()
	for _, step := range []struct{ body, rate, schedule string }{
		{`{"description":"x"}`, "2.5", "[0s 1m30s 720h]"},
		{`{"rate_limit":10}`, "10", "[0s 1m30s 720h]"},
		{`{"retry_schedule":["1s"]}`, "10", "[1s]"},
		{`{"rate_limit":0,"retry_schedule":[],"format":"cloudevents"}`, "none", "[]"},
	} {
		var got Subscription
		w.call("PATCH", path, acme, step.body).into(t, &got)
		if want := strings.Contains(step.body, "cloudevents"); (got.Format == "cloudevents") != want {
			t.Errorf("after %s: format %s", step.body, got.Format)
		}
		rate := "none"
		if got.RateLimit != nil {
			rate = fmt.Sprint(*got.RateLimit)
		}
		if rate != step.rate || fmt.Sprint(got.RetrySchedule) != step.schedule {
			t.Errorf("after %s: rate %s, schedule %v", step.body, rate, got.RetrySchedule)
		}
	}
}

func TestUpdate_WithAnETagUndoesNobodysChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	path := "/subscriptions/" + c.ID.String()
	tag := w.call("GET", path, acme, nil).Header.Get("ETag")
	statuses := make([]int, 8)
	var wg sync.WaitGroup
	for i := range statuses {
		wg.Go(func() {
			statuses[i] = w.call("PATCH", path, acme, fmt.Sprintf(`{"description":"%d"}`, i), header{"If-Match", tag}).Status
		})
	}
	wg.Wait()
	took := 0
	for _, s := range statuses {
		if s == 200 {
			took++
		} else if s != http.StatusPreconditionFailed {
			t.Errorf("status %d", s)
		}
	}
	if took != 1 {
		t.Errorf("%d of 8 changes of the same state went through", took)
	}
	if a := w.call("DELETE", path, acme, nil, header{"If-Match", tag}); a.Status != http.StatusPreconditionFailed {
		t.Errorf("deleted by an old tag: status %d", a.Status)
	}
	if a := w.call("PATCH", path, acme, `{"description":"x"}`, header{"If-Match", `"nonsense", *`}); a.Status != 200 {
		t.Errorf("any state: status %d", a.Status)
	}
}

func TestEnable_AndDisableAreSeenAndNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	path := "/subscriptions/" + c.ID.String()
	for _, step := range []struct {
		action string
		active bool
	}{{"disable", false}, {"disable", false}, {"enable", true}, {"enable", true}} {
		var got Subscription
		w.call("POST", path+"/"+step.action, acme, nil).into(t, &got)
		if got.Active != step.active || (got.DisabledReason == nil) != step.active {
			t.Errorf("after %s: %+v", step.action, got)
		}
	}
	var changes struct{ Items []Change }
	if w.call("GET", "/changes", acme, nil).into(t, &changes); len(changes.Items) != 4 {
		t.Errorf("%d changes, want the creation, one disabling and two enablings: the second one says that the endpoint works", len(changes.Items))
	}
	a := w.call("POST", "/subscriptions", acme, `{"url":"https://h.example.com","event":"*","active":false}`)
	var off Created
	if a.into(t, &off); off.Active || off.DisabledReason == nil {
		t.Errorf("made disabled: %s", a.Text)
	}
}

func TestTest_TellsWhatTheEndpointDidAndIsHeldBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	w.mu.Lock()
	w.post = func(s *deliver.Subscription, _ *signature.Signer) (deliver.Outcome, error) {
		if s.ID != c.ID || s.Secret.Reveal() != c.Secret {
			t.Errorf("posted to %+v", s)
		}
		return deliver.Outcome{StatusCode: 503, Reason: deliver.ReasonHTTP5xx, Detail: "503 Service Unavailable", Duration: 5 * time.Millisecond,
			Address: "10.0.0.7:443", Answer: "INSIDE"}, nil
	}
	w.mu.Unlock()
	a := w.call("POST", "/subscriptions/"+c.ID.String()+"/test", acme, nil)
	var r TestResult
	a.into(t, &r)
	if r.Success || *r.StatusCode != 503 || r.Reason != "http_5xx" || r.DurationMicros != 5000 {
		t.Errorf("%s", a.Text)
	}
	if strings.Contains(a.Text, "10.0.0.7") || strings.Contains(a.Text, "INSIDE") {
		t.Errorf("the answer shows where it leads: %s", a.Text)
	}
	var held answer
	for range 2 * testRate * 2 {
		held = w.call("POST", "/subscriptions/"+c.ID.String()+"/test", acme, nil)
	}
	if held.Status != http.StatusTooManyRequests || held.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", held.Status, held.Header.Get("Retry-After"))
	}
}

func TestList_GoesOnWhereThePageEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantWrite, "globex")
	want := make(map[uuid.UUID]bool)
	for range 23 {
		want[w.subscribe(acme).ID] = true
		w.subscribe(globex)
	}
	got := w.list(acme)
	for _, s := range got {
		if !want[s.ID] || s.TenantID != "acme" {
			t.Errorf("%+v twice, or of another tenant", s)
		}
		delete(want, s.ID)
	}
	if len(want) != 0 {
		t.Errorf("%d are missing", len(want))
	}
	if a := w.call("GET", "/subscriptions", w.token(token.RoleTenantRead, "empty"), nil); a.Text != `{"items":[],"next_cursor":null}`+"\n" {
		t.Errorf("an empty list is %q", a.Text)
	}
}

// An endpoint that fails and was never disabled: enabling it says that it works again.
func TestEnable_ForgetsTheFailuresOfAnActiveOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	one := "/subscriptions/" + w.subscribe(acme).ID.String()
	if _, err := w.db.Exec(t.Context(), `INSERT INTO relay.failing (subscription_id, since, not_before, circuit_open)
SELECT id, now(), now() + interval '1 hour', true FROM relay.subscriptions`); err != nil {
		t.Fatal(err)
	}
	var sub Subscription
	if w.call("GET", one, acme, nil).into(t, &sub); sub.FailingSince == nil {
		t.Fatal("it does not fail")
	}
	if w.call("POST", one+"/enable", acme, nil).into(t, &sub); sub.FailingSince != nil || !sub.Active {
		t.Errorf("enabled: %+v", sub)
	}
	if a := w.call("GET", "/changes", acme, nil); !strings.Contains(a.Text, "subscription.enable") {
		t.Errorf("not on record: %s", a.Text)
	}
}

func TestTimeout_IsSetChangedAndTakenAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	var c Created
	w.call("POST", "/subscriptions", acme, `{"url":"https://h.example.com","event":"*","timeout":"60s"}`).into(t, &c)
	if c.Timeout == nil || *c.Timeout != "1m0s" {
		t.Fatalf("%+v", c)
	}
	one := "/subscriptions/" + c.ID.String()
	var sub Subscription
	if w.call("PATCH", one, acme, `{"timeout":"30s"}`).into(t, &sub); sub.Timeout == nil || *sub.Timeout != "30s" {
		t.Errorf("changed: %+v", sub)
	}
	if a := w.call("PATCH", one, acme, `{"timeout":"2m"}`); a.Status != http.StatusUnprocessableEntity || !strings.Contains(a.Text, "to 1m30s") {
		t.Errorf("too long: %d %s", a.Status, a.Text)
	}
	if w.call("PATCH", one, acme, `{"timeout":"0s"}`).into(t, &sub); sub.Timeout != nil {
		t.Errorf("taken away: %+v", sub)
	}
}
