package deliver

import (
	"fmt"
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

// Whatever tenants and event types there are, a scrape stays small, and nothing goes uncounted.
func TestMetrics_BoundTheirSeries(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg, 100)
	const tenants, types = 10_000, 100
	reasons := []Reason{ReasonTimeout, ReasonDNS, ReasonConnect, ReasonTLS, ReasonBlocked, ReasonRedirect, ReasonHTTP408, ReasonHTTP429,
		ReasonHTTP4xx, ReasonHTTP5xx, ReasonBody, ReasonOther}
	f := &Flight{}
	counted := 0
	for tenant := range tenants {
		f.TenantID = fmt.Sprint("tenant-", tenant)
		for typ := range types {
			if tenant >= 150 && (tenant+typ)%100 != 0 { // the rest of them is "other" anyway
				continue
			}
			f.Type = fmt.Sprint("order.happened_", typ)
			for _, s := range []Status{StatusDelivered, StatusDead, StatusCancelled} {
				m.ended(f, s, time.Now())
			}
			for _, r := range reasons {
				m.retry(f, r)
			}
			m.attempt(f, Outcome{Duration: time.Second})
			m.Suppressed(f.Type)
			counted++
		}
		for _, change := range []string{changeFailing, changeOpened, changeWarned, changeDisabled, changeRecovered} {
			m.endpoint(change, f.TenantID)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series, delivered, attempts := 0, 0.0, uint64(0)
	named := make(map[string]bool)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if h := metric.GetHistogram(); h != nil {
				series += len(h.GetBucket()) + 3 // +Inf, sum and count
				if family.GetName() == "relay_attempt_duration_seconds" {
					attempts += h.GetSampleCount()
				}
				continue
			}
			series++
			for _, l := range metric.GetLabel() {
				if l.GetName() == "tenant_id" {
					named[l.GetValue()] = true
				}
				if family.GetName() == "webhook_deliveries_total" && l.GetValue() == "delivered" {
					delivered += metric.GetCounter().GetValue()
				}
			}
		}
	}
	// The daemon has some 200 others, which have no label of a tenant or an event.
	if series > 9_600 {
		t.Errorf("%d series", series)
	}
	if int(delivered) != counted || int(attempts) != counted {
		t.Errorf("%v deliveries and %d attempts are counted, want %d", delivered, attempts, counted)
	}
	if !named[otherTenant] || !named["tenant-0"] || len(named) > 101 {
		t.Errorf("%d tenants have a label", len(named))
	}
}

func TestMetrics_CountWithoutAllocating(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry(), 1)
	named, other := &Flight{TenantID: "a", Type: "order.made"}, &Flight{TenantID: "b", Type: "order.made"}
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() {
		for _, f := range []*Flight{named, other} {
			m.attempt(f, Outcome{Duration: time.Second})
			m.retry(f, ReasonTimeout)
			m.ended(f, StatusDelivered, now)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// A commit time that is absurd is not taken for a latency.
func TestMetrics_IgnoreCommitTimesThatAreAbsurd(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg, 10)
	now := time.Now()
	for _, at := range []time.Time{{}, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), now.Add(time.Hour), now.Add(-31 * 24 * time.Hour)} {
		m.ended(&Flight{CommitTime: at}, StatusDelivered, now)
	}
	for _, at := range []time.Time{now, now.Add(-29 * 24 * time.Hour), now.Add(time.Second)} {
		m.ended(&Flight{CommitTime: at}, StatusDelivered, now)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "relay_commit_to_delivered_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if n, sum := h.GetSampleCount(), h.GetSampleSum(); n != 3 || sum > 30*86400 {
			t.Errorf("%d latencies of %g s in all, want 3", n, sum)
		}
	}
	if n := testutil.ToFloat64(m.undated); n != 4 {
		t.Errorf("%g are ignored, want 4", n)
	}
}
