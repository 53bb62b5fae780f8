package deliver

import (
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestPace_RecoversFromOneAttemptToAll(t *testing.T) {
	var p pace
	if !p.backlogMay(7, 8, false) || p.backlogMay(8, 8, false) {
		t.Fatal("a pace that bounds nothing bounds the backlog")
	}
	p.recover()
	if !p.backlogMay(0, 8, false) || p.backlogMay(1, 8, false) {
		t.Fatal("the backlog does not begin with one attempt")
	}
	now, n := epoch, 0
	for most := 1; most < 8; n++ {
		now = now.Add(ms)
		p.succeeded(now, now, ms, 8)
		for p.backlogMay(most, 8, false) && most < 8 {
			most++
		}
		if n > 100 {
			t.Fatal("it never has all attempts")
		}
	}
	if n < 20 {
		t.Errorf("all attempts after %d successes: that is no slow start", n)
	}
}

func TestPace_HalvesOnceForAttemptsThatWereOnTheWireTogether(t *testing.T) {
	var p pace
	began, now := epoch, epoch.Add(time.Second)
	for range 8 {
		p.failed(began, now, 8)
	}
	if !p.backlogMay(3, 8, false) || p.backlogMay(4, 8, false) {
		t.Errorf("%v attempts after one bad round, want 4", p.slots)
	}
	for range 9 {
		now = now.Add(time.Second)
		p.failed(now, now, 8)
	}
	if !p.backlogMay(0, 8, false) {
		t.Error("nothing may start any more")
	}
}

func TestPace_HalvesWhenAnswersTakeMuchLongerThanUsual(t *testing.T) {
	var p pace
	now := epoch
	for range 50 {
		now = now.Add(100 * ms)
		p.succeeded(now, now, 100*ms, 8)
	}
	p.succeeded(now, now, 300*ms, 8)
	if p.slots != 0 {
		t.Error("cut at three times the usual time")
	}
	p.succeeded(now, now, time.Second, 8)
	if p.slots != 4 {
		t.Errorf("%v attempts, want 4", p.slots)
	}
}

func TestPace_KeepsAShareForLiveTraffic(t *testing.T) {
	var p pace
	for most, want := range map[int]int{1: 1, 2: 1, 3: 2, 4: 3, 8: 6, 100: 75} {
		busy := 0
		for p.backlogMay(busy, most, true) {
			busy++
		}
		if busy != want {
			t.Errorf("%d of %d attempts are the backlog's while live traffic waits, want %d", busy, most, want)
		}
	}
}

func TestPace_PausesForAsLongAsItIsAskedAndLongerEachTimeItIsNot(t *testing.T) {
	var p pace
	if until := p.throttled(epoch, epoch, time.Hour, 8, DefaultPace); until != epoch.Add(time.Hour) {
		t.Errorf("paused until %s", until)
	}
	if p.throttled(epoch.Add(ms), epoch.Add(ms), time.Second, 8, DefaultPace) != epoch.Add(time.Hour) {
		t.Error("a later answer shortens the pause")
	}
	if p.mayStart(epoch.Add(59 * time.Minute)) {
		t.Error("an attempt may start in the pause")
	}
	p = pace{}
	now := epoch
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		until := p.throttled(now, now, 0, 8, DefaultPace)
		if got := until.Sub(now); got != want*time.Second {
			t.Errorf("pause %d lasts %s, want %s", i, got, want*time.Second)
		}
		now = until.Add(10 * time.Second)
	}
	p.succeeded(now, now, ms, 8)
	if got := p.throttled(now, now, 0, 8, DefaultPace).Sub(now); got != time.Second {
		t.Errorf("after a success the pause lasts %s", got)
	}
}

// simulate runs attempts as fast as the pace allows against an endpoint that takes
// limit of them in each second and answers 429 to the others, for so many seconds.
func simulate(limit, seconds int) (taken, refused []int) {
	var p pace
	now := epoch
	for range seconds {
		ok, no := 0, 0
		for end := now.Truncate(time.Second).Add(time.Second); now.Before(end); now = now.Add(ms) {
			if !p.mayStart(now) {
				continue
			}
			p.started(now)
			if ok < limit {
				ok++
				p.succeeded(now, now, ms, 8)
			} else {
				no++
				p.throttled(now, now, 0, 8, DefaultPace)
			}
		}
		taken, refused = append(taken, ok), append(refused, no)
	}
	return taken, refused
}

func TestPace_FindsTheRateOfAnEndpointThatLimitsIt(t *testing.T) {
	for _, limit := range []int{2, 10, 50, 200} {
		taken, refused := simulate(limit, 600)
		sumT, sumR := 0, 0
		for i := 60; i < 600; i++ { // after it has settled
			sumT, sumR = sumT+taken[i], sumR+refused[i]
		}
		if sumT < 540*limit/3 {
			t.Errorf("limit %d/s: only %.1f/s are taken", limit, float64(sumT)/540)
		}
		if sumR > max(sumT/10, 200) {
			t.Errorf("limit %d/s: %d refused beside %d taken", limit, sumR, sumT)
		}
	}
}

func TestPace_EndsWhenNothingIsRefusedAnyMore(t *testing.T) {
	var p pace
	now := epoch
	p.started(now)
	p.throttled(now, now, 0, 8, DefaultPace)
	for i := range 300_000 {
		now = now.Add(ms)
		if p.mayStart(now) {
			p.started(now)
			p.succeeded(now, now, ms, 8)
		}
		if !p.slowed() {
			if i < 20_000 {
				t.Errorf("the pace ended after %d ms: that is no slow start", i)
			}
			return
		}
	}
	t.Errorf("still at %.1f/s after 300 s of successes", p.rate)
}

// Whatever comes, one attempt of the backlog may start when none is on the wire,
// within the longest pause that was asked for.
func TestPace_NeverSticks(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var p pace
		now, latest := epoch, epoch
		for range 300 {
			now = now.Add(time.Duration(rnd.IntN(3000)) * ms)
			if p.mayStart(now) {
				p.started(now)
			}
			switch rnd.IntN(5) {
			case 0:
				wish := time.Duration(rnd.IntN(100)) * time.Second
				p.throttled(now, now, wish, 4, DefaultPace)
				latest = now.Add(wish)
			case 1:
				p.failed(now, now, 4)
			case 2:
				p.recover()
			default:
				p.succeeded(now, now, time.Duration(rnd.IntN(2000))*ms, 4)
			}
			if !p.backlogMay(0, 4, rnd.IntN(2) == 0) {
				t.Fatalf("seed %d: no attempt although none is on the wire", seed)
			}
			after := latest
			if now.After(after) {
				after = now
			}
			if !p.mayStart(after.Add(DefaultPace.MaxPause + 100*time.Second + time.Duration(float64(time.Second)/DefaultPace.MinRate))) {
				t.Fatalf("seed %d: nothing starts until %s", seed, p.next())
			}
		}
	}
}

func TestPace_KeepsToTheRateThatIsWanted(t *testing.T) {
	var p pace
	p.limit(20)
	now, started := epoch, 0
	for ; now.Before(epoch.Add(10 * time.Second)); now = now.Add(ms) {
		if p.mayStart(now) {
			p.started(now)
			p.succeeded(now, now, ms, 8)
			started++
		}
	}
	if started < 199 || started > 203 {
		t.Errorf("%d attempts in ten seconds at 20 a second", started)
	}
	if p.slowed() {
		t.Error("it has not complained, and is taken for one that has")
	}
	// When it complains it gets less, and comes back to what is wanted, not beyond.
	p.throttled(now, now, 0, 8, DefaultPace)
	if !p.slowed() || p.rate >= 20 {
		t.Errorf("after 429: %v a second", p.rate)
	}
	for range 10_000 {
		p.succeeded(now, now, ms, 8)
	}
	if p.rate != 20 || p.slowed() {
		t.Errorf("recovered to %v a second", p.rate)
	}
	p.limit(50)
	if p.rate != 50 {
		t.Errorf("raised to %v a second", p.rate)
	}
	p.limit(5)
	if p.rate != 5 {
		t.Errorf("lowered to %v a second", p.rate)
	}
	p.limit(0)
	if p.rate != 0 || !p.mayStart(now.Add(time.Hour)) {
		t.Errorf("without a bound: %v a second", p.rate)
	}
	p.throttled(now, now, 0, 8, DefaultPace)
	slow := p.rate
	if p.limit(30); p.rate != slow {
		t.Errorf("one that has complained has %v a second, was %v", p.rate, slow)
	}
}
