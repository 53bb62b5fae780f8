package deliver

import (
	"math/rand/v2"
	"testing"
	"time"
)

var testDisable = DisableOptions{After: 100 * time.Hour, Warning: 50 * time.Hour}

func TestHealth_WarnsOnceAndDisablesLater(t *testing.T) {
	var h health
	for _, c := range []struct {
		after time.Duration
		want  verdict
	}{{0, verdictFailing}, {time.Hour, verdictKnown}, {50 * time.Hour, verdictWarn}, {51 * time.Hour, verdictKnown},
		{100*time.Hour - 1, verdictKnown}, {100 * time.Hour, verdictDisable}} {
		if got := h.failed(epoch.Add(c.after), testDisable); got != c.want {
			t.Errorf("after %s: verdict %d, want %d", c.after, got, c.want)
		}
	}
}

func TestHealth_NeverDisablesRightAfterItsWarning(t *testing.T) {
	h := health{since: epoch} // nothing was tried for a long time, or no relay ran
	late := epoch.Add(1000 * time.Hour)
	if v := h.failed(late, testDisable); v != verdictWarn {
		t.Fatalf("verdict %d, want a warning first", v)
	}
	if v := h.failed(late.Add(59*time.Minute), testDisable); v != verdictKnown {
		t.Errorf("verdict %d within an hour of the warning", v)
	}
	if v := h.failed(late.Add(time.Hour), testDisable); v != verdictDisable {
		t.Errorf("verdict %d an hour after the warning, want that it is disabled", v)
	}
}

func TestHealth_ASuccessBeginsAnew(t *testing.T) {
	var h health
	h.failed(epoch, testDisable)
	h.failed(epoch.Add(60*time.Hour), testDisable)
	if !h.succeeded() || h.succeeded() {
		t.Error("a success does not end the failing once")
	}
	if v := h.failed(epoch.Add(200*time.Hour), testDisable); v != verdictFailing {
		t.Errorf("verdict %d after a success, want that it begins anew", v)
	}
}

func TestHealth_NeverDisablesWhenItIsTurnedOff(t *testing.T) {
	var h health
	for i := range 100 {
		if v := h.failed(epoch.Add(time.Duration(i)*1000*time.Hour), DisableOptions{Warning: time.Hour}); v > verdictFailing {
			t.Fatalf("verdict %d", v)
		}
	}
}

// Whatever comes: nothing is disabled before its time, without a warning, or
// within a success.
func TestHealth_DisablesOnlyWhatFailedForAllThatTime(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		var h health
		now, first, warned := epoch, time.Time{}, false
		for range 200 {
			now = now.Add(time.Duration(rnd.IntN(12*3600)) * time.Second)
			if rnd.IntN(40) == 0 {
				h.succeeded()
				first, warned = time.Time{}, false
				continue
			}
			if first.IsZero() {
				first = now
			}
			switch h.failed(now, testDisable) {
			case verdictWarn:
				if warned || now.Sub(first) < testDisable.Warning {
					t.Fatalf("seed %d: a warning after %s", seed, now.Sub(first))
				}
				warned = true
			case verdictDisable:
				if !warned || now.Sub(first) < testDisable.After {
					t.Fatalf("seed %d: disabled after %s, warned: %v", seed, now.Sub(first), warned)
				}
			}
		}
	}
}
