package daemon

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
)

func TestWALBudget_HasALevelByItsShareAndFallsBackLater(t *testing.T) {
	t.Parallel()
	const MiB = 1 << 20
	var b walBudget
	at := time.Now()
	for i, step := range []struct {
		held, configured, keep int64
		status                 string
		want                   deliver.Pressure
	}{
		{49, 100, -1, "reserved", 0}, {50, 100, -1, "reserved", 1}, {79, 100, -1, "reserved", 1}, {41, 100, -1, "reserved", 1},
		{39, 100, -1, "reserved", 0}, {45, 100, -1, "reserved", 0}, {80, 100, -1, "extended", 2}, {71, 100, -1, "extended", 2},
		{69, 100, -1, "extended", 1}, {1, 100, -1, "reserved", 0},
		{39, 0, 100, "reserved", 0}, {40, 0, 100, "reserved", 1}, {64, 0, 100, "extended", 2}, {1, 0, 100, "unreserved", 2},
		{1, 0, 100, "reserved", 0}, {90, 200, 100, "reserved", 0}, // what is set counts, not what is derived
		{1 << 20, 0, -1, "extended", 0}, {1 << 20, 0, -1, "lost", 2},
	} {
		at = at.Add(10 * time.Second)
		if got := b.take(slotReading{at: at, held: step.held * MiB, keep: max(step.keep*MiB, -1), status: step.status}, step.configured*MiB); got != step.want {
			t.Errorf("step %d, %+v: level %d", i, step, got)
		}
	}
}

// A level never changes twice within the slack, and is never below what the share
// asks for.
func TestWALBudget_NeverFlapsWithinTheSlack(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	var b walBudget
	at, share, changedAt := time.Now(), 0.0, math.Inf(1)
	for range 20_000 {
		at = at.Add(time.Second)
		share = max(0, share+r.Float64()*0.06-0.03)
		was := b.level
		level := b.take(slotReading{at: at, held: int64(share * 1e9), status: "reserved"}, 1e9)
		if level < deliver.PressureFull && share > budgetFull+1e-6 || level < deliver.PressureHigh && share > budgetHigh+1e-6 {
			t.Fatalf("level %d at %.4f of the budget", level, share)
		}
		if level > was {
			changedAt = share
		}
		if level < was && share > changedAt-budgetSlack+0.031 && was-level == 1 && changedAt < 0.54 {
			t.Fatalf("level %d at %.4f, after it rose at %.4f", level, share, changedAt)
		}
	}
}

func TestWALBudget_TellsWhenTheSlotIsLost(t *testing.T) {
	t.Parallel()
	var b walBudget
	if !math.IsInf(b.secondsToLoss(), 1) {
		t.Error("a loss is foretold from nothing")
	}
	at := time.Now()
	look := func(held int64, safe *int64, status string) float64 {
		at = at.Add(10 * time.Second)
		b.take(slotReading{at: at, held: held, safe: safe, status: status}, 0)
		return b.secondsToLoss()
	}
	look(1000, new(int64(100_000)), "reserved")
	if got := look(2000, new(int64(99_000)), "reserved"); got != 990 {
		t.Errorf("100 bytes a second, 99,000 left: %v s", got)
	}
	if got := look(1000, new(int64(100_000)), "reserved"); !math.IsInf(got, 1) {
		t.Errorf("it has not grown: %v s", got)
	}
	if got := look(5000, nil, "reserved"); !math.IsInf(got, 1) {
		t.Errorf("it has no limit: %v s", got)
	}
	if got := look(9000, new(int64(-10)), "unreserved"); got != 0 { // as PostgreSQL 18 says it
		t.Errorf("the next checkpoint may end it: %v s", got)
	}
	if got := look(9000, nil, "lost"); got != 0 {
		t.Errorf("it is lost: %v s", got)
	}
	for range 20 {
		look(9000, new(int64(100_000)), "reserved")
	}
	if n := len(b.recent); n > 8 {
		t.Errorf("%d readings of a minute are kept", n)
	}
}
