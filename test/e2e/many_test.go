package e2e_test

import (
	"net/http"
	"testing"
)

// A tenant whose endpoint is away has tens of thousands of deliveries waiting: they are rows, and neither the slot nor
// another tenant waits for them.
func TestRelay_ParksVeryManyForOneTenantAndServesTheOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("away", "bulk", "*")
	s.recv.set("away", behaviour{status: http.StatusServiceUnavailable})
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start()
	const rows = 40_000
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'bulk', 'sales_order', g::text, 'sales_order.cancelled', json_build_object('order_id', g::text, 'order_number', g::text)
		  FROM generate_series(1, $1::int) g`, rows)
	for key := range 10 {
		l.add(key, 5)
	}
	head := s.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
	l.settle(patience, all)
	eventually(t, "all that cannot be delivered is parked", func() bool { return s.number("SELECT count(*) FROM relay.parked") == rows })
	eventually(t, "the slot is past it", func() bool { return s.confirmed() >= head })
	for key := range 10 {
		l.add(key, 5)
	}
	l.settle(patience, all)
	l.check(nil, all)
	r.terminate()
}

// Health and metrics are on this machine's own address unless somebody says otherwise, or on the one that is set for
// them, and nothing else is: no profiles, and nothing on the other address.
func TestRelay_ServesHealthAndMetricsWhereItIsToldAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	r := s.start("RELAY_HTTP_LISTEN=localhost:0", "RELAY_HTTP_OPS_LISTEN=127.0.0.1:0")
	for _, path := range []string{"/healthz", "/readyz", "/status", "/metrics"} {
		if code := r.httpCode(path); code != http.StatusOK {
			t.Errorf("%s answers %d", path, code)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/"} {
		if code := r.httpCode(path); code == http.StatusOK {
			t.Errorf("%s answers %d", path, code)
		}
	}
	r.terminate()
}
