package deliver

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

func disableAfter(d time.Duration) setting {
	return func(o *Options, _ *RecorderOptions) { o.Disable = DisableOptions{After: d, Warning: d / 2} }
}

const isFailing = "SELECT count(*) FROM relay.failing WHERE subscription_id = $1"

func TestCondition_DisablesWhatFailsForTooLongAndKeepsItsEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(disableAfter(300*ms), func(o *Options, _ *RecorderOptions) {
		for i := range 200 {
			o.Schedule.Delays = append(o.Schedule.Delays, time.Duration(20+i)*ms)
		}
	})
	w.sink.on("a.test", failing)
	sent := l.send(keys(20)...)
	eventually(t, "the subscription is disabled", func() bool {
		return w.count("SELECT count(*) FROM relay.subscriptions WHERE NOT active AND disabled_reason LIKE 'failing: %http_5xx'") == 1
	})
	l.refresh(id) // as the notification does
	eventually(t, "what was on the wire has ended", func() bool { return l.p.Load().InFlight == 0 })
	n := w.sink.attempts("a.test")
	sent = append(sent, l.send(keys(20)...)...)
	l.quiet()
	if w.sink.attempts("a.test") != n {
		t.Error("attempts at a disabled endpoint")
	}
	if w.parked() != len(sent) {
		t.Errorf("%d rows, want %d: events of a disabled endpoint are kept", w.parked(), len(sent))
	}
	for name, want := range map[string]float64{"relay_endpoints_disabled_total": 1, "relay_endpoint_warnings_total": 1} {
		if got := l.metric(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	w.sink.on("a.test", ok)
	if err := (Subscriptions{DB: w.pool}).SetActive(context.Background(), id, true, ""); err != nil {
		t.Fatal(err)
	}
	l.refresh(id)
	w.arrivedInAll("a.test", sent...)
	w.inKeyOrder("a.test", sent...)
	l.quiet()
	if w.count(isFailing, id) != 0 {
		t.Error("the failures are remembered after it was enabled again")
	}
}

func TestCondition_ARestartDoesNotForgetSinceWhenItFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.sink.on("a.test", failing)
	l := w.lead()
	l.send("k1")
	eventually(t, "it is known to fail", func() bool { return w.count(isFailing, id) == 1 })
	since := w.text("SELECT since::text FROM relay.failing")
	l.stop(patience)
	next := w.lead()
	if next.p.Failing() != 1 || next.p.Open() != 1 {
		t.Errorf("%d failing and %d given up after the restart, want 1 and 1", next.p.Failing(), next.p.Open())
	}
	n := w.sink.attempts("a.test")
	eventually(t, "it is tried", func() bool { return w.sink.attempts("a.test") > n })
	next.quiet()
	if got := w.text("SELECT since::text FROM relay.failing"); got != since {
		t.Errorf("it fails since %s, before the restart since %s", got, since)
	}
	w.sink.on("a.test", ok)
	eventually(t, "it works again", func() bool { return w.count(isFailing, id) == 0 && next.p.Failing() == 0 })
}

func TestCondition_EndlessThrottlingEndsWithDisabling(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(disableAfter(200 * ms))
	w.sink.on("a.test", func(context.Context, *Request, int) Outcome { return throttle(0) })
	l.send("k1", "k2")
	eventually(t, "the subscription is disabled", func() bool {
		return w.count("SELECT count(*) FROM relay.subscriptions WHERE NOT active AND disabled_reason LIKE 'failing: %http_429'") == 1
	})
	if n := w.count("SELECT count(*) FROM relay.parked WHERE attempts = 0"); n != 2 {
		t.Errorf("%d deliveries wait without having spent an attempt, want 2", n)
	}
}

func TestCondition_AnotherURLBeginsAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.sink.on("a.test", failing)
	w.sink.on("b.test", hold(nil))
	l := w.lead()
	l.send(keys(8)...)
	eventually(t, "it is given up", func() bool { return l.p.Open() == 1 && w.count(isFailing, id) == 1 })
	w.exec("UPDATE relay.subscriptions SET url = 'http://b.test/' WHERE id = $1", id)
	l.refresh(id)
	eventually(t, "several attempts at the new one", func() bool { return w.sink.attempts("b.test") > 1 })
	eventually(t, "the failures of the old one are forgotten", func() bool { return w.count(isFailing, id) == 0 })
}

func TestCondition_EnablingForgetsFailuresThoughNoRelayRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.exec("INSERT INTO relay.failing VALUES ($1, now() - interval '9 days', now() - interval '8 days')", id)
	s := Subscriptions{DB: w.pool}
	if sub, err := s.Get(t.Context(), id); err != nil || sub.FailingSince == nil || sub.WarnedAt == nil {
		t.Errorf("shown as %+v, %v: not as failing", sub, err)
	}
	for i, active := range []bool{false, true} {
		if err := s.SetActive(t.Context(), id, active, "why"); err != nil {
			t.Fatal(err)
		}
		if n := w.count(isFailing, id); (n == 0) != (i == 1) {
			t.Errorf("change %d, to active %v: %d rows", i, active, n)
		}
	}
	if sub, err := s.Get(t.Context(), id); err != nil || sub.FailingSince != nil {
		t.Errorf("shown as %+v, %v", sub, err)
	}
}

// Somebody says that an endpoint works again which is failing and was never disabled.
func TestCondition_EnablingAnActiveOneForgetsItsFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.sink.on("a.test", failing)
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays = []time.Duration{0, time.Hour}
		o.Breaker.FirstProbe, o.Breaker.MaxProbe = time.Hour, time.Hour
	})
	sent := l.send(keys(8)...)
	l.quiet()
	eventually(t, "it is given up", func() bool { return l.p.Open() == 1 && w.count(isFailing, id) == 1 })
	w.sink.on("a.test", ok)
	if err := (Subscriptions{DB: w.pool}).SetActive(t.Context(), id, true, ""); err != nil {
		t.Fatal(err)
	}
	l.refresh(id) // as the notification does
	w.arrivedInAll("a.test", sent...)
	l.quiet()
	if l.p.Open() != 0 || l.p.Failing() != 0 || w.count(isFailing, id) != 0 {
		t.Error("it counts as failing after somebody has said that it works")
	}
	if n := w.sink.mostAtOnce("a.test"); n < 1 {
		t.Errorf("%d at once", n)
	}
}

func TestCondition_DisablingADisabledOneKeepsItsReasonUnlessGivenAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	s := Subscriptions{DB: w.pool}
	for _, step := range []struct{ given, want string }{{"first", "first"}, {"", "first"}, {"second", "second"}} {
		if err := s.SetActive(t.Context(), id, false, step.given); err != nil {
			t.Fatal(err)
		}
		if got := w.text("SELECT disabled_reason FROM relay.subscriptions"); got != step.want {
			t.Errorf("given %q, the reason is %q, want %q", step.given, got, step.want)
		}
	}
}

// metric is the sum of a counter over its labels.
func (l *leader) metric(name string) float64 {
	l.t.Helper()
	families, err := l.registry.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// changing changes the subscription just before the relay writes that it is disabled.
type changing struct {
	Pool
	change func()
	once   sync.Once
}

func (c *changing) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	for _, q := range b.QueuedQueries {
		if q.SQL == sqlDisable {
			c.once.Do(c.change)
		}
	}
	return c.Pool.SendBatch(ctx, b)
}

// Somebody gives the subscription another URL, or enables it, while the relay is about to
// disable it for what it knows of the old one.
func TestCondition_DisablesNoSubscriptionThatWasChangedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"enabled":          "UPDATE relay.subscriptions SET active = true, updated_at = clock_timestamp() WHERE id = $1",
		"new URL":          "UPDATE relay.subscriptions SET url = 'https://b.test/', updated_at = clock_timestamp() WHERE id = $1",
		"new URL, by hand": "UPDATE relay.subscriptions SET url = 'https://b.test/' WHERE id = $1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			id := w.subscribe("a.test")
			changed := make(chan struct{})
			w.db = &changing{Pool: w.pool, change: func() { w.exec(change, id); close(changed) }}
			l := w.lead(func(o *Options, _ *RecorderOptions) { o.EndpointConcurrency = 1 })
			w.sink.on("a.test", func(_ context.Context, _ *Request, try int) Outcome {
				select {
				case <-changed:
					return Outcome{StatusCode: 204}
				default:
					return Outcome{Reason: ReasonHTTP4xx, StatusCode: 410, Gone: true}
				}
			})
			sent := l.send("k1", "k2")
			<-changed
			l.refresh(id) // as the notification does
			eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test"))+len(w.sink.took("b.test")) == len(sent) })
			l.quiet()
			if n := w.count("SELECT count(*) FROM relay.subscriptions WHERE active"); n != 1 {
				t.Error("the change was overridden")
			}
		})
	}
}

// An attempt was on its way to the old URL when somebody set another one. Its 410 says nothing
// of that.
func TestCondition_TakesNoAnswerOfTheOldURLForTheNewOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.EndpointConcurrency, o.HandoverAfter = 1, time.Minute })
	release := make(chan struct{})
	w.sink.on("a.test", func(context.Context, *Request, int) Outcome {
		<-release
		return Outcome{Reason: ReasonHTTP4xx, StatusCode: 410, Gone: true}
	})
	sent := l.send("k1", "k1")
	eventually(t, "the first is on its way", func() bool { return w.sink.attempts("a.test") == 1 })
	w.exec("UPDATE relay.subscriptions SET url = 'https://b.test/', updated_at = clock_timestamp() WHERE id = $1", id)
	l.refresh(id)
	close(release)
	eventually(t, "all arrive at the new URL", func() bool { return len(w.sink.took("b.test")) == len(sent) })
	l.quiet()
	if n := w.count("SELECT count(*) FROM relay.subscriptions WHERE active"); n != 1 {
		t.Error("it was disabled for what the old URL answered")
	}
}

// parkRows puts rows into the table, each in a lane of its own, of a replay unless
// that is 0.
func (w *world) parkRows(n int, sub uuid.UUID, replay int64, next string) {
	w.t.Helper()
	w.exec(`INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id, committed_at, body)
SELECT '0/1'::pg_lsn + g, gen_random_uuid(), 'acme', 'x', 'order', g::text, now(), 'x' FROM generate_series(1, $1::int) AS g`, n)
	w.exec(`INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, created_at, next_attempt_at, replay_id)
SELECT $1, commit_lsn, 0, event_id, gen_random_uuid(), hashtextextended(aggregate_id, 0), now(), `+next+`, nullif($2::bigint, 0) FROM relay.bodies`,
		sub, replay)
}

// Attempts that were on the wire when the URL was changed tell of the old one.
func TestCondition_WhatTheOldURLAnswersSaysNothingOfTheNewOne(t *testing.T) {
	t.Parallel()
	gone := Outcome{Reason: ReasonHTTP4xx, StatusCode: 410, Detail: "HTTP 410 Gone", Gone: true}
	for name, answer := range map[string]Outcome{"failures": errOutcome, "410": gone, "429": throttle(time.Hour), "none": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			id := w.subscribe("old.test")
			hangs := name == "none"
			l := w.lead(func(o *Options, _ *RecorderOptions) {
				o.Schedule.Delays = []time.Duration{0, time.Hour}
				if !hangs {
					o.HandoverAfter = time.Minute
				}
			})
			release := make(chan struct{})
			w.sink.on("old.test", func(ctx context.Context, r *Request, try int) Outcome {
				if out := hold(release)(ctx, r, try); out.Aborted || hangs {
					return out
				}
				return answer
			})
			sent := l.send(keys(8)...)
			eventually(t, "all are on the wire", func() bool { return w.sink.attempts("old.test") == len(sent) })
			w.exec("UPDATE relay.subscriptions SET url = 'http://new.test/' WHERE id = $1", id)
			l.refresh(id)
			if hangs {
				eventually(t, "they hang", func() bool {
					l.p.mu.Lock()
					defer l.p.mu.Unlock()
					return l.p.hanging == len(sent)
				})
			} else {
				hold := make(chan struct{})
				w.sink.on("new.test", func(ctx context.Context, r *Request, try int) Outcome {
					<-hold
					return ok(ctx, r, try)
				})
				close(release)
				eventually(t, "the new one is tried at once", func() bool { return w.sink.attempts("new.test") > 0 })
				defer w.arrivedInAll("new.test", sent...)
				defer close(hold)
			}
			eventually(t, "all is recorded", l.rec.Idle)
			if l.p.Open() != 0 || l.p.Failing() != 0 || w.count(isFailing, id) != 0 {
				t.Errorf("%d given up and %d failing, %d on record, by what the old one did", l.p.Open(), l.p.Failing(), w.count(isFailing, id))
			}
			if n := w.count("SELECT count(*) FROM relay.subscriptions WHERE active"); n != 1 {
				t.Error("disabled by what the old one did")
			}
			l.p.mu.Lock()
			if s := &l.dir.Get(id).lanes; s.pace.until.After(time.Now()) || s.disabled {
				t.Errorf("paused or disabled by what the old one did: %+v", s.pace)
			}
			l.p.mu.Unlock()
		})
	}
}

// The endpoint answers 410 after the URL was changed and before the relay has heard of
// it: the database decides.
func TestCondition_A410ThatCrossesAChangeOfTheURLDisablesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("old.test")
	l := w.lead()
	release := make(chan struct{})
	w.sink.on("old.test", func(ctx context.Context, r *Request, try int) Outcome {
		<-release
		return Outcome{Reason: ReasonHTTP4xx, StatusCode: 410, Gone: true}
	})
	sent := l.send("k1")
	eventually(t, "it is on the wire", func() bool { return w.sink.attempts("old.test") == 1 })
	w.exec("UPDATE relay.subscriptions SET url = 'http://new.test/' WHERE id = $1", id)
	close(release)
	eventually(t, "the answer is handled", func() bool { return l.p.Load().InFlight == 0 && l.rec.Idle() })
	if n := w.count("SELECT count(*) FROM relay.subscriptions WHERE active"); n != 1 {
		t.Error("the new URL is disabled by the answer of the old one")
	}
	l.refresh(id)
	w.arrived("new.test", sent...)
}

// What waits for hours, because an endpoint failed, waits no longer once somebody has
// mended it.
func TestCondition_WhatWaitsBeginsAtOnceWhenSomebodyMendsTheEndpoint(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(l *leader, id uuid.UUID){
		"enabled": func(l *leader, id uuid.UUID) {
			l.setActive(id, false)
			l.setActive(id, true)
		},
		"another URL": func(l *leader, id uuid.UUID) {
			l.exec("UPDATE relay.subscriptions SET url = url || 'new' WHERE id = $1", id)
			l.refresh(id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			id := w.subscribe("a.test")
			l := w.lead(func(o *Options, _ *RecorderOptions) {
				o.Schedule.Delays = []time.Duration{0, time.Hour}
				o.Breaker.Failures = 1000 // no probe finds out
			})
			w.sink.on("a.test", failing)
			sent := l.send(keys(20)...)
			eventually(t, "all wait", func() bool {
				return w.count("SELECT count(*) FROM relay.parked WHERE next_attempt_at > now() + interval '30 min'") == len(sent)
			})
			w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
				time.Sleep(2 * time.Millisecond)
				return ok(ctx, r, try)
			})
			w.sink.mu.Lock()
			w.sink.most["a.test"] = 0
			w.sink.mu.Unlock()
			mend(l, id)
			w.arrivedInAll("a.test", sent...)
			if n := w.sink.mostAtOnce("a.test"); n > 7 {
				t.Errorf("%d at once: it does not begin slowly", n)
			}
		})
	}
}

// A large backlog is made due little by little, so that nobody's outcomes wait for it.
func TestCondition_MuchIsHurriedLittleByLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.exec("UPDATE relay.subscriptions SET active = false")
	const n = 2*hurryRows + 7
	w.parkRows(n, id, 0, "now() + interval '1 h'")
	w.sink.on("a.test", hold(nil))
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
	before := l.rec.Written()
	l.setActive(id, true)
	eventually(t, "all are due", func() bool { return w.count("SELECT count(*) FROM relay.parked WHERE next_attempt_at > now()") == 0 })
	if got := l.rec.Written() - before; got < 3 {
		t.Errorf("it took %d batches", got)
	}
	if got := w.parked(); got != n {
		t.Errorf("%d rows are left, want %d", got, n)
	}
}

func TestCondition_AFaultOnOurSideDisablesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(disableAfter(100*ms), func(o *Options, _ *RecorderOptions) {
		for i := range 200 {
			o.Schedule.Delays = append(o.Schedule.Delays, time.Duration(10+i)*ms)
		}
	})
	w.sink.on("a.test", func(context.Context, *Request, int) Outcome {
		return Outcome{Reason: ReasonConnect, Detail: "the egress proxy could not be used", OurFault: true}
	})
	began := time.Now()
	sent := l.send(keys(20)...)
	eventually(t, "the breaker spares the attempts", func() bool { return l.p.Open() == 1 })
	eventually(t, "it has lasted three times as long as an endpoint may fail", func() bool { return time.Since(began) > 300*ms })
	n := w.sink.attempts("a.test")
	eventually(t, "it is tried again", func() bool { return w.sink.attempts("a.test") > n })
	if w.count("SELECT count(*) FROM relay.subscriptions WHERE active") != 1 || w.count(isFailing, id) != 0 || l.metric("relay_endpoint_warnings_total") != 0 {
		t.Error("the endpoint is held to be at fault")
	}
	w.sink.on("a.test", ok)
	w.arrivedInAll("a.test", sent...)
	w.inKeyOrder("a.test", sent...)
}
