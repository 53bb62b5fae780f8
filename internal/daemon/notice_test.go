package daemon_test

import (
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/api"
)

// A receiver that is down shows in the log, without filling it, in the metrics by tenant, and in what the tenant can read.
func TestNotices_TellOfDeathsAndOfEndpointsEverywhere(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_DELIVER_RETRY_SCHEDULE=0s,50ms", "RELAY_DELIVER_RETRY_JITTER=0", "RELAY_DELIVER_BREAKER_FIRST_PROBE=20ms",
		"RELAY_DELIVER_BREAKER_MAX_PROBE=50ms")
	rec := newReceiver(t)
	rec.setAnswer(func(arrival, int) int { return 500 })
	sub := r.subscribe("acme", rec.URL, "*")
	d := r.start()
	const deaths = 30
	for i := range deaths {
		r.order("acme", "o"+strings.Repeat("x", i), i)
	}
	r.eventuallyWithin(120e9, "they die", func() bool { return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DEAD'") == deaths })
	rec.setAnswer(func(arrival, int) int { return 200 })
	r.order("acme", "fine", 1)
	noted := func(action string) int {
		return r.number("SELECT count(*) FROM relay.changes WHERE actor = 'relay' AND tenant_id = 'acme' AND target = $1 AND action = $2", sub, action)
	}
	r.eventually("it recovers", func() bool { return noted("endpoint.recovered") > 0 })
	for _, action := range []string{"endpoint.failing", "delivery.dead"} {
		if n := noted(action); n == 0 || n > deaths/2 {
			t.Errorf("%d lines %s in the record of changes", n, action)
		}
	}
	if n := d.log.Count(`level=WARN msg="delivery died"`); n == 0 || n >= deaths {
		t.Errorf("%d of %d deaths are logged one by one, want some and not all", n, deaths)
	}
	for _, want := range []string{`level=WARN msg="circuit opened`, `msg="endpoint recovered"`} {
		if d.log.Count(want) == 0 {
			t.Errorf("the log lacks %s", want)
		}
	}
	for _, change := range []string{"failing", "circuit_opened", "recovered"} {
		if d.metric(t, `relay_endpoint_changes_total{change="`+change+`",tenant_id="acme"}`) == 0 {
			t.Errorf("no change %s is counted", change)
		}
	}
	var list struct{ Items []api.Change }
	r.get(d, r.tenantToken("acme"), "/changes", &list)
	found := false
	for _, c := range list.Items {
		found = found || c.Action == "delivery.dead" && c.Target == sub && strings.Contains(string(c.After), `"count"`)
	}
	if !found {
		t.Errorf("/changes tells of no death: %+v", list.Items)
	}
}
