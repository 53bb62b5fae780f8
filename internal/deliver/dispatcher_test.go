package deliver

import (
	"context"
	"slices"
	"testing"
	"time"
)

func TestDispatcher_DeliversEachEventToEachMatchOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.subscribe("b.test")
	l := w.lead()
	var sent []*entry
	for range 20 {
		sent = append(sent, l.send("k1", "k2", "k3")...)
	}
	l.quiet()
	w.inKeyOrder("a.test", sent...)
	w.inKeyOrder("b.test", sent...)
	if n := w.ended(StatusDelivered); n != 2*len(sent) {
		t.Errorf("%d deliveries are recorded, want %d", n, 2*len(sent))
	}
	if n := w.parked() + w.count("SELECT count(*) FROM relay.bodies"); n != 0 {
		t.Errorf("%d rows although all went well at once", n)
	}
}

func TestDispatcher_KeepsTheOrderOfAKeyThroughFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", failFirst(2))
	var sent []*entry
	for range 5 {
		sent = append(sent, l.send("k1", "k2")...)
	}
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	l.quiet()
	w.inKeyOrder("a.test", sent...)
	if n := w.count("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED' AND attempts = 3"); n != len(sent) {
		t.Errorf("%d deliveries with 3 attempts, want %d", n, len(sent))
	}
	if n := w.count(`SELECT count(*) FROM relay.deliveries
 WHERE jsonb_path_query_array(history, '$[*].n') = '[1, 2, 3]' AND history->1->>'reason' = 'http_5xx' AND NOT history->2 ? 'reason'`); n != len(sent) {
		t.Errorf("%d deliveries show both failures and the success, want %d", n, len(sent))
	}
}

func TestDispatcher_ParksFollowersBehindAFailedHeadWhileOtherKeysFlow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, time.Second, time.Second} })
	head := w.commit("k1")
	w.sink.on("a.test", only(head[0], failFirst(1)))
	l.take(head...)
	followers := l.send("k1", "k1")
	others := l.send("k2", "k3")
	eventually(t, "the others arrive", func() bool { return len(w.sink.took("a.test")) == 2 })
	if got := w.sink.took("a.test"); slices.Contains(got, followers[0].f.EventID.String()) {
		t.Fatalf("a follower came before its head: %s", w.names(got))
	}
	eventually(t, "head and followers are parked", func() bool { return w.parked() == 3 })
	if n := w.count("SELECT count(*) FROM relay.parked WHERE next_attempt_at IS NOT NULL"); n != 1 {
		t.Errorf("%d rows of the lane have a time, want the head alone", n)
	}
	l.quiet() // they are recorded, so the stream goes on without them
	w.arrivedInAll("a.test", slices.Concat(others, head, followers)...)
	w.inKeyOrder("a.test", slices.Concat(head, followers, others)...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
}

func TestDispatcher_WithoutOrderingLetsOthersOfTheKeyGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribeOrdered("a.test", OrderingNone)
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, 500 * time.Millisecond} })
	head := w.commit("k1")
	w.sink.on("a.test", only(head[0], failFirst(1)))
	l.take(head...)
	rest := l.send("k1", "k1", "k1")
	w.arrivedInAll("a.test", slices.Concat(rest, head)...)
	if got := w.sink.took("a.test"); got[len(got)-1] != head[0].f.EventID.String() {
		t.Errorf("took %s: the failed one should not hold the others", w.names(got))
	}
}

func TestDispatcher_ADeadHeadReleasesItsLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays = []time.Duration{0, 20 * time.Millisecond, 20 * time.Millisecond}
	})
	head := w.commit("k1")
	w.sink.on("a.test", only(head[0], failing))
	l.take(head...)
	rest := l.send("k1", "k1")
	w.arrived("a.test", rest...)
	l.quiet()
	eventually(t, "the dead one is recorded", func() bool { return w.ended(StatusDead) == 1 && w.parked() == 0 })
	if n := w.count("SELECT attempts FROM relay.deliveries WHERE status = 'DEAD'"); n != 3 {
		t.Errorf("dead after %d attempts, want 3", n)
	}
}

func TestDispatcher_HandsOverAHangingAttemptAndRecordsItsLateSuccessOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	sent := l.send("k1", "k1")
	eventually(t, "both are parked", func() bool { return w.parked() == 2 })
	l.quiet() // the stream does not wait for the endpoint
	if got := l.p.Load(); got.Window != 0 || got.WindowBytes != 0 || got.InFlight != 1 {
		t.Errorf("load %+v: nothing may be in memory only, and one attempt on the wire", got)
	}
	close(release)
	w.arrived("a.test", sent...)
	eventually(t, "the rows are gone", func() bool { return w.parked() == 0 })
	eventually(t, "both are recorded", func() bool { return w.ended(StatusDelivered) == 2 })
	if n := w.sink.attempts("a.test"); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
	if n := l.p.Load(); n != (Load{}) {
		t.Errorf("load %+v, want nothing", n)
	}
}

func TestDispatcher_AHangingEndpointDoesNotDelayAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("slow.test")
	w.subscribe("fast.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.WindowEvents, o.EndpointConcurrency, o.Concurrency = 20, 4, 8 })
	release := make(chan struct{})
	w.sink.on("slow.test", hold(release))
	var sent []*entry
	for i := range 100 {
		sent = append(sent, l.send([]string{"a", "b", "c", "d", "e", "f", "g"}[i%7])...)
	}
	eventually(t, "all arrive at the fast one", func() bool { return len(w.sink.took("fast.test")) == len(sent) })
	w.inKeyOrder("fast.test", sent...)
	l.quiet()
	if n := len(w.sink.took("slow.test")); n != 0 {
		t.Errorf("the slow one took %d", n)
	}
	if n := w.sink.mostAtOnce("slow.test"); n > 4 {
		t.Errorf("%d attempts at once at the slow one, want at most 4", n)
	}
	close(release)
	eventually(t, "all arrive at the slow one", func() bool { return len(w.sink.took("slow.test")) == len(sent) })
	w.inKeyOrder("slow.test", sent...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
}

// A row of a lane that is written before the rows of those in front of it would be
// sent first after a crash.
func TestDispatcher_ParksALaneInItsOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.WindowEvents, o.HandoverAfter = 2, 200*time.Millisecond })
	release := make(chan struct{})
	defer close(release)
	w.sink.on("a.test", hold(release))
	sent := l.send("k", "k", "k") // the third waits for the window, and is parked
	eventually(t, "the third is parked", func() bool {
		return w.count("SELECT count(*) FROM relay.parked WHERE event_id = $1", sent[2].f.EventID) == 1
	})
	if n := w.parked(); n != 3 {
		t.Errorf("%d rows beside the third one's, want those of the two before it", n-1)
	}
}

// Attempts that wait for their endpoints fill all the places of fresh ones, and
// must make way long before they are handed over.
func TestDispatcher_AttemptsThatOnlyWaitMakeWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("slow.test")
	w.subscribe("fast.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.EndpointConcurrency, o.FreshConcurrency, o.HandoverAfter = 4, 4, time.Hour
	})
	release := make(chan struct{})
	w.sink.on("slow.test", hold(release))
	sent := l.send("a", "b", "c", "d", "e", "f", "g")
	eventually(t, "all arrive at the fast one", func() bool { return len(w.sink.took("fast.test")) == len(sent) })
	if n := w.sink.mostAtOnce("slow.test"); n != 4 {
		t.Errorf("%d attempts at once at the slow one, want 4: the test shows nothing", n)
	}
	close(release)
	eventually(t, "all arrive at the slow one", func() bool { return len(w.sink.took("slow.test")) == len(sent) })
	l.quiet()
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.p.slow != 0 || l.p.inflight != 0 {
		t.Errorf("%d slow, %d in flight when nothing is", l.p.slow, l.p.inflight)
	}
}

func TestDispatcher_FailsAttemptsThatCannotBeMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.exec("UPDATE relay.subscriptions SET url = '::' WHERE id = $1", id)
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0} })
	l.send("k1")
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 })
	if n := w.sink.attempts(""); n != 0 {
		t.Errorf("%d attempts", n)
	}
}

func TestDispatcher_WaitsBeforeTheFirstAttemptWhenTheScheduleSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{200 * time.Millisecond} })
	began := time.Now()
	sent := l.send("k1", "k1")
	w.arrived("a.test", sent...)
	if waited := time.Since(began); waited < 200*time.Millisecond {
		t.Errorf("the first attempt came after %s", waited)
	}
}

func TestDispatcher_HonoursRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", func(_ context.Context, _ *Request, try int) Outcome {
		if try == 1 {
			return Outcome{Reason: ReasonHTTP429, StatusCode: 429, RetryAfter: 400 * time.Millisecond}
		}
		return Outcome{StatusCode: 200}
	})
	began := time.Now()
	w.arrived("a.test", l.send("k1")...)
	if waited := time.Since(began); waited < 400*time.Millisecond {
		t.Errorf("tried again after %s, the receiver asked for 400ms", waited)
	}
}

func TestDispatcher_DrainsWhatIsOnTheWireAndParksTheRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.EndpointConcurrency, o.HandoverAfter = 1, time.Minute })
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	sent := l.send("k1", "k1", "k2")
	eventually(t, "one is on the wire", func() bool { return w.sink.attempts("a.test") == 1 })
	go func() {
		for !l.stopping() {
			time.Sleep(time.Millisecond)
		}
		close(release)
	}()
	l.stop(patience)
	if n := w.parked(); n != 2 {
		t.Errorf("%d rows, want the two that did not start", n)
	}
	if n := w.ended(StatusDelivered); n != 1 {
		t.Errorf("%d delivered, want the one that was on the wire", n)
	}
	if got, want := l.stream.confirmed().End, sent[2].tx.end; got != want {
		t.Errorf("confirmed up to %x, want %x: a clean stop leaves nothing open", got, want)
	}
	next := w.lead()
	next.replay()
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == 3 })
	w.inKeyOrder("a.test", sent...)
}

func TestDispatcher_DrainGivesUpWhatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
	w.sink.on("a.test", hold(nil))
	sent := l.send("k1", "k1", "k2")
	l.stop(50 * time.Millisecond)
	if n := w.parked(); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
	if n := w.count("SELECT count(*) FROM relay.parked WHERE attempts > 0"); n != 0 {
		t.Errorf("%d rows count an attempt that we gave up ourselves", n)
	}
	w.sink.on("a.test", ok)
	w.lead().replay()
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == 3 })
	w.inKeyOrder("a.test", sent...)
}

func (l *leader) stopping() bool {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	return l.p.stopping
}

// arrivedInAll waits until a host has taken these events, in any order.
func (w *world) arrivedInAll(host string, entries ...*entry) {
	w.t.Helper()
	eventually(w.t, "all events arrive", func() bool { return len(w.sink.took(host)) >= len(entries) })
	got, want := w.sink.took(host), ids(entries...)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Fatalf("%s took %s, want %s", host, w.names(got), w.names(want))
	}
}
