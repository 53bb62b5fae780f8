package deliver

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
)

var (
	testBreaker = BreakerOptions{Failures: 3, FirstProbe: time.Second, MaxProbe: 10 * time.Second}
	epoch       = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

func TestBreaker_OpensAfterFailuresInARowAndProbesEverMoreSeldom(t *testing.T) {
	var b breaker
	now := epoch
	fail := func(probe bool) bool { return b.failed(now, uuid.New(), probe, testBreaker, 1) }
	for range 2 {
		if fail(false) || b.open {
			t.Fatal("open after two failures of three")
		}
	}
	b.succeeded()
	fail(false)
	fail(false)
	if b.open {
		t.Fatal("failures before a success count")
	}
	if !fail(false) || !b.open {
		t.Fatal("not open after three failures")
	}
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		want *= time.Second
		if b.mayStart(now.Add(want - time.Millisecond)) {
			t.Fatalf("probe %d may start before %s", i, want)
		}
		if now = now.Add(want); !b.mayStart(now) {
			t.Fatalf("probe %d may not start after %s", i, want)
		}
		if !b.started() {
			t.Fatal("what starts while it is open is no probe")
		}
		if b.mayStart(now.Add(time.Hour)) {
			t.Fatal("a second probe may start beside the first")
		}
		if fail(true) {
			t.Fatal("it opens a second time")
		}
	}
	now = now.Add(time.Minute)
	b.started()
	if !b.succeeded() || b.open || !b.mayStart(now) {
		t.Error("a probe that succeeds does not end the outage")
	}
}

func TestBreaker_StragglersPutTheProbeOffAndDoNotMakeItRarer(t *testing.T) {
	var b breaker
	now := epoch
	for range 3 {
		b.failed(now, uuid.New(), false, testBreaker, 1)
	}
	for range 8 { // that were on the wire when it opened
		now = now.Add(100 * time.Millisecond)
		b.failed(now, uuid.New(), false, testBreaker, 1)
	}
	if b.mayStart(now.Add(time.Second - 1)) {
		t.Error("the probe comes right after a failure")
	}
	if !b.mayStart(now.Add(time.Second)) {
		t.Error("stragglers count as probes")
	}
}

func TestBreaker_ProbesAtOnceWhatHangs(t *testing.T) {
	var b breaker
	if !b.hung(epoch) || b.hung(epoch) {
		t.Fatal("it does not open once")
	}
	if !b.mayStart(epoch) {
		t.Error("no probe beside the attempt that hangs")
	}
	b.started()
	if b.mayStart(epoch.Add(time.Hour)) {
		t.Error("two probes at once")
	}
	if b.succeeded() {
		t.Error("an attempt that was slow and succeeded is no outage")
	}
}

// Nobody can tell whether the endpoint was at fault or the delivery: what waits need not wait longer, and opening it again takes
// failures in a row again.
func TestBreaker_ASuccessEndsTheOutageOfOneDeliveryToo(t *testing.T) {
	var b breaker
	id := uuid.New()
	for range 9 {
		b.failed(epoch, id, false, testBreaker, 1)
	}
	if !b.open {
		t.Fatal("not open")
	}
	if !b.succeeded() {
		t.Error("what waits is not released, because one delivery alone had failed")
	}
}

func TestBreaker_AnInconclusiveProbeLeavesItOpen(t *testing.T) {
	var b breaker
	for range 3 {
		b.failed(epoch, uuid.New(), false, testBreaker, 1)
	}
	now := epoch.Add(time.Second)
	b.started()
	b.inconclusive(now, true)
	if !b.open || b.mayStart(now) || !b.mayStart(now.Add(time.Second)) {
		t.Error("the next probe does not come after the same wait")
	}
	b.hurry(now)
	if !b.mayStart(now) {
		t.Error("a probe that is asked for does not start")
	}
}

func TestBreaker_TheLongestWaitBoundsItsJitterToo(t *testing.T) {
	var b breaker
	now := epoch
	for range 20 {
		b.failed(now, uuid.New(), b.open, testBreaker, 2)
		if b.until.Sub(now) > testBreaker.MaxProbe {
			t.Fatalf("the next probe comes after %s, the longest wait is %s", b.until.Sub(now), testBreaker.MaxProbe)
		}
	}
}

func TestBreaker_ATakeOverKeepsTheTimeOfTheNextProbe(t *testing.T) {
	for notBefore, want := range map[time.Duration]time.Duration{-time.Hour: 0, time.Second: time.Second, time.Hour: 0} {
		var b breaker
		b.resume(epoch, epoch.Add(notBefore), testBreaker)
		if got := b.until.Sub(epoch); got != want {
			t.Errorf("the leader before would have tried after %s, this one does after %s, want %s", notBefore, got, want)
		}
	}
}

// Whatever comes: while it is open there is at most one probe, some probe may
// start within the longest wait, and a success closes it.
func TestBreaker_NeverSticksAndNeverFloods(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		var b breaker
		now := epoch
		stragglers, probes := 0, 0
		for range 400 {
			now = now.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
			if b.mayStart(now) && rnd.IntN(3) > 0 {
				if b.started() {
					probes++
				} else {
					stragglers++
				}
			}
			if probes > 1 {
				t.Fatalf("seed %d: %d probes at once", seed, probes)
			}
			if b.open && probes == 0 && !b.mayStart(now.Add(testBreaker.MaxProbe)) {
				t.Fatalf("seed %d: no probe within the longest wait", seed)
			}
			probe := probes > 0 && rnd.IntN(2) == 0
			if !probe && stragglers == 0 {
				continue
			}
			switch rnd.IntN(6) {
			case 0:
				b.succeeded()
				if b.open {
					t.Fatalf("seed %d: open after a success", seed)
				}
				if probe {
					probes--
				} else {
					stragglers--
				}
				stragglers, probes = stragglers+probes, 0 // what is on the wire is a probe no longer
				continue
			case 1:
				b.inconclusive(now, probe)
			case 2:
				b.hung(now)
				continue
			case 3:
				b.hurry(now)
				continue
			default:
				b.failed(now, uuid.New(), probe, testBreaker, 1+rnd.Float64())
			}
			if probe {
				probes--
			} else {
				stragglers--
			}
		}
	}
}
