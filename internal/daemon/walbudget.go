package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/health"
)

// Shares of the budget at which the levels begin, and how far below that they end:
// without a distance, a slot at the edge would change them at each look.
const (
	budgetHigh  = 0.5
	budgetFull  = 0.8
	budgetSlack = 0.1
)

// derivedBudget is the share of max_slot_wal_keep_size that is the budget when
// none is set.
const derivedBudget = 0.8

// lossWindow is the time over which the growth of what the slot holds is reckoned.
// The slot moves in jumps, each 15 s on a quiet server.
const lossWindow = time.Minute

// slotReading is what PostgreSQL says of our slot at one moment.
type slotReading struct {
	at     time.Time
	held   int64  // WAL that is kept for it
	safe   *int64 // WAL that can be written before it may be lost, also negative; nil without a limit
	keep   int64  // max_slot_wal_keep_size, -1 without
	status string
}

// walBudget decides how much pressure the WAL that the slot holds puts on
// deliveries. It does no I/O.
type walBudget struct {
	level  deliver.Pressure
	recent []slotReading // of the last lossWindow, oldest first
}

// budget is how much WAL the slot may hold, 0 for any amount.
func (r slotReading) budget(configured int64) int64 {
	if configured > 0 || r.keep <= 0 {
		return configured
	}
	return int64(float64(r.keep) * derivedBudget)
}

// take notes a reading and returns the level that holds now.
func (b *walBudget) take(r slotReading, configured int64) deliver.Pressure {
	b.recent = append(b.recent, r)
	for len(b.recent) > 2 && r.at.Sub(b.recent[1].at) >= lossWindow {
		b.recent = b.recent[1:]
	}
	share := 0.0
	if budget := r.budget(configured); budget > 0 {
		share = float64(r.held) / float64(budget)
	}
	level := deliver.PressureNone
	switch {
	case r.status == "unreserved" || r.status == "lost": // the next checkpoint may end it
		level = deliver.PressureFull
	case share >= budgetFull || b.level == deliver.PressureFull && share >= budgetFull-budgetSlack:
		level = deliver.PressureFull
	case share >= budgetHigh || b.level >= deliver.PressureHigh && share >= budgetHigh-budgetSlack:
		level = deliver.PressureHigh
	}
	b.level = level
	return level
}

// secondsToLoss is when the slot may be lost if what it holds goes on growing as
// in the last lossWindow: never, when it does not grow or there is no limit.
func (b *walBudget) secondsToLoss() float64 {
	if len(b.recent) == 0 {
		return math.Inf(1)
	}
	first, last := b.recent[0], b.recent[len(b.recent)-1]
	switch {
	case last.status == "lost":
		return 0
	case last.safe == nil:
		return math.Inf(1)
	}
	grown, took := float64(last.held-first.held), last.at.Sub(first.at).Seconds()
	if grown <= 0 || took <= 0 {
		return math.Inf(1)
	}
	return float64(max(*last.safe, 0)) / (grown / took)
}

// Intervals between two looks at the WAL that the slot holds.
const (
	budgetEvery        = 10 * time.Second
	budgetEveryPressed = time.Second
)

func (b *walBudget) every() time.Duration {
	if b.level > deliver.PressureNone {
		return budgetEveryPressed
	}
	return budgetEvery
}

// budgetGauges show the budget of the slot.
type budgetGauges struct{ level, loss prometheus.Gauge }

func newBudgetGauges(reg prometheus.Registerer) budgetGauges {
	g := budgetGauges{
		level: prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_wal_budget_level",
			Help: "0: WAL is within its budget; 1: half of it is used; 2: four fifths are."}),
		loss: prometheus.NewGauge(prometheus.GaugeOpts{Name: "relay_slot_loss_seconds",
			Help: "Seconds until the slot may be lost, as what it holds grows now; +Inf when it does not grow or has no limit."}),
	}
	reg.MustRegister(g.level, g.loss)
	g.reset()
	return g
}

func (g budgetGauges) reset() {
	g.level.Set(0)
	g.loss.Set(math.Inf(1))
}

// lookAtBudget reads what the slot holds and passes the pressure on.
func (l *leader) lookAtBudget(ctx context.Context, b *walBudget) {
	const q = `
SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, safe_wal_size, coalesce(wal_status, ''),
       pg_size_bytes(current_setting('max_slot_wal_keep_size'))
  FROM pg_replication_slots WHERE slot_name = $1`
	r := slotReading{at: time.Now()}
	if err := l.d.pool.QueryRow(ctx, q, l.state.Slot).Scan(&r.held, &r.safe, &r.status, &r.keep); err != nil {
		if ctx.Err() == nil {
			l.trouble(health.PartBudget, fmt.Errorf("read what slot %s holds: %w", l.state.Slot, err))
		}
		return
	}
	l.works(health.PartBudget)
	was, configured := b.level, int64(l.d.cfg().CDC.WALBudget) // at most 64 TiB
	level := b.take(r, configured)
	l.d.gauges.slotLag.Set(float64(r.held))
	l.d.gauges.budget.level.Set(float64(level))
	l.d.gauges.budget.loss.Set(b.secondsToLoss())
	held := &WALStatus{Held: r.held, Budget: r.budget(configured), Level: int(level)}
	if s := b.secondsToLoss(); !math.IsInf(s, 1) {
		held.SecondsToLoss = &s
	}
	l.wal.Store(held)
	if level == was {
		return
	}
	l.dispatcher.SetPressure(level)
	l.pressed.Store(level > deliver.PressureNone)
	severity := slog.LevelInfo
	if level > was {
		severity = slog.LevelWarn
	}
	l.log.Log(ctx, severity, budgetMessage(level), "held_bytes", r.held, "budget_bytes", r.budget(configured),
		"wal_status", r.status, "seconds_to_loss", b.secondsToLoss())
}

func budgetMessage(level deliver.Pressure) string {
	switch level {
	case deliver.PressureFull:
		return "the slot holds four fifths of its WAL budget: every event is parked before its first attempt; look for open transactions (pg_stat_activity) and a slow database"
	case deliver.PressureHigh:
		return "the slot holds half of its WAL budget: what is not delivered at the first try is parked at once"
	}
	return "the slot is within its WAL budget again"
}
