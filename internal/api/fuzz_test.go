package api

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/token"
)

// FuzzRouter makes calls of all kinds with a good token: whatever the path, query, header and body are, the answer is one of the
// document's, nothing of another tenant's is in it, and nothing is changed of what is another tenant's.
func FuzzRouter(f *testing.F) {
	w := newWorld(f)
	acme, globex := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantWrite, "globex")
	own, foreign := w.subscribe(acme), w.subscribe(globex)
	for _, r := range w.routes() {
		path := strings.ReplaceAll(strings.ReplaceAll(r.path, "{id}", own.ID.String()), "{type}", "payment.received")
		f.Add(r.method, Prefix+path, "", samples[r.op.OperationID].body, "application/json")
		f.Add(r.method, Prefix+strings.ReplaceAll(r.path, "{id}", foreign.ID.String()), "limit=3", "{}", "application/json; charset=utf-8")
	}
	f.Add("GET", Prefix+"/deliveries", "status=DEAD&from=2026-01-31T15:04:05Z&cursor=AAAA", "", "")
	f.Add("OPTIONS", "//api/v1/../v1/tenant/webhooks/subscriptions/%2e%2e", "a=%zz;b", "\xff", "text/plain")
	f.Add("GET", "/docs", "", "", "")
	f.Add("GET", "/openapi.json", "x=1", "", "")
	f.Fuzz(func(t *testing.T, method, path, query, body, kind string) {
		u := &url.URL{Scheme: "http", Host: "relay.test", Path: path, RawQuery: query}
		if again, err := url.ParseRequestURI(u.RequestURI()); err != nil || again.Path != path || !strings.HasPrefix(path, "/") {
			return // a server would not let it come here
		}
		req, err := http.NewRequestWithContext(t.Context(), method, u.String(), strings.NewReader(body))
		if err != nil {
			return
		}
		req.RequestURI, req.RemoteAddr = u.RequestURI(), "192.0.2.1:1234"
		req.Header.Set("Authorization", "Bearer "+acme)
		if kind != "" {
			req.Header.Set("Content-Type", kind)
		}
		rec := httptest.NewRecorder()
		w.api.ServeHTTP(rec, req)
		text := rec.Body.String()
		if rec.Code >= 500 && rec.Code != http.StatusServiceUnavailable {
			t.Errorf("%s %q?%q with %q: status %d, %s\n%s", method, path, query, body, rec.Code, text, w.logs)
		}
		if rec.Code >= 400 && rec.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %q: status %d with %s", method, path, rec.Code, rec.Header().Get("Content-Type"))
		}
		// It may be in the answer only because the call named it.
		if id := foreign.ID.String(); strings.Contains(text, id) && !strings.Contains(path+query+body, id) {
			t.Errorf("%s %q shows what is another tenant's: %s", method, path, text)
		}
		if strings.Contains(text, foreign.Secret) || strings.Contains(text, "goroutine ") {
			t.Errorf("%s %q shows our inside: %s", method, path, text)
		}
		if !slices.Contains([]string{"GET", "HEAD", ""}, method) {
			var n int
			if err := w.db.QueryRow(t.Context(), "SELECT count(*) FROM relay.subscriptions WHERE id = $1 AND updated_at = created_at AND active", foreign.ID).
				Scan(&n); err != nil || n != 1 {
				t.Errorf("%s %q with %q has changed what is another tenant's: %v", method, path, body, err)
			}
		}
	})
}
