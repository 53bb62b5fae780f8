package deliver

import (
	"context"
	"encoding/json"
	"testing"
	"time"
)

// late has one attempt at once and the next in hours.
func late(o *Options, _ *RecorderOptions) {
	o.Schedule.Delays = []time.Duration{0, 3 * time.Hour, 3 * time.Hour}
}

// records returns what is shown of the deliveries that wait, and fails when a time of the next attempt has passed.
func (w *world) records() []Record {
	w.t.Helper()
	var began time.Time
	if err := w.pool.QueryRow(context.Background(), "SELECT clock_timestamp()").Scan(&began); err != nil {
		w.t.Fatal(err)
	}
	list, err := Records{DB: w.pool}.List(context.Background(), Filter{Status: StatusPending, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range list {
		if next := list[i].NextAttemptAt; next != nil && next.Before(began) {
			w.t.Errorf("the next attempt of %s is shown at %s, which is over", list[i].ID, next)
		}
	}
	return list
}

// What waits for a late step of its schedule tries whether the endpoint works again, and all goes on when it does.
func TestProbe_ComesWhenItIsDueWhateverTheScheduleOfWhatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.sink.on("a.test", failing)
	l := w.lead(late)
	sent := l.send(keys(8)...)
	l.quiet()
	eventually(t, "it is given up", func() bool { return l.p.Open() == 1 })
	n := w.sink.attempts("a.test")
	eventually(t, "twenty probes", func() bool { return w.sink.attempts("a.test") >= n+20 })
	if n := w.sink.mostAtOnce("a.test"); n > 8 {
		t.Errorf("%d attempts at once", n)
	}
	w.sink.on("a.test", ok)
	w.arrivedInAll("a.test", sent...)
	l.quiet()
}

func TestProbe_BeforeItsTimeCostsADeliveryNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.sink.on("a.test", failing)
	l := w.lead(late)
	l.send("k1", "k1", "k2", "k3", "k4", "k5")
	l.quiet()
	n := w.sink.attempts("a.test")
	eventually(t, "thirty probes", func() bool { return w.sink.attempts("a.test") >= n+30 })
	if n := w.count("SELECT count(*) FROM relay.parked WHERE attempts > 1"); n > 0 {
		t.Errorf("%d deliveries have spent attempts on probes", n)
	}
	if n := w.count("SELECT count(*) FROM relay.parked WHERE attempts = 1 AND next_attempt_at < now() + interval '2 hours'"); n > 0 {
		t.Errorf("%d deliveries are due earlier than their schedule says", n)
	}
	if n := w.count("SELECT count(DISTINCT id) FROM relay.parked WHERE history::text LIKE '%probes%'"); n < 3 {
		t.Errorf("%d deliveries have tried it: they do not take turns", n)
	}
	for _, r := range w.records() {
		var all []Attempt
		if r.History == nil {
			continue
		}
		if err := json.Unmarshal(r.History, &all); err != nil {
			t.Fatal(err)
		}
		for i, a := range all {
			if a.Probes > 0 && (a.N != 0 || i != len(all)-1 || i > 1) {
				t.Errorf("probes are entry %d of %d, attempt %d", i, len(all), a.N)
			}
		}
	}
}

// One delivery alone had failed, of a key of its own.
func TestProbe_ThatSucceedsReleasesTheDeliveryThatFailedAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays = []time.Duration{0, ms, ms, ms, ms, 3 * time.Hour, 3 * time.Hour}
		o.Breaker.FirstProbe, o.Breaker.MaxProbe = time.Hour, time.Hour
	})
	w.sink.on("a.test", failing)
	alone := l.send("k1")
	eventually(t, "it is given up", func() bool { return l.p.Open() == 1 })
	w.sink.on("a.test", ok)
	l.p.mu.Lock()
	for ep := range l.p.open {
		ep.lanes.breaker.hurry(time.Now())
	}
	l.p.mu.Unlock()
	sent := append(alone, l.send("k2", "k3")...)
	w.arrivedInAll("a.test", sent...)
	l.quiet()
}

// What is shown of the next attempt is what will be, whoever asks and whichever relay leads.
func TestProbe_IsShownAsTheNextAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.sink.on("a.test", failing)
	probes := func(o *Options, _ *RecorderOptions) {
		o.Breaker.FirstProbe, o.Breaker.MaxProbe = time.Hour, time.Hour
	}
	l := w.lead(late, probes)
	l.send(keys(5)...)
	l.quiet()
	eventually(t, "it is given up", func() bool { return l.p.Open() == 1 })
	behind := l.send("k1", "new") // one waits for an earlier one, one is new
	l.quiet()
	check := func(l *leader) {
		t.Helper()
		until := l.p.Breaker(l.dir.Get(id)).Until
		soonest := 0
		for _, r := range w.records() {
			switch {
			case r.Waits:
				if r.EventID.String() != ids(behind[0])[0] || r.NextAttemptAt != nil {
					t.Errorf("%s waits for an earlier one until %v", r.EventID, r.NextAttemptAt)
				}
			case r.NextAttemptAt == nil:
				t.Errorf("%s has no next attempt", r.EventID)
			case r.NextAttemptAt.Sub(until).Abs() < time.Second:
				soonest++
			case r.NextAttemptAt.Before(until):
				t.Errorf("%s is shown at %s, and the endpoint gets nothing before %s", r.EventID, r.NextAttemptAt, until)
			}
		}
		if soonest != 1 {
			t.Errorf("%d deliveries are shown as the next probe, at %s", soonest, until)
		}
	}
	eventually(t, "it is on record", func() bool { return w.count("SELECT count(*) FROM relay.failing WHERE circuit_open") == 1 })
	check(l)
	l.stop(patience)
	check(w.lead(late, probes))
	w.exec("UPDATE relay.subscriptions SET active = false, disabled_at = now()")
	for _, r := range w.records() {
		if r.NextAttemptAt != nil || !r.Held {
			t.Errorf("%s of a disabled subscription: next attempt %v", r.EventID, r.NextAttemptAt)
		}
	}
}

func TestProbe_GoesOnAfterATakeOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.sink.on("a.test", failing)
	l := w.lead(late)
	sent := l.send(keys(8)...)
	l.quiet()
	l.stop(patience)
	next := w.lead(late)
	n := w.sink.attempts("a.test")
	eventually(t, "three probes", func() bool { return w.sink.attempts("a.test") >= n+3 })
	w.sink.on("a.test", ok)
	w.arrivedInAll("a.test", sent...)
	eventually(t, "it works again", func() bool { return next.p.Failing() == 0 && next.p.Open() == 0 })
}
