package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/signature"
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
	"listReplays":         {status: 200},
	"listSubscriptions":   {status: 200},
	"rotateSecret":        {writes: true, kind: "subscription", body: `{"action":"stage","secret":"a secret of our own, long enough"}`, status: 200},
	"retryDelivery":       {writes: true, kind: "delivery", status: 202},
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

func TestAPI_AnswersUnknownPathsAndMethodsAsProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"//", "//api", "/", "/nothing", "/subscriptions/x/y/z", "//api/v2/tenant/webhooks/subscriptions", "//api/v1/tenant"} {
		if a := w.call("GET", path, "", nil); a.Status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, a.Status)
		} else {
			a.problem(t)
		}
	}
	for path, allow := range map[string]string{"/subscriptions": "GET, POST", "/subscriptions/x": "GET, PATCH, DELETE", "/deliveries/x/retry": "POST"} {
		for _, method := range []string{"PUT", "TRACE", "OPTIONS", "PROPFIND"} {
			a := w.call(method, path, "", nil)
			if a.Status != http.StatusMethodNotAllowed || a.Header.Get("Allow") != allow {
				t.Errorf("%s %s: status %d, Allow %q", method, path, a.Status, a.Header.Get("Allow"))
			}
		}
	}
	// A method in a header is no method.
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	w.call("POST", "/subscriptions/"+c.ID.String()+"/test", acme, nil, header{"X-HTTP-Method-Override", "DELETE"})
	if a := w.call("GET", "/subscriptions/"+c.ID.String(), acme, nil); a.Status != 200 {
		t.Errorf("an overridden method was followed: status %d", a.Status)
	}
}

func TestAPI_RepeatsPlainRequestIDsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for id, kept := range map[string]bool{"abc-DEF_1.2": true, "": false, "a b": false, "a\"b": false, "<script>": false, strings.Repeat("x", 129): false} {
		a := w.call("GET", "/subscriptions", "", nil, header{"X-Request-Id", id})
		if got := a.Header.Get("X-Request-Id"); (got == id) != kept || got == "" {
			t.Errorf("request id %q came back as %q", id, got)
		}
	}
}

func TestAPI_HoldsTokensAndAddressesToTheirRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, other := w.token(token.RoleTenantRead, "acme"), w.token(token.RoleTenantRead, "acme")
	w.limit(Limits{TokenRate: 5})
	var a answer
	for range 11 {
		a = w.call("GET", "/events", acme, nil)
	}
	if a.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") != "1" || a.Header.Get("RateLimit-Policy") != `"token";q=10;w=2` ||
		!strings.HasPrefix(a.Header.Get("RateLimit"), `"token";r=0;t=`) {
		t.Errorf("status %d, %v", a.Status, a.Header)
	}
	if a := w.call("GET", "/events", other, nil); a.Status != 200 || a.Header.Get("RateLimit") != `"token";r=9;t=1` {
		t.Errorf("another token: status %d, %v", a.Status, a.Header)
	}
	w.limit(Limits{AddressRate: 3})
	for range 7 {
		a = w.call("GET", "/nothing", "", nil)
	}
	if p := a.problem(t); p.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, %v", a.Status, a.Header)
	}
}

func TestAPI_SlowsGuessingDownAndLetsKnownTokensThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantRead, "acme")
	if a := w.call("GET", "/events", acme, nil); a.Status != 200 {
		t.Fatal(a.Status)
	}
	statuses := make(map[int]int)
	for range 100 {
		statuses[w.call("GET", "/events", "relay_guess", nil).Status]++
	}
	if statuses[401] < 2*guessRate || statuses[401] > 3*guessRate || statuses[429] != 100-statuses[401] {
		t.Errorf("answers to 100 guesses: %v", statuses)
	}
	if a := w.call("GET", "/events", acme, nil); a.Status != 200 {
		t.Errorf("a good token from the same address: status %d", a.Status)
	}
	// Not only while it is in memory: it must be looked up again while somebody goes on guessing.
	for until := time.Now().Add(2 * token.CacheFor); time.Now().Before(until); {
		w.call("GET", "/events", "relay_guess", nil)
		if a := w.call("GET", "/events", acme, nil); a.Status != 200 {
			t.Fatalf("a good token beside a guesser: status %d", a.Status)
		}
	}
}

func TestAPI_BelievesTrustedProxiesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.limit(Limits{AddressRate: 1, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}})
	call := func(forwarded ...string) int {
		var h []header
		if len(forwarded) > 0 {
			h = append(h, header{"X-Forwarded-For", strings.Join(forwarded, ", ")})
		}
		return w.call("GET", "/events", "", nil, h...).Status
	}
	for range 3 {
		call("192.0.2.1")
	}
	if got := call("192.0.2.1"); got != 429 {
		t.Errorf("a caller behind the proxy that has had enough: status %d", got)
	}
	if got := call("198.51.100.9", "192.0.2.1", "10.1.2.3"); got != 429 {
		t.Errorf("the same, who claims to be another, through two proxies: status %d", got)
	}
	if got := call("192.0.2.2"); got != 401 {
		t.Errorf("another caller: status %d", got)
	}
	for _, garbage := range []string{"", "x", "192.0.2.1:80:80", ","} {
		if got := call(garbage); got != 401 && got != 429 {
			t.Errorf("%q: status %d", garbage, got)
		}
	}
	w.limit(Limits{AddressRate: 1})
	for range 3 {
		call("192.0.2.77")
	}
	if got := call("192.0.2.78"); got != 429 {
		t.Errorf("without trusted proxies the header changes whose call it is: status %d", got)
	}
}

// However a tenant calls, others and operators are served.
func TestAPI_OneTenantDoesNotKeepOthersOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme, globex, operator := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantRead, "globex"), w.token(token.RoleOperator, "")
	ops := httptest.NewServer(w.api.ForOperators(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) })))
	t.Cleanup(ops.Close)
	others := func(while string) {
		t.Helper()
		began := time.Now()
		if a := w.call("GET", "/subscriptions", globex, nil); a.Status != 200 {
			t.Errorf("%s, another tenant: status %d, %s", while, a.Status, a.Text)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, ops.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+operator)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _ = resp.Body.Close(); resp.StatusCode != http.StatusNoContent {
			t.Errorf("%s, an operator: status %d", while, resp.StatusCode)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s, others wait %s", while, took)
		}
	}
	// Bodies that do not come.
	for range maxCalls {
		c, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := fmt.Fprintf(c, "POST %s/subscriptions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
			Prefix, acme); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for w.call("GET", "/events", acme, nil).Status != http.StatusTooManyRequests && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	others("while one sends bodies that do not come")

	// Statements that take long.
	tx, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), "LOCK TABLE relay.changes"); err != nil {
		t.Fatal(err)
	}
	third := w.token(token.RoleTenantRead, "initech")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { w.call("GET", "/changes", third, nil) })
	}
	blocked := func() (n int) {
		if err := w.db.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for deadline := time.Now().Add(5 * time.Second); blocked() < maxTurns && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := blocked(); n != maxTurns {
		t.Errorf("%d statements of one tenant wait in the database, want %d", n, maxTurns)
	}
	others("while statements of one take long")
	_ = tx.Rollback(t.Context())
	wg.Wait()
}

func TestAPI_SaysThatTheDatabaseIsAwayAndNothingOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantRead, "acme")
	if a := w.call("GET", "/subscriptions", acme, nil); a.Status != 200 {
		t.Fatal(a.Status)
	}
	if _, err := w.db.Exec(t.Context(), "ALTER TABLE relay.subscriptions RENAME TO away"); err != nil {
		t.Fatal(err)
	}
	a := w.call("GET", "/subscriptions", acme, nil)
	if p := a.problem(t); p.Status != 500 || strings.Contains(a.Text, "relay.subscriptions") || strings.Contains(a.Text, "SQLSTATE") ||
		!strings.Contains(w.logs.String(), p.RequestID) || !strings.Contains(w.logs.String(), "42P01") {
		t.Errorf("%s; the log: %s", a.Text, w.logs)
	}
	stranger := w.token(token.RoleTenantRead, "acme")
	w.db.Close()
	a = w.call("GET", "/events", stranger, nil)
	if p := a.problem(t); p.Status < 500 {
		t.Errorf("%s", a.Text)
	}
}

func TestAPI_ShowsItsDocumentAndPage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	doc := w.call("GET", "//openapi.json", "", nil)
	if doc.Status != 200 || !strings.Contains(doc.Text, `"openapi": "3.1.0"`) || !strings.HasPrefix(doc.Header.Get("Content-Type"), "application/") {
		t.Errorf("status %d, %.200s", doc.Status, doc.Text)
	}
	page := w.call("GET", "//docs", "", nil)
	for id := range samples {
		if !strings.Contains(doc.Text, `"operationId": "`+id+`"`) || !strings.Contains(page.Text, `id="`+id+`"`) {
			t.Errorf("operation %s is not in both", id)
		}
	}
	for _, kind := range kinds {
		if !strings.Contains(page.Text, `id="`+kind.anchor+`"`) {
			t.Errorf("problem %s is not on the page", kind.anchor)
		}
	}
	// The page must work without the network and run nothing.
	for _, bad := range []string{"<script", "http://", "https://", "src=", "@import", "url("} {
		rest := strings.ReplaceAll(strings.ReplaceAll(page.Text, "http://localhost:8000", ""), "https://hooks.example.com", "")
		if strings.Contains(rest, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	if !strings.Contains(page.Header.Get("Content-Security-Policy"), "style-src 'sha256-") || !bytes.Contains([]byte(page.Text), []byte(pageCSS)) {
		t.Errorf("policy %q", page.Header.Get("Content-Security-Policy"))
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

func TestAPI_TurnsCallsAwayWhenItHasEnough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantRead, "acme")
	for w.api.server.calls.enter() {
	}
	a := w.call("GET", "/events", acme, nil)
	if p := a.problem(t); p.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, %v", a.Status, a.Header)
	}
	w.api.server.calls.leave()
	if a := w.call("GET", "/events", acme, nil); a.Status != 200 {
		t.Errorf("when one has ended: status %d", a.Status)
	}
}

func TestAPI_OutlastsAPanic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	w.mu.Lock()
	w.post = func(*deliver.Subscription, *signature.Signer) (deliver.Outcome, error) { panic("SECRET INSIDE") }
	w.mu.Unlock()
	a := w.call("POST", "/subscriptions/"+c.ID.String()+"/test", acme, nil)
	if p := a.problem(t); p.Status != 500 || strings.Contains(a.Text, "INSIDE") || !strings.Contains(w.logs.String(), "SECRET INSIDE") {
		t.Errorf("%s; the log: %s", a.Text, w.logs)
	}
	if a := w.call("GET", "/events", acme, nil); a.Status != 200 {
		t.Errorf("the next call: status %d", a.Status)
	}
}
