package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
	"github.com/outbox-relay/relay/test/output"
)

func TestAPI_AnswersUnknownPathsAndMethodsAsProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, path := range []string{"//api", "/", "/nothing", "/subscriptions/x/y/z", "//api/v2/tenant/webhooks/subscriptions", "//api/v1/tenant"} {
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
	w.limit(Limits{TokenRate: 0.0001}) // none comes back while this test runs
	var a answer
	for range 2 {
		a = w.call("GET", "/events", acme, nil)
	}
	if a.Status != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" || a.Header.Get("RateLimit-Policy") != `"token";q=1;w=10000` ||
		!strings.HasPrefix(a.Header.Get("RateLimit"), `"token";r=0;t=`) {
		t.Errorf("status %d, %v", a.Status, a.Header)
	}
	if a := w.call("GET", "/events", other, nil); a.Status != 200 || !strings.HasPrefix(a.Header.Get("RateLimit"), `"token";r=0;t=`) {
		t.Errorf("another token: status %d, %v", a.Status, a.Header)
	}
	w.limit(Limits{AddressRate: 0.0001})
	for range 2 {
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
	for deadline := time.Now().Add(time.Minute); blocked() < maxTurns && time.Now().Before(deadline); {
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

// Were an answer to show what somebody made known as a secret, every test here would fail.
func TestWorld_NoticesASecretInAnAnswer(t *testing.T) {
	t.Parallel()
	output.MustNotice(t, func() {
		w := newWorld(t)
		acme := w.token(token.RoleTenantWrite, "acme")
		w.call("POST", "/subscriptions", acme, `{"url":"https://h.example.com/canary-7","event":"*","secret":"canary-7"}`)
	})
}

func TestAround_TakesMediaTypesInAnyCaseAndNoCoding(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	body := map[string]any{"url": "https://hooks.example.com/x", "event": "*"}
	for _, kind := range []string{"Application/Json", "APPLICATION/JSON; charset=UTF-8"} {
		if a := w.call("POST", "/subscriptions", acme, body, header{"Content-Type", kind}); a.Status != http.StatusCreated {
			t.Errorf("%s: status %d, %s", kind, a.Status, a.Text)
		}
	}
	a := w.call("POST", "/subscriptions", acme, body, header{"Content-Encoding", "gzip"})
	if a.Status != http.StatusUnsupportedMediaType || !strings.Contains(a.Text, "without Content-Encoding") || a.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("gzip: status %d, %s", a.Status, a.Text)
	}
	if a := w.call("GET", "//", "", nil); a.Status != http.StatusOK || !strings.Contains(a.Text, "/docs") || !strings.Contains(a.Text, "/openapi.json") {
		t.Errorf("/: status %d, %s", a.Status, a.Text)
	}
}

func TestProblem_ATimeThatCannotBeReadIsExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantRead, "acme")
	a := w.call("GET", "/deliveries?from=2026-11-01T00:00:00+02:00", acme, nil)
	if a.Status != http.StatusUnprocessableEntity || !strings.Contains(a.Text, "is written %2B") || strings.Contains(a.Text, "2006-01-02") {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if a := w.call("GET", "/deliveries?from=2026-11-01T00:00:00%2B02:00", acme, nil); a.Status != http.StatusOK {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
}
