package deliver

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetrics_CountWhatHappened(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays, o.HandoverAfter = []time.Duration{0, time.Millisecond, time.Millisecond}, time.Minute
	})
	dead, again := w.commit("k1"), w.commit("k2")
	w.sink.on("a.test", only(dead[0], failing))
	l.take(dead...)
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 })
	w.sink.on("a.test", only(again[0], failFirst(1)))
	l.take(again...)
	l.send("k3")
	eventually(t, "both are delivered", func() bool { return w.ended(StatusDelivered) == 2 })
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	l.send("k4", "k4")
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", id)
	l.refresh(id)
	close(release)
	l.quiet()
	want := `
# HELP webhook_deliveries_total Deliveries that ended, by how.
# TYPE webhook_deliveries_total counter
webhook_deliveries_total{event="payment.received",status="cancelled",tenant_id="acme"} 1
webhook_deliveries_total{event="payment.received",status="dead",tenant_id="acme"} 1
webhook_deliveries_total{event="payment.received",status="delivered",tenant_id="acme"} 3
# HELP webhook_retries_total Failed attempts that will be tried again.
# TYPE webhook_retries_total counter
webhook_retries_total{event="payment.received",reason="http_5xx",tenant_id="acme"} 3
`
	if err := testutil.GatherAndCompare(l.registry, strings.NewReader(want), "webhook_deliveries_total", "webhook_retries_total"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(l.metrics.duration); n != 1 {
		t.Errorf("%d series of durations, want 1", n)
	}
}

func TestMetrics_CapTheTenants(t *testing.T) {
	t.Parallel()
	m := NewMetrics(prometheus.NewRegistry(), 2)
	if a, b, c, again := m.tenant("a"), m.tenant("b"), m.tenant("c"), m.tenant("a"); a != "a" || b != "b" || c != otherTenant || again != "a" {
		t.Errorf("labels %q %q %q %q", a, b, c, again)
	}
	m.SetTenantCap(3)
	if c, d := m.tenant("c"), m.tenant("d"); c != "c" || d != otherTenant {
		t.Errorf("after the cap was raised: labels %q %q", c, d)
	}
	m.SetTenantCap(0)
	if got := m.tenant("a"); got != "" {
		t.Errorf("without tenants the label is %q", got)
	}
}
