package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// metrics are the samples of a relay by name and labels, as they are exposed.
func (r *relay) metrics() map[string]float64 {
	r.t.Helper()
	code, body := r.get("/metrics")
	if code != http.StatusOK {
		r.t.Fatalf("/metrics answers %d", code)
	}
	found := make(map[string]float64)
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			r.t.Fatalf("%s: %v", line, err)
		}
		found[line[:at]] = v
	}
	return found
}

func TestRelay_CountsWhatItDoes(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_DELIVER_RETRY_SCHEDULE=0s,50ms,50ms", "RELAY_DELIVER_RETRY_JITTER=0",
		"RELAY_DELIVER_BREAKER_FIRST_PROBE=20ms", "RELAY_DELIVER_BREAKER_MAX_PROBE=50ms")
	s.subscribe("fine", "acme", "sales_order.*")
	s.subscribe("flaky", "globex", "sales_order.created")
	s.subscribe("dead", "initech", "*")
	s.recv.set("flaky", behaviour{status: http.StatusOK, first: http.StatusServiceUnavailable})
	s.recv.set("dead", behaviour{status: http.StatusNotFound})
	r := s.start()
	for _, tenant := range []string{"acme", "globex", "initech"} {
		l := newLedger(s, tenant, 5)
		for k := range l.keys {
			l.add(k, 2) // one created, one confirmed
		}
	}
	ended := func() int { return s.number("SELECT count(*) FROM relay.deliveries") }
	eventually(t, "all deliveries have ended", func() bool { return ended() == 25 })

	m := r.metrics()
	for name, want := range map[string]float64{
		`webhook_deliveries_total{event="sales_order.created",status="delivered",tenant_id="acme"}`:   5,
		`webhook_deliveries_total{event="sales_order.confirmed",status="delivered",tenant_id="acme"}`: 5,
		`webhook_deliveries_total{event="sales_order.created",status="delivered",tenant_id="globex"}`: 5,
		`webhook_deliveries_total{event="sales_order.created",status="dead",tenant_id="initech"}`:     5,
		`webhook_deliveries_total{event="sales_order.confirmed",status="dead",tenant_id="initech"}`:   5,
		`webhook_delivery_duration_seconds_count{event="sales_order.created",tenant_id="acme"}`:       5,
		`webhook_delivery_duration_seconds_count{event="sales_order.created",tenant_id="globex"}`:     10,
		`webhook_delivery_duration_seconds_count{event="sales_order.confirmed",tenant_id="initech"}`:  15,
		`webhook_retries_total{event="sales_order.created",reason="http_5xx",tenant_id="globex"}`:     5,
		`webhook_retries_total{event="sales_order.created",reason="http_4xx",tenant_id="initech"}`:    10,
		`relay_commit_to_delivered_seconds_count`:                                                     15,
		`relay_state{state="streaming"}`:       1,
		`relay_state{state="standby_waiting"}`: 0,
		`relay_events_total`:                   30,
		`relay_events_unmatched_total`:         5,
		`relay_attempts_in_flight`:             0,
		`relay_subscriptions`:                  3,
		`webhook_delivery_duration_seconds_bucket{event="sales_order.created",tenant_id="acme",le="+Inf"}`: 5,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %v), want %v", name, got, ok, want)
		}
	}
	if lag, ok := m["relay_slot_lag_bytes"]; !ok || lag < 0 {
		t.Errorf("relay_slot_lag_bytes is %v (there: %v)", lag, ok)
	}
	for name := range m {
		if strings.HasPrefix(name, "webhook_retries_total") && strings.Contains(name, "acme") {
			t.Errorf("%s: nothing was tried again for acme", name)
		}
	}
	r.terminate()
}

func TestRelay_DeliversForAWriterThatMayOnlyInsert(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	r := s.start()
	role := s.slot + "_writer"
	s.exec(fmt.Sprintf("CREATE ROLE %s LOGIN", role))
	t.Cleanup(func() { s.exec(fmt.Sprintf("DROP OWNED BY %[1]s; DROP ROLE %[1]s", role)) })
	s.exec("GRANT USAGE ON SCHEMA outbox TO " + role)
	s.exec("GRANT INSERT ON outbox.events TO " + role)
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	const payload = `{"payment_id":"p1","invoice_id":"i1","amount":1500.00,"currency":"EUR"}`
	if _, err := conn.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('acme', 'payment', 'i1', 'payment.received', $1)`, payload); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the row arrives", func() bool { return s.recv.count(all.name) == 1 })
	if a := s.recv.arrivals(all.name)[0]; a.data != hash([]byte(payload)) {
		t.Errorf("%s arrived", a.raw)
	}
	if _, err := conn.Exec(t.Context(), "SELECT count(*) FROM outbox.events"); err == nil {
		t.Error("the writer may read the outbox")
	}
	r.terminate()
}
