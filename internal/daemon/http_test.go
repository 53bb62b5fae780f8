package daemon_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/api"
	"github.com/outbox-relay/relay/internal/token"
)

// One tenant may have receivers without TLS and another may not, through the API and by rows of other hands alike.
func TestSubscribe_WithoutTLSIsForNamedTenants(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_EGRESS_REQUIRE_HTTPS=true", "RELAY_EGRESS_HTTP_TENANTS=legacy,old")
	rec := newReceiver(t)
	d := r.start()
	for tenant, want := range map[string]int{"legacy": http.StatusCreated, "acme": http.StatusUnprocessableEntity} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+d.Addr()+api.Prefix+"/subscriptions",
			strings.NewReader(`{"url":"`+rec.URL+`","event":"*","secret":"`+testSecret+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+r.tokenOf(token.RoleTenantWrite, tenant))
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("tenant %s: status %d, want %d", tenant, resp.StatusCode, want)
		}
	}
	r.subscribe("acme", rec.URL, "*")
	r.order("acme", "a", 1)
	r.order("legacy", "l", 1)
	r.eventually("the one arrives", func() bool { return len(rec.arrivals()) == 1 })
	r.eventually("the other is held back", func() bool {
		return r.number("SELECT count(*) FROM relay.parked WHERE last_error LIKE 'blocked%'") == 1
	})
	if a := rec.arrivals(); len(a) != 1 || !strings.Contains(a[0].Body, `"tenant_id":"legacy"`) {
		t.Errorf("arrived: %+v", a)
	}
}
