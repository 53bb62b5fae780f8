package deliver

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the counters of delivery. The tenant label is capped: the first
// tenants keep their names, the rest share one.
type Metrics struct {
	deliveries *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	attempts   *prometheus.HistogramVec
	retries    *prometheus.CounterVec
	latency    prometheus.Histogram
	undated    prometheus.Counter
	moved      prometheus.Counter
	unproven   prometheus.Counter
	suppressed *prometheus.CounterVec
	quarantine *prometheus.CounterVec
	events     prometheus.Counter
	unmatched  prometheus.Counter
	disables   *prometheus.CounterVec
	warnings   prometheus.Counter
	endpoints  *prometheus.CounterVec
	foreign    prometheus.Counter
	batches    prometheus.Counter
	outcomes   prometheus.Counter

	mu      sync.RWMutex
	cap     int
	tenants map[string]string

	combinations map[combination]combination // what each event and label of a tenant is counted under
	combined     int                         // that asked for one of their own
	looseEvents  int                         // events that asked for one with other tenants
	timedEvents  map[string]string
}

// otherTenant stands for all tenants above the cap.
const otherTenant = "other"

// NewMetrics registers the metrics. tenants is how many tenants appear by name;
// 0 leaves the label empty.
func NewMetrics(reg prometheus.Registerer, tenants int) *Metrics {
	fine := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30}
	m := &Metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "webhook_deliveries_total",
			Help: "Deliveries that ended, by how."}, []string{"event", "status", "tenant_id"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "webhook_delivery_duration_seconds",
			Help: "Duration of one attempt, in few buckets.", Buckets: []float64{.1, .5, 2.5, 10, 30}}, []string{"event", "tenant_id"}),
		attempts: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "relay_attempt_duration_seconds",
			Help: "Duration of one attempt, of all tenants.", Buckets: fine}, []string{"event"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "webhook_retries_total",
			Help: "Failed attempts that will be tried again."}, []string{"event", "reason", "tenant_id"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "relay_commit_to_delivered_seconds",
			Help:    "Time from the commit of a row to the endpoint's answer that took it.",
			Buckets: append([]float64{.0005}, append(fine, 60, 300, 1800, 7200, 86400)...)}),
		moved: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_moved_rows_total",
			Help: "Rows that an UPDATE has moved to another partition, which are not sent again."}),
		unproven: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_unproven_rows_total",
			Help: "Rows that name another transaction than their own: sent, but beyond the proof of the audit and of a rescue."}),
		undated: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_commit_times_ignored_total",
			Help: "Deliveries that are not in relay_commit_to_delivered_seconds, because their commit time lies 30 days back or in the future."}),
		suppressed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "relay_events_suppressed_total",
			Help: "Valid rows that say nothing, such as an update without changes."}, []string{"event"}),
		quarantine: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "relay_quarantined_total",
			Help: "Rows that could not become events."}, []string{"reason"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_events_total",
			Help: "Rows that became events."}),
		unmatched: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_events_unmatched_total",
			Help: "Events that no subscription of their tenant matches."}),
		disables: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "relay_endpoints_disabled_total",
			Help: "Subscriptions that the relay disabled, by why."}, []string{"reason"}),
		endpoints: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "relay_endpoint_changes_total",
			Help: "Changes of the state of endpoints: failing, circuit_opened, warned, disabled, recovered."}, []string{"change", "tenant_id"}),
		warnings: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_endpoint_warnings_total",
			Help: "Warnings that an endpoint will be disabled if it goes on failing."}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_foreign_rows_total",
			Help: "Rows of other tables that the publication brings."}),
		batches: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_record_batches_total",
			Help: "Recording batches that were committed."}),
		outcomes: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_recorded_total",
			Help: "Outcomes, parked rows and other records that were committed."}),
		cap: tenants, tenants: make(map[string]string),
		combinations: make(map[combination]combination), timedEvents: make(map[string]string),
	}
	reg.MustRegister(m.deliveries, m.duration, m.attempts, m.retries, m.latency, m.undated, m.moved, m.unproven, m.suppressed, m.quarantine, m.events,
		m.unmatched, m.foreign, m.batches, m.outcomes, m.disables, m.warnings, m.endpoints)
	for _, reason := range []string{DisabledGone, DisabledFailing} {
		m.disables.WithLabelValues(reason) // 0 from the beginning, so that its first rise is seen
	}
	return m
}

// SetTenantCap changes how many tenants appear by name; those that already do
// keep theirs.
func (m *Metrics) SetTenantCap(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cap = n
	for t, label := range m.tenants {
		if label != t {
			delete(m.tenants, t)
		}
	}
}

// maxKnownTenants bounds the names that are remembered as "other".
const maxKnownTenants = 10000

func (m *Metrics) tenant(t string) string {
	m.mu.RLock()
	label, ok := m.tenants[t]
	limit := m.cap
	m.mu.RUnlock()
	switch {
	case limit == 0:
		return ""
	case ok:
		return label
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if label, ok = m.tenants[t]; ok {
		return label
	}
	label = otherTenant
	if len(m.tenants) < m.cap {
		label = t
	}
	if len(m.tenants) < maxKnownTenants {
		m.tenants[t] = label
	}
	return label
}

func (m *Metrics) attempt(f *Flight, o Outcome) {
	took, c := o.Duration.Seconds(), m.labels(f.Type, f.TenantID)
	m.duration.WithLabelValues(c.event, c.tenant).Observe(took)
	m.attempts.WithLabelValues(m.timed(f.Type)).Observe(took)
}

func (m *Metrics) ended(f *Flight, s Status, now time.Time) {
	c := m.labels(f.Type, f.TenantID)
	m.deliveries.WithLabelValues(c.event, statusLabel(s), c.tenant).Inc()
	if s != StatusDelivered || f.Replay != 0 {
		return
	}
	took := now.Sub(f.CommitTime)
	if took > longestLatency || took < -clockSlack {
		m.undated.Inc()
		return
	}
	m.latency.Observe(max(took.Seconds(), 0))
}

// A commit time is believed when it is not longer ago than longestLatency and not further ahead than clockSlack. A replication
// origin may give its transactions any time, or none, which is the first of January 2000.
const (
	longestLatency = 30 * 24 * time.Hour
	clockSlack     = 5 * time.Minute
)

func (m *Metrics) retry(f *Flight, r Reason) {
	c := m.labels(f.Type, f.TenantID)
	m.retries.WithLabelValues(c.event, string(r), c.tenant).Inc()
}

func (m *Metrics) disabled(reason string) { m.disables.WithLabelValues(reason).Inc() }

func (m *Metrics) endpoint(change, tenant string) {
	m.endpoints.WithLabelValues(change, m.tenant(tenant)).Inc()
}

func (m *Metrics) warned() { m.warnings.Inc() }

func (m *Metrics) batch(n int) {
	m.batches.Inc()
	m.outcomes.Add(float64(n))
}

// Event counts a row that became an event; matched tells whether anybody wants it.
func (m *Metrics) Event(matched bool) {
	m.events.Inc()
	if !matched {
		m.unmatched.Inc()
	}
}

// Suppressed counts a row that says nothing.
func (m *Metrics) Suppressed(eventType string) { m.suppressed.WithLabelValues(eventType).Inc() }

// Moved counts a row that came again because an UPDATE has moved it to another partition.
func (m *Metrics) Moved() { m.moved.Inc() }

// Unproven counts a row that names another transaction than the one that brings it, and that was never here before.
func (m *Metrics) Unproven() { m.unproven.Inc() }

// Foreign counts a row of another table than the outbox.
func (m *Metrics) Foreign() { m.foreign.Inc() }

// Quarantined counts a row that could not become an event.
func (m *Metrics) Quarantined(reason string) { m.quarantine.WithLabelValues(reason).Inc() }
