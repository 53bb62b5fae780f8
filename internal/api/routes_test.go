package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/token"
)

// route is an operation of the document.
type route struct {
	method, path string
	op           *huma.Operation
}

// routes are all operations that the API has. What the tests below know of them is by operationId, and one that they do not
// know fails them: a new route has to be added here.
func (w *world) routes() []route {
	var out []route
	for path, item := range w.api.built().document.Paths {
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put, "PATCH": item.Patch,
			"DELETE": item.Delete, "HEAD": item.Head, "OPTIONS": item.Options} {
			if op != nil {
				out = append(out, route{method, strings.TrimPrefix(path, Prefix), op})
			}
		}
	}
	slices.SortFunc(out, func(a, b route) int { return strings.Compare(a.op.OperationID, b.op.OperationID) })
	return out
}

// sample is what the tests know of an operation.
type sample struct {
	writes bool
	kind   string // of the id in the path: "", subscription, delivery, replay or type
	body   string // a good one; "" when there is none. SUBSCRIPTION in it stands for the id of one
	status int    // of a good call
}

var samples = map[string]sample{
	"cancelReplay":        {writes: true, kind: "replay", status: 202},
	"createReplay":        {writes: true, body: `{"subscription_id":"SUBSCRIPTION","from":"2026-01-31T15:04:05Z"}`, status: 202},
	"createSubscription":  {writes: true, body: `{"url":"https://hooks.example.com/x","event":"payment.received"}`, status: 201},
	"deleteSubscription":  {writes: true, kind: "subscription", status: 204},
	"disableSubscription": {writes: true, kind: "subscription", status: 200},
	"enableSubscription":  {writes: true, kind: "subscription", status: 200},
	"getDelivery":         {kind: "delivery", status: 200},
	"getEventType":        {kind: "type", status: 200},
	"getSubscription":     {kind: "subscription", status: 200},
	"getReplay":           {kind: "replay", status: 200},
	"getStatistics":       {kind: "subscription", status: 200},
	"listChanges":         {status: 200},
	"listDeliveries":      {status: 200},
	"listEventTypes":      {status: 200},
	"listEventsAfter":     {kind: "subscription", status: 200},
	"listReplays":         {status: 200},
	"listSubscriptions":   {status: 200},
	"rotateSecret":        {writes: true, kind: "subscription", body: `{"action":"stage","secret":"a secret of our own, long enough"}`, status: 200},
	"retryDelivery":       {writes: true, kind: "delivery", status: 202},
	"trySubscription":     {body: `{"event":"payment.received","filter":{"currency":"EUR"}}`, status: 200},
	"testSubscription":    {writes: true, kind: "subscription", status: 200},
	"updateSubscription":  {writes: true, kind: "subscription", body: `{"description":"x"}`, status: 200},
}

// things are ids that belong to a tenant, by kind.
func (w *world) things(bearer, tenant string) map[string]string {
	w.t.Helper()
	c := w.subscribe(bearer)
	other := w.subscribe(bearer) // one replay may run for a subscription
	return map[string]string{"subscription": c.ID.String(), "delivery": w.parked(tenant, c.ID, time.Now(), 7).String(),
		"replay": w.replaying(tenant, other.ID).String(), "type": "payment.received"}
}

func (r route) with(t *testing.T, ids map[string]string) string {
	t.Helper()
	s, ok := samples[r.op.OperationID]
	if !ok {
		t.Fatalf("operation %s is not in samples: say there what these tests have to know of it", r.op.OperationID)
	}
	open, end := strings.IndexByte(r.path, '{'), strings.IndexByte(r.path, '}')
	if (open >= 0) != (s.kind != "") {
		t.Fatalf("operation %s: path %s, kind of id %q", r.op.OperationID, r.path, s.kind)
	}
	if open < 0 {
		return r.path
	}
	return r.path[:open] + ids[s.kind] + r.path[end+1:]
}

func (s sample) content(ids map[string]string) any {
	if s.body == "" {
		return nil
	}
	return strings.ReplaceAll(s.body, "SUBSCRIPTION", ids["subscription"])
}

func TestRoutes_ServeTheirTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, reader := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantRead, "acme")
	seen := 0
	for _, r := range w.routes() {
		s := samples[r.op.OperationID]
		ids := w.things(acme, "acme") // own ones, for one of the calls deletes them
		path := r.with(t, ids)
		bearer := reader
		if s.writes {
			if a := w.call(r.method, path, reader, s.content(ids)); a.Status != http.StatusForbidden {
				t.Errorf("%s with a token that may only look: status %d, %s", r.op.OperationID, a.Status, a.Text)
			}
			bearer = acme
		}
		if r.op.OperationID == "createReplay" { // of a tenant's, one runs
			if _, err := w.db.Exec(t.Context(), "UPDATE relay.replays SET state = 'DONE'"); err != nil {
				t.Fatal(err)
			}
		}
		a := w.call(r.method, path, bearer, s.content(ids))
		if a.Status != s.status {
			t.Errorf("%s: status %d, %s", r.op.OperationID, a.Status, a.Text)
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Access-Control-Allow-Origin": "",
			"Server": "", "X-Powered-By": ""} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: header %s is %q", r.op.OperationID, name, got)
			}
		}
		if a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", r.op.OperationID)
		}
		seen++
	}
	if seen != len(samples) {
		t.Errorf("%d operations, %d in samples", seen, len(samples))
	}
}

func TestRoutes_WantAGoodTokenOfATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	ids := w.things(acme, "acme")
	store := token.Store{DB: w.db}
	_, expired, err := store.Create(t.Context(), token.RoleTenantWrite, "acme", "", time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	gone, revoked, err := store.Create(t.Context(), token.RoleTenantWrite, "acme", "", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Revoke(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	operator := w.token(token.RoleOperator, "")
	for _, r := range w.routes() {
		s, path := samples[r.op.OperationID], r.with(t, ids)
		for name, authorization := range map[string]string{
			"none": "", "no scheme": acme, "basic": "Basic " + acme, "empty": "Bearer ", "malformed": "Bearer " + acme[:len(acme)-1] + "!",
			"two": "Bearer " + acme + " " + acme, "expired": "Bearer " + expired.Reveal(), "revoked": "Bearer " + revoked.Reveal(),
			"injection": "Bearer ' OR '1'='1", "long": "Bearer " + strings.Repeat("x", 8000),
		} {
			w.api.server.guesses = newLimiter() // this test is not about guessing
			a := w.call(r.method, path, "", s.content(ids), header{"Authorization", authorization})
			if p := a.problem(t); a.Status != http.StatusUnauthorized || a.Header.Get("WWW-Authenticate") == "" || p.Detail == "" {
				t.Errorf("%s with token %s: status %d, %s", r.op.OperationID, name, a.Status, a.Text)
			}
		}
		if a := w.call(r.method, path, operator, s.content(ids)); a.Status != http.StatusForbidden {
			t.Errorf("%s with an operator's token: status %d", r.op.OperationID, a.Status)
		}
	}
}

// A foreign id must not be told from an unknown one: not by status, nor by text, nor by what happens.
func TestRoutes_ShowAForeignIDAsUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantWrite, "globex")
	foreign := w.things(globex, "globex")
	kinds := make(map[string]int)
	for _, r := range w.routes() {
		s := samples[r.op.OperationID]
		kind := s.kind
		if strings.Contains(s.body, "SUBSCRIPTION") {
			kind = "subscription"
		}
		if kind == "" || kind == "type" {
			continue
		}
		kinds[kind]++
		ask := func(id string) string {
			ids := map[string]string{kind: id}
			content := s.content(ids)
			if strings.Contains(s.body, "SUBSCRIPTION") { // where it stands in JSON, it is not encoded as in a path
				plain, err := url.PathUnescape(id)
				if err != nil {
					t.Fatal(err)
				}
				if quoted, err := json.Marshal(plain); err == nil && utf8.ValidString(plain) {
					content = strings.ReplaceAll(s.body, `"SUBSCRIPTION"`, string(quoted))
				}
			}
			a := w.call(r.method, r.with(t, ids), acme, content, header{"X-Request-Id", "same"})
			if a.Status != http.StatusNotFound {
				t.Errorf("%s of %s: status %d, %s", r.op.OperationID, id, a.Status, a.Text)
			}
			a.Header.Del("Date")
			return fmt.Sprint(a.Status, a.Header, a.Text)
		}
		unknown := ask(uuid.NewString())
		for name, id := range map[string]string{"foreign": foreign[kind], "malformed": "x", "number": "1", "nil": uuid.Nil.String(),
			"other spelling": "%7B" + foreign[kind] + "%7D", "capitals": strings.ToUpper(foreign[kind]), "urn": "urn:uuid:" + foreign[kind],
			"injection": "'%20OR%20'1'='1", "traversal": "..%2F..%2Fetc", "NUL": "a%00b", "not UTF-8": "%ff"} {
			if got := ask(id); got != unknown {
				t.Errorf("%s of a %s id: %s\nof an unknown one: %s", r.op.OperationID, name, got, unknown)
			}
		}
	}
	if kinds["subscription"] < 8 || kinds["delivery"] < 2 || kinds["replay"] < 2 {
		t.Errorf("asked by kind: %v", kinds)
	}
	// And nothing has happened to them.
	own := w.call("GET", "/subscriptions/"+foreign["subscription"], globex, nil)
	if !strings.Contains(own.Text, `"active":true`) || !strings.Contains(own.Text, `"description":""`) {
		t.Errorf("the foreign subscription: %s", own.Text)
	}
	var requests int
	if err := w.db.QueryRow(t.Context(), "SELECT count(*) FROM relay.requests").Scan(&requests); err != nil || requests != 0 {
		t.Errorf("%d requests, %v", requests, err)
	}
}

func TestRoutes_ListNothingOfAnotherTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantWrite, "globex")
	ids := w.things(globex, "globex")
	lists := 0
	for _, r := range w.routes() {
		if r.method != "GET" || samples[r.op.OperationID].kind != "" || r.op.OperationID == "listEventTypes" {
			continue
		}
		lists++
		a := w.call("GET", r.path, acme, nil)
		if a.Status != 200 || !strings.Contains(a.Text, `"items":[]`) {
			t.Errorf("%s of a tenant that has nothing: status %d, %s", r.op.OperationID, a.Status, a.Text)
		}
		if own := w.call("GET", r.path, globex, nil); strings.Contains(own.Text, `"items":[]`) {
			t.Errorf("%s of a tenant that has something: %s", r.op.OperationID, own.Text)
		}
	}
	if a := w.call("GET", "/deliveries?subscription="+ids["subscription"], acme, nil); !strings.Contains(a.Text, `"items":[]`) {
		t.Errorf("deliveries to a foreign subscription: %s", a.Text)
	}
	if lists < 4 {
		t.Errorf("%d lists", lists)
	}
}

func TestRoutes_RefuseBadBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	ids := w.things(acme, "acme")
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	many := "[" + strings.Repeat("1,", 1000) + "1]"
	bodies := 0
	for _, r := range w.routes() {
		s := samples[r.op.OperationID]
		if s.body == "" {
			continue
		}
		bodies++
		path := r.with(t, ids)
		s.body = s.content(ids).(string)
		for name, c := range map[string]struct {
			body   string
			status []int
		}{
			"empty":          {"", []int{200, 400, 409, 422}}, // where all fields are optional, so is the body
			"blank":          {"  ", []int{400, 422}},
			"not JSON":       {"url=https%3A%2F%2Fx", []int{400, 422}},
			"cut off":        {s.body[:len(s.body)-1], []int{400, 422}},
			"two values":     {s.body + s.body, []int{400, 422}},
			"trailing text":  {s.body + "x", []int{400, 422}},
			"list":           {"[" + s.body + "]", []int{422}},
			"text":           {`"x"`, []int{422}},
			"null":           {"null", []int{200, 409, 422}},
			"number":         {"1e999", []int{400, 422}},
			"deep":           {deep, []int{400, 422}},
			"deeper":         {strings.Repeat("[", 100_000), []int{400, 422}},
			"many":           {many, []int{400, 422}},
			"unknown":        {s.body[:len(s.body)-1] + `,"unknown":1}`, []int{422}},
			"twice":          {s.body[:len(s.body)-1] + "," + s.body[1:], []int{400, 422}},
			"not UTF-8":      {strings.Replace(s.body, `"`, "\"\xff", 1), []int{400, 422}},
			"lone surrogate": {strings.Replace(s.body, `":"`, `":"\ud800`, 1) + " ", []int{200, 201, 400, 404, 422}},
			"prototype":      {s.body[:len(s.body)-1] + `,"__proto__":{"admin":true}}`, []int{422}},
			"10 MB":          {`{"description":"` + strings.Repeat("x", 10<<20) + `"}`, []int{413}},
		} {
			a := w.call(r.method, path, acme, c.body)
			if !slices.Contains(c.status, a.Status) {
				t.Errorf("%s with body %s: status %d, %.300s", r.op.OperationID, name, a.Status, a.Text)
			}
			if a.Status >= 300 {
				if p := a.problem(t); p.Detail == "" && len(p.Errors) == 0 {
					t.Errorf("%s with body %s: a problem that says nothing: %s", r.op.OperationID, name, a.Text)
				}
			}
			for _, inside := range []string{"json.", "reflect", "strconv", ".go:", "pgx", "SQLSTATE", "goroutine"} {
				if strings.Contains(a.Text, inside) {
					t.Errorf("%s with body %s: the answer shows our inside: %.300s", r.op.OperationID, name, a.Text)
				}
			}
		}
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml"} {
			if a := w.call(r.method, path, acme, s.body, header{"Content-Type", kind}); a.Status != http.StatusUnsupportedMediaType {
				t.Errorf("%s with a body of %s: status %d", r.op.OperationID, kind, a.Status)
			}
		}
	}
	if bodies < 2 {
		t.Errorf("%d operations with a body", bodies)
	}
	if strings.Contains(w.logs.String(), "panic") {
		t.Errorf("something panicked:\n%s", w.logs)
	}
}

func TestRoutes_RefuseUnknownParametersAndCursors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantWrite, "globex")
	for range 4 {
		c := w.subscribe(acme)
		w.replaying("acme", w.subscribe(acme).ID)
		w.ended("acme", c.ID, time.Now(), 1, "DELIVERED", "payment.received", "inv_1")
		w.subscribe(globex)
	}
	ids := w.things(acme, "acme")
	paged := make(map[string]string)
	for _, r := range w.routes() {
		s, path := samples[r.op.OperationID], r.with(t, ids)
		if a := w.call(r.method, path+"?unknown=1", acme, s.content(ids)); a.Status != http.StatusUnprocessableEntity ||
			a.problem(t).Errors[0].In != "query" {
			t.Errorf("%s with an unknown parameter: status %d, %s", r.op.OperationID, a.Status, a.Text)
		}
		if !slices.ContainsFunc(r.op.Parameters, func(p *huma.Param) bool { return p.Name == "cursor" }) {
			continue
		}
		for _, limit := range []string{"0", "-1", "201", "x", "1e2", "", "99999999999999999999"} {
			if a := w.call("GET", path+"?limit="+limit, acme, nil); a.Status != http.StatusUnprocessableEntity && limit != "" {
				t.Errorf("%s with limit %q: status %d", r.op.OperationID, limit, a.Status)
			}
		}
		var page struct {
			Next string `json:"next_cursor"`
		}
		w.call("GET", path+"?limit=2", acme, nil).into(t, &page)
		if page.Next == "" {
			t.Fatalf("%s has no second page", r.op.OperationID)
		}
		paged[path] = page.Next
	}
	if len(paged) < 3 {
		t.Fatalf("lists with pages: %v", paged)
	}
	for path, cursor := range paged {
		if a := w.call("GET", path+"?limit=2&cursor="+cursor, acme, nil); a.Status != 200 {
			t.Errorf("%s: the cursor of its own page: status %d", path, a.Status)
		}
		bad := map[string]string{"of another tenant": cursor}
		for i := range cursor {
			b := []byte(cursor)
			if b[i]++; b[i] != '_'+1 && b[i] != 'z'+1 && b[i] != '9'+1 && b[i] != 'Z'+1 && b[i] != '-'+1 {
				bad[fmt.Sprintf("with another character %d", i)] = string(b)
			}
		}
		bad["cut"], bad["longer"], bad["of nothing"] = cursor[:len(cursor)-2], cursor+"AA", "AAAA"
		for other, c := range paged {
			if other != path {
				bad["of "+other] = c
			}
		}
		for name, c := range bad {
			bearer := acme
			if name == "of another tenant" {
				bearer = globex
			}
			if a := w.call("GET", path+"?limit=2&cursor="+c, bearer, nil); a.Status != http.StatusBadRequest || a.problem(t).Errors[0].Parameter != "cursor" {
				t.Errorf("%s with a cursor %s: status %d", path, name, a.Status)
			}
		}
	}
	// A cursor is bound to its filters: with others, its place means nothing.
	if a := w.call("GET", "/deliveries?limit=2&status=DELIVERED&cursor="+paged["/deliveries"], acme, nil); a.Status != http.StatusBadRequest {
		t.Errorf("a cursor with another filter: status %d", a.Status)
	}
}

// What looks like SQL is a text like any other: it finds nothing, breaks nothing, and comes back as it went in.
func TestRoutes_TakeInjectionsAsText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	other := w.subscribe(w.token(token.RoleTenantWrite, "globex"))
	ids := w.things(acme, "acme")
	count := func() (n string) {
		t.Helper()
		if err := w.db.QueryRow(t.Context(), `SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class
			WHERE relnamespace = 'relay'::regnamespace`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	texts := []string{"'", "''", "' OR '1'='1", "'; DROP TABLE relay.subscriptions; --", "\\'; SELECT pg_sleep(9); --", "$1", "$$", "%", "_%", "{}", "{a,b}",
		"1); DELETE FROM relay.parked; --", "' UNION SELECT secret FROM relay.subscriptions --", "E'\\047'", "\u02bc OR 1=1", "NULL", "now()", "\r\nX: y"}
	for _, r := range w.routes() {
		for _, p := range r.op.Parameters {
			if p.In != "query" {
				continue
			}
			for _, text := range append([]string{"\x00", "a\x00b", "\xff", "\xed\xa0\x80", strings.Repeat("é", 3000)}, texts...) {
				began := time.Now()
				a := w.call(r.method, r.with(t, ids)+"?"+url.Values{p.Name: {text}}.Encode(), acme, samples[r.op.OperationID].content(ids))
				if a.Status >= 500 || strings.Contains(a.Text, other.ID.String()) || time.Since(began) > 5*time.Second {
					t.Errorf("%s with %s=%s: status %d, %.200s", r.op.OperationID, p.Name, text, a.Status, a.Text)
				}
			}
		}
	}
	for _, text := range texts {
		a := w.call("POST", "/subscriptions", acme, map[string]any{"url": "https://h.example.com", "event": "*", "description": text, "secret": text},
			header{"Idempotency-Key", strings.Trim(text, "\r\n") + "key"})
		var c Created
		if a.into(t, &c); a.Status == http.StatusCreated && (c.Description != text || c.Secret != text) {
			t.Errorf("%q came back as %q", text, c.Description)
		}
		if a.Status >= 500 {
			t.Errorf("%q: status %d, %s", text, a.Status, a.Text)
		}
	}
	if a := w.call("GET", "/deliveries?event=%zz", acme, nil); a.Status != http.StatusBadRequest {
		t.Errorf("a query that is none: status %d", a.Status)
	}
	for _, key := range []string{"\xff", "a b", "\u00e9"} {
		if a := w.call("POST", "/subscriptions", acme, `{"url":"https://h.example.com","event":"*"}`, header{"Idempotency-Key", key}); a.Status != 422 {
			t.Errorf("key %q: status %d, %s", key, a.Status, a.Text)
		}
	}
	if after := count(); after != before {
		t.Errorf("the schema was %s, is %s", before, after)
	}
}
