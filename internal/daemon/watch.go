package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/health"
)

func parseLSN(s string) (cdc.LSN, error) { return pglogrepl.ParseLSN(s) }

// gauges show what is read now and then, or at each scrape from memory.
type gauges struct {
	slotLag     prometheus.Gauge
	parked      prometheus.Gauge
	quarantined prometheus.Gauge
	replays     prometheus.Gauge
	budget      budgetGauges
}

func newGauges(d *Daemon) *gauges {
	g := &gauges{
		slotLag: prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_slot_lag_bytes",
			Help: "WAL that PostgreSQL keeps for our slot."}),
		parked: prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_parked_deliveries",
			Help: "Deliveries that wait in the table."}),
		quarantined: prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_quarantined_rows",
			Help: "Rows in quarantine."}),
		replays: prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_replays_running",
			Help: "Replays that are not over."}),
	}
	d.registry.MustRegister(g.slotLag, g.parked, g.quarantined, g.replays)
	g.budget = newBudgetGauges(d.registry)
	fromLoad := func(name, help string, f func(l *leader) float64) {
		d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if l := d.current.Load(); l != nil {
				return f(l)
			}
			return 0
		}))
	}
	fromLoad("relay_window_deliveries", "Deliveries that are in memory only.", func(l *leader) float64 { return float64(l.dispatcher.Load().Window) })
	fromLoad("relay_window_bytes", "Bodies of deliveries that are in memory only.", func(l *leader) float64 { return float64(l.dispatcher.Load().WindowBytes) })
	fromLoad("relay_attempts_in_flight", "Attempts on the wire.", func(l *leader) float64 { return float64(l.dispatcher.Load().InFlight) })
	fromLoad("relay_endpoints_open", "Endpoints that are given up for a while, one delivery at a time trying them.", func(l *leader) float64 { return float64(l.dispatcher.Open()) })
	fromLoad("relay_endpoints_failing", "Endpoints that have taken nothing since they first failed.", func(l *leader) float64 { return float64(l.dispatcher.Failing()) })
	fromLoad("relay_outstanding_transactions", "Transactions that are not wholly recorded.", func(l *leader) float64 { return float64(l.watermark.Outstanding()) })
	fromLoad("relay_subscriptions", "Subscriptions of all tenants.", func(l *leader) float64 { return float64(l.dir.Len()) })
	fromLoad("relay_subscriptions_locked", "Subscriptions for which nothing is sent, because their secret or filter cannot be read.", func(l *leader) float64 { return float64(l.dir.Locked()) })
	fromLoad("relay_epoch", "Epoch of this leader.", func(l *leader) float64 { return float64(l.state.Epoch) })
	return g
}

// auditMetrics count what the audit and the rescue find.
type auditMetrics struct{ rows, missing, vanished, rescued prometheus.Counter }

func newAuditMetrics(d *Daemon) *auditMetrics {
	m := &auditMetrics{
		rows: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_audit_rows_total",
			Help: "Rows of the table that the audit has compared with the stream."}),
		missing: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_audit_missing_total",
			Help: "Committed rows that did not come through the stream, delivered from the table."}),
		vanished: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_audit_vanished_total",
			Help: "Rows that came through the stream and were gone from the table when the audit looked."}),
		rescued: prometheus.NewCounter(prometheus.CounterOpts{Name: "relay_rescued_total",
			Help: "Rows that were read from the table after the loss of the slot."}),
	}
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "relay_audit_age_seconds",
		Help: "Time since the last marker was found in order, or since this leader began; 0 while not leading."}, func() float64 {
		l := d.current.Load()
		if l == nil || l.auditedAt.Load() == 0 {
			return 0
		}
		return time.Since(time.Unix(0, l.auditedAt.Load())).Seconds()
	})
	d.registry.MustRegister(m.rows, m.missing, m.vanished, m.rescued, age)
	return m
}

// Intervals of watch. Rows that are committed while the publication is not what it must be are missing from the
// stream until that is seen, and each of them has to be found by the audit; where the table has no transaction ids,
// nothing finds them. So the publication is looked at as often as one short statement allows.
const (
	tablesEvery      = 10 * time.Second
	publicationEvery = 10 * time.Second
)

// watch looks at the slot and at the publication from time to time, and notices
// a recorded position that does not move.
func (l *leader) watch(ctx context.Context) error {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	var tablesAt, budgetAt, publicationAt, rightsAt time.Time
	var budget walBudget
	defer l.d.gauges.budget.reset()
	for {
		now := time.Now()
		l.noteMovement(now)
		l.lookAtDecoding()
		l.lookAtRecording()
		l.lookAtQuarantine(now)
		if now.Sub(rightsAt) >= rightsEvery {
			rightsAt = now
			l.lookAtRights(ctx)
			l.lookAtSource(ctx)
		}
		if now.Sub(tablesAt) >= tablesEvery {
			tablesAt = now
			l.lookAtTables(ctx)
		}
		if now.Sub(budgetAt) >= budget.every() {
			budgetAt = now
			l.lookAtBudget(ctx, &budget)
		}
		if now.Sub(publicationAt) >= publicationEvery {
			publicationAt = now
			if err := l.lookAtPublication(ctx); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
	}
}

// lookAtPublication makes sure that the stream shows the outbox. One that is there
// and publishes something else is repaired in place, if that may be done without
// asking.
func (l *leader) lookAtPublication(ctx context.Context) error {
	err := l.d.publication().Check(ctx, l.d.pool)
	switch cdc.Classify(err) {
	case health.PublicationMissing:
		return err
	case health.PublicationIncomplete:
		if l.d.cfg().CDC.Recovery == config.RecoveryManual {
			return err
		}
		err = l.d.repairPublication(ctx, l.state.Slot, err)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		l.trouble(health.PartPublication, err)
	default:
		l.works(health.PartPublication)
	}
	return nil
}

// lookAtTables reads what only the database knows.
func (l *leader) lookAtTables(ctx context.Context) {
	const q = `SELECT count(*)::float8 FROM relay.quarantine`
	var quarantined float64
	if err := l.d.pool.QueryRow(ctx, q).Scan(&quarantined); err != nil {
		if ctx.Err() == nil {
			l.trouble(health.PartBacklog, fmt.Errorf("count quarantined rows: %w", err))
		}
		return
	}
	l.works(health.PartBacklog)
	l.d.gauges.quarantined.Set(quarantined)
	l.d.gauges.parked.Set(float64(l.dispatcher.Parked()))
}

// lookAtQuarantine notices that more rows than now and then go into quarantine: then a writer, the catalog or the mapping is wrong.
func (l *leader) lookAtQuarantine(now time.Time) {
	share := l.d.cfg().Outbox.QuarantineShare
	most, above := l.intake.share.Above(now, share)
	if !above {
		l.d.board.Clear(health.PartQuarantine)
		return
	}
	l.d.board.Raise(health.PartQuarantine, health.Condition{State: health.Degraded,
		Sentence: fmt.Sprintf("more than %g %% of the rows of the last five minutes (outbox.quarantine_share) went to quarantine, most of them because of %s", 100*share, most),
		Remedy:   "`relay quarantine list` tells why: mend the writer or the catalog, then run `relay quarantine retry --all`"})
}

// noteMovement remembers when the recorded position last moved, or nothing
// waited.
func (l *leader) noteMovement(now time.Time) {
	pos := l.watermark.Position()
	if pos != l.lastPosition || l.watermark.Outstanding() == 0 {
		l.lastPosition = pos
		l.movedAt.Store(now.UnixNano())
	}
}

// stalled is how long the recorded position has not moved although events wait.
func (l *leader) stalled() time.Duration {
	at := l.movedAt.Load()
	if at == 0 {
		return 0
	}
	return time.Since(time.Unix(0, at))
}
