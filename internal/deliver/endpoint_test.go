package deliver

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

func keys(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("k%d", i)
	}
	return out
}

func throttle(wish time.Duration) Outcome {
	return Outcome{Reason: ReasonHTTP429, StatusCode: 429, Detail: "HTTP 429 Too Many Requests", RetryAfter: wish}
}

func TestEndpoint_A429CostsNoAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0} }) // one attempt, no more
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		if r.Attempt != 1 {
			t.Errorf("attempt %d after a 429 that costs none", r.Attempt)
		}
		if try <= 5 {
			return throttle(0)
		}
		return ok(ctx, r, try)
	})
	sent := l.send("k1", "k1", "k2")
	w.arrivedInAll("a.test", sent...)
	w.inKeyOrder("a.test", sent...)
	l.quiet()
	eventually(t, "all are recorded", func() bool { return w.ended(StatusDelivered) == 3 && w.parked() == 0 })
	if n := w.count("SELECT count(*) FROM relay.deliveries WHERE attempts <> 1"); n != 0 {
		t.Errorf("%d deliveries count other than one attempt", n)
	}
	if l.p.Open() != 0 {
		t.Error("a 429 opens the breaker")
	}
}

func TestEndpoint_A429PausesAllThatWaitsForIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	const wish = 700 * time.Millisecond
	var end time.Time
	var mu sync.Mutex
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		mu.Lock()
		defer mu.Unlock()
		if end.IsZero() {
			end = time.Now().Add(wish)
			return throttle(wish)
		}
		if time.Now().Before(end) {
			t.Error("an attempt in the pause that it asked for")
		}
		return ok(ctx, r, try)
	})
	sent := l.send("k1")
	eventually(t, "it has answered 429", func() bool { return w.parked() == 1 })
	sent = append(sent, l.send("k2", "k3", "k1", "k4")...)
	l.quiet() // all of them are parked: the stream does not wait for the pause
	w.arrivedInAll("a.test", sent...)
	w.inKeyOrder("a.test", sent...)
}

func TestEndpoint_A503WithRetryAfterPausesItAndCostsAnAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	const wish = 500 * time.Millisecond
	head := w.commit("k1")
	var end time.Time
	var mu sync.Mutex
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		mu.Lock()
		defer mu.Unlock()
		if end.IsZero() {
			end = time.Now().Add(wish)
			out := errOutcome
			out.RetryAfter = wish
			return out
		}
		if time.Now().Before(end) {
			t.Error("an attempt in the pause that it asked for")
		}
		return ok(ctx, r, try)
	})
	l.take(head...)
	eventually(t, "it has answered 503", func() bool { return w.parked() == 1 })
	sent := append(head, l.send("k2", "k3")...)
	w.arrivedInAll("a.test", sent...)
	l.quiet()
	eventually(t, "all are recorded", func() bool { return w.ended(StatusDelivered) == 3 })
	if n := w.count("SELECT attempts FROM relay.deliveries WHERE event_id = $1", head[0].f.EventID); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
}

func TestEndpoint_WaitsBehindOneProbeWhileItFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.EndpointConcurrency = 4
		o.Breaker = BreakerOptions{Failures: 5, FirstProbe: 20 * ms, MaxProbe: 20 * ms}
	})
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		time.Sleep(2 * time.Millisecond)
		return errOutcome
	})
	sent := l.send(keys(10)...)
	eventually(t, "it is given up", func() bool { return l.p.Open() == 1 })
	eventually(t, "what was on the wire has ended", func() bool { return l.p.Load().InFlight == 0 })
	w.sink.mu.Lock()
	before := len(w.sink.started["a.test"])
	w.sink.most["a.test"] = 0
	w.sink.mu.Unlock()
	if before > 5+4 {
		t.Errorf("%d attempts until it was given up, want 5 and what was on the wire", before)
	}
	sent = append(sent, l.send(keys(60)...)...)
	l.quiet()
	eventually(t, "some probes have failed", func() bool { return w.sink.attempts("a.test") >= before+8 })
	if n := w.sink.mostAtOnce("a.test"); n != 1 {
		t.Errorf("%d probes at once", n)
	}
	if n := w.count("SELECT count(*) FROM relay.parked WHERE attempts = 0"); n < 30 {
		t.Errorf("%d of %d deliveries have spent no attempt", n, len(sent))
	}
	w.sink.on("a.test", ok)
	w.arrivedInAll("a.test", sent...)
	w.inKeyOrder("a.test", sent...)
	if l.p.Open() != 0 {
		t.Error("it works, and is given up")
	}
}

func TestEndpoint_AnOutageThatEndsBringsForwardWhatWaitsForIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, time.Hour, time.Hour} })
	w.sink.on("a.test", failing)
	sent := l.send(keys(8)...)
	eventually(t, "it is given up", func() bool { return l.p.Open() == 1 && l.p.Load().InFlight == 0 })
	w.sink.on("a.test", ok)
	sent = append(sent, l.send("new")...)
	w.arrivedInAll("a.test", sent...) // some of them wait for an hour
}

func TestEndpoint_RecoversSlowly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead()
	l.setActive(id, false)
	sent := l.send(keys(80)...)
	eventually(t, "all are parked", func() bool { return w.parked() == len(sent) })
	var mu sync.Mutex
	var busy []int
	now := 0
	w.sink.on("a.test", func(context.Context, *Request, int) Outcome {
		mu.Lock()
		now++
		busy = append(busy, now)
		mu.Unlock()
		time.Sleep(5 * time.Millisecond)
		mu.Lock()
		now--
		mu.Unlock()
		return Outcome{StatusCode: 200, Duration: 5 * time.Millisecond}
	})
	l.setActive(id, true)
	w.arrivedInAll("a.test", sent...)
	for i, n := range busy {
		if most := int(math.Sqrt(2*float64(i)+1)) + 1; n > most {
			t.Errorf("%d attempts at once at attempt %d, want at most %d", n, i, most)
		}
	}
	if slices.Max(busy) < 4 {
		t.Errorf("never more than %d attempts at once", slices.Max(busy))
	}
}

func TestEndpoint_LiveTrafficIsNotBehindTheBacklog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
	l.setActive(id, false)
	backlog := l.send(keys(60)...)
	eventually(t, "all are parked", func() bool { return w.parked() == len(backlog) })
	w.sink.on("a.test", func(context.Context, *Request, int) Outcome {
		time.Sleep(5 * time.Millisecond)
		return Outcome{StatusCode: 200, Duration: 5 * time.Millisecond}
	})
	l.setActive(id, true)
	eventually(t, "the backlog begins to arrive", func() bool { return len(w.sink.took("a.test")) > 3 })
	live := l.send("live1", "live2", "live3")
	w.arrivedInAll("a.test", append(live, backlog...)...)
	took := w.sink.took("a.test")
	for _, e := range live {
		if at := slices.Index(took, e.f.EventID.String()); at > len(backlog)/2 {
			t.Errorf("a live event came as number %d of %d", at, len(took))
		}
	}
}

// More deliveries hang than may be loaded at once.
func TestEndpoint_ThatWorksGetsItsRetriesBesideManyThatHang(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("fast.test")
	l := w.lead()
	l.p.mu.Lock()
	l.p.mostRows = 8
	l.p.mu.Unlock()
	l.send("k")
	for i := range 20 {
		host := fmt.Sprintf("slow%d.test", i)
		w.sink.on(host, hold(nil))
		l.refresh(w.subscribe(host))
	}
	l.send(keys(4)...)
	eventually(t, "all that hang are given up", func() bool { return l.p.Open() == 20 && l.p.Load().Loaded > 8 })
	l.arrivesAtTheSecondTry("fast.test")
}

// arrivesAtTheSecondTry sends what the host refuses once, so that it has to come from the table.
func (l *leader) arrivesAtTheSecondTry(host string) {
	l.t.Helper()
	l.sink.on(host, failFirst(1))
	sent := l.send(keys(6)...)
	eventually(l.t, "they arrive at the second try", func() bool {
		took := l.sink.took(host)
		return !slices.ContainsFunc(sent, func(e *entry) bool { return !slices.Contains(took, e.f.EventID.String()) })
	})
}

// Endpoints with a backlog begin to hang when much of it is loaded.
func TestEndpoint_ThatWorksGetsItsRetriesBesideBacklogsThatHang(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("fast.test")
	l := w.lead()
	l.p.mu.Lock()
	l.p.mostRows = 20
	l.p.mu.Unlock()
	l.send("k")
	var slow []uuid.UUID
	for i := range 4 {
		host := fmt.Sprintf("slow%d.test", i)
		w.sink.on(host, hold(nil))
		slow = append(slow, w.subscribe(host))
		l.refresh(slow[i])
		l.setActive(slow[i], false)
	}
	for range 8 {
		l.send("k1", "k2")
	}
	l.quiet()
	for _, id := range slow {
		l.setActive(id, true)
	}
	eventually(t, "as many are given up as leave no room", func() bool { return l.p.Open() > 2 })
	l.arrivesAtTheSecondTry("fast.test")
}

// There is room for the rows of one endpoint, and several have backlogs.
func TestEndpoint_BacklogsTakeTurns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hosts := []string{"a.test", "b.test", "c.test"}
	var subs []uuid.UUID
	for _, h := range hosts {
		subs = append(subs, w.subscribe(h))
	}
	l := w.lead()
	l.p.mu.Lock()
	l.p.mostRows = 8
	l.p.mu.Unlock()
	l.send("k")
	l.quiet() // they work
	for _, id := range subs {
		l.setActive(id, false)
	}
	const n = 400
	for i := range n {
		l.send(fmt.Sprint("k", i%4))
	}
	l.quiet()
	for i, h := range hosts {
		w.sink.on(h, func(context.Context, *Request, int) Outcome {
			time.Sleep(rand.N(16 * time.Millisecond)) // their lanes do not run out together
			return Outcome{StatusCode: 200}
		})
		l.setActive(subs[i], true)
	}
	most := func() (n int) {
		for _, h := range hosts {
			n = max(n, len(w.sink.took(h)))
		}
		return n
	}
	eventually(t, "one has taken most of its own", func() bool { return most() > n*3/4 })
	for _, h := range hosts {
		if took := len(w.sink.took(h)); took < n/4 {
			t.Errorf("%s has taken %d of %d, another %d", h, took, n, most())
		}
	}
}

// Others take all that there is room for from the table, for long.
func TestEndpoint_IsTriedBesideLongBacklogsOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var busy []uuid.UUID
	for i := range 2 {
		busy = append(busy, w.subscribe(fmt.Sprintf("busy%d.test", i)))
	}
	l := w.lead()
	l.p.mu.Lock()
	l.p.mostRows = 8
	l.p.mu.Unlock()
	l.send("k")
	l.quiet() // they work
	late := w.subscribe("late.test")
	l.refresh(late)
	for _, id := range append(busy, late) {
		l.setActive(id, false)
	}
	const n = 1200
	for i := range n {
		l.send(fmt.Sprint("k", i%4))
	}
	l.quiet()
	for i := range busy {
		w.sink.on(fmt.Sprintf("busy%d.test", i), func(context.Context, *Request, int) Outcome {
			time.Sleep(rand.N(16 * time.Millisecond)) // their lanes do not run out together
			return Outcome{StatusCode: 200}
		})
		l.setActive(busy[i], true)
	}
	eventually(t, "both backlogs are on their way", func() bool { return w.sink.attempts("busy0.test") > 9 && w.sink.attempts("busy1.test") > 9 })
	took := func() int { return len(w.sink.took("busy0.test")) + len(w.sink.took("busy1.test")) }
	before := took()
	l.setActive(late, true)
	eventually(t, "the other is tried", func() bool { return w.sink.attempts("late.test") > 0 })
	if after := took(); after-before > (2*n-before)/2 {
		t.Errorf("it was tried when the others had taken %d of %d, and %d before", after, 2*n, before)
	}
}

// More endpoints hang than there are attempts at once.
func TestEndpoint_ThatWorksKeepsItsPlaceBesideManyThatHang(t *testing.T) {
	t.Parallel()
	for name, proven := range map[string]bool{"from the beginning": false, "after they worked": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			fast := w.subscribe("fast.test")
			l := w.lead(func(o *Options, _ *RecorderOptions) { o.Concurrency, o.FreshConcurrency = 8, 4 })
			l.send("k")
			l.quiet()
			release := make(chan struct{})
			var hosts []string
			for i := range 12 {
				hosts = append(hosts, fmt.Sprintf("slow%d.test", i))
				l.refresh(w.subscribe(hosts[i]))
			}
			if proven {
				l.send("k")
				l.quiet()
			}
			for _, h := range hosts {
				w.sink.on(h, hold(release))
			}
			for range 5 {
				l.send(keys(8)...)
			}
			l.refresh(fast)
			eventually(t, "all arrive at the one that works", func() bool {
				return len(w.sink.took("fast.test")) == len(w.log)
			})
			l.quiet()
			for _, h := range hosts {
				if n := len(w.sink.took(h)); n > 1 {
					t.Errorf("%s took %d: the test shows nothing", h, n)
				}
			}
			close(release)
			eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
			l.p.mu.Lock()
			defer l.p.mu.Unlock()
			if l.p.inflight+l.p.slow+l.p.hanging != 0 {
				t.Errorf("%d in flight, %d slow, %d hanging when nothing is", l.p.inflight, l.p.slow, l.p.hanging)
			}
		})
	}
}

// An outage that ends under another leader ends as slowly.
func TestEndpoint_RecoversSlowlyAfterARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, time.Hour} })
	w.sink.on("a.test", failing)
	sent := l.send(keys(60)...)
	eventually(t, "all are parked", func() bool { return w.parked() == len(sent) && w.count(isFailing, id) == 1 })
	l.kill()
	w.sink.on("a.test", func(context.Context, *Request, int) Outcome {
		time.Sleep(5 * time.Millisecond)
		return Outcome{StatusCode: 200, Duration: 5 * time.Millisecond}
	})
	n := w.sink.attempts("a.test")
	w.sink.mu.Lock()
	w.sink.most["a.test"] = 0
	w.sink.mu.Unlock()
	w.lead()
	eventually(t, "some have arrived", func() bool { return w.sink.attempts("a.test") >= n+8 })
	if most := w.sink.mostAtOnce("a.test"); most > 6 {
		t.Errorf("%d attempts at once among the first: it does not begin slowly", most)
	}
	w.arrivedInAll("a.test", sent...) // those too that waited for an hour
}
