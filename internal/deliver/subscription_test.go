package deliver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDispatcher_ParksForADisabledSubscriptionAndDeliversInOrderOnceEnabled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead()
	l.setActive(id, false)
	var sent []*entry
	for range 20 { // more of a key than is loaded at once
		sent = append(sent, l.send("k1", "k2")...)
	}
	eventually(t, "all are parked", func() bool { return w.parked() == len(sent) })
	l.quiet()
	if n := w.sink.attempts("a.test"); n != 0 {
		t.Fatalf("%d attempts at a disabled endpoint", n)
	}
	if n := l.p.Parked(); n != len(sent) {
		t.Errorf("Parked() = %d, want %d", n, len(sent))
	}
	l.setActive(id, true)
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	w.inKeyOrder("a.test", sent...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
}

func TestDispatcher_StartsNothingForAnEndpointThatWasDisabledMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	sent := l.send("k1", "k1", "k1")
	l.setActive(id, false)
	close(release)
	w.arrived("a.test", sent[0])
	eventually(t, "the followers are parked", func() bool { return w.parked() == 2 })
	l.quiet()
	if n := w.sink.attempts("a.test"); n != 1 {
		t.Errorf("%d attempts, want the one that was on the wire", n)
	}
	l.setActive(id, true)
	w.arrived("a.test", sent...)
}

func TestDispatcher_DisablesASubscriptionThatAnswersGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.EndpointConcurrency, o.HandoverAfter = 1, time.Minute })
	first := make(chan struct{})
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		<-first
		return Outcome{Reason: ReasonHTTP4xx, StatusCode: 410, Detail: "HTTP 410 Gone", Gone: true}
	})
	sent := l.send("k1", "k1", "k2", "k3")
	close(first)
	eventually(t, "the subscription is disabled", func() bool {
		return w.count("SELECT count(*) FROM relay.subscriptions WHERE NOT active AND disabled_reason LIKE 'gone:%'") == 1
	})
	eventually(t, "all are parked", func() bool { return w.parked() == 4 })
	l.refresh(id) // as the notification does
	if n := w.sink.attempts("a.test"); n != 1 {
		t.Errorf("%d attempts, want none after the 410", n)
	}
	w.sink.on("a.test", ok)
	l.setActive(id, true)
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	w.inKeyOrder("a.test", sent...)
}

func TestDispatcher_CancelsWhatWaitsForARemovedSubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.subscribe("b.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays, o.HandoverAfter = []time.Duration{0, time.Hour}, time.Minute
	})
	parked := w.commit("k1")
	w.sink.on("a.test", only(parked[0], failing))
	l.take(parked...)
	eventually(t, "the failed one is parked", func() bool { return w.parked() == 1 })
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	sent := l.send("k2", "k2")
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", id)
	l.refresh(id)
	close(release)
	eventually(t, "the rest is cancelled", func() bool { return w.ended(StatusCancelled) == 2 })
	if n := w.parked(); n != 0 {
		t.Errorf("%d rows are left", n)
	}
	l.send("k1")
	l.quiet()
	if got, want := w.sink.took("a.test"), ids(sent[0]); !slices.Equal(got, want) {
		t.Errorf("the removed one took %s, want what was on the wire", w.names(got))
	}
	if n := len(w.sink.took("b.test")); n != 4 {
		t.Errorf("the other one took %d, want 4", n)
	}
	if got := l.p.Load(); got != (Load{}) {
		t.Errorf("load %+v, want nothing", got)
	}
}

func TestDispatcher_UsesTheNewURLFromTheNextAttemptOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("old.test")
	l := w.lead()
	w.sink.on("old.test", failing)
	sent := l.send("k1", "k1")
	eventually(t, "an attempt failed", func() bool { return w.sink.attempts("old.test") > 0 })
	w.exec("UPDATE relay.subscriptions SET url = 'http://new.test/' WHERE id = $1", id)
	l.refresh(id)
	w.arrived("new.test", sent...)
}

func TestDispatcher_KeepsToTheRateOfASubscriptionAndLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("slow.test")
	w.subscribe("fast.test")
	w.exec("UPDATE relay.subscriptions SET rate_limit = 40 WHERE url LIKE '%slow%'")
	l := w.lead()
	var keys []string
	for i := range 100 {
		keys = append(keys, fmt.Sprint("k", i%10))
	}
	began := time.Now()
	sent := l.send(keys...)
	all := func(host string) func() bool { return func() bool { return len(w.sink.took(host)) == len(sent) } }
	eventually(t, "the fast one has all", all("fast.test"))
	if n := len(w.sink.took("slow.test")); n >= len(sent) {
		t.Errorf("the slow one has all %d at once", n)
	}
	eventually(t, "the slow one has all", all("slow.test"))
	// A twentieth of a second may come at once.
	if took, least := time.Since(began), time.Duration(float64(len(sent)-3)/40*float64(time.Second)); took < least {
		t.Errorf("100 deliveries at 40 a second took %s, want at least %s", took, least)
	}
	w.inKeyOrder("slow.test", sent...)
	l.quiet()
}

func TestDispatcher_RetriesByTheScheduleOfTheSubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("own.test")
	w.subscribe("usual.test")
	w.exec("UPDATE relay.subscriptions SET retry_schedule = '{0,20}' WHERE url LIKE '%own%'")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays = []time.Duration{0, 20 * time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond}
	})
	e := w.commit("k1")
	w.sink.on("own.test", only(e[0], failing))
	w.sink.on("usual.test", only(e[0], failing))
	l.take(e...)
	eventually(t, "both are dead", func() bool { return w.ended(StatusDead) == 2 })
	if got := w.text("SELECT string_agg(attempts::text, ' ' ORDER BY attempts) FROM relay.deliveries"); got != "2 4" {
		t.Errorf("dead after %s attempts, want 2 and 4", got)
	}
	l.quiet()
}

func TestCheckPattern_TellsValidFromInvalid(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"*", "payment.received", "payment.*", "sales_order.confirmed", "a", "a.b.c", "a.b.*",
		"Payment.Received", "x-1.y_2", strings.Repeat("a", 255)} {
		if err := CheckPattern(p); err != nil {
			t.Errorf("%q is refused: %v", p, err)
		}
	}
	for _, p := range []string{"", ".", ".*", "*.*", "**", "payment*", "payment.rec*", "*.received", "payment..received",
		"payment.", ".payment", "payment.*.x", "pay ment", "payment.é", "payment.*.*", "a\x00b", strings.Repeat("a", 256)} {
		if CheckPattern(p) == nil {
			t.Errorf("%q is accepted", p)
		}
	}
}
