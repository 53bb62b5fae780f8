package deliver

import (
	"context"
	"testing"
	"time"
)

// The only thing that may try an endpoint that was given up is on the wire when
// its replay is cancelled.
func TestReplay_CancelledDuringItsProbeLetsAnotherProbe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	w.exec("INSERT INTO relay.failing (subscription_id, since) VALUES ($1, now())", sub)
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Hour })
	old := w.commit("k")
	id := w.replayOf(sub, 1)
	l.again(id, sub, 0, old...)
	eventually(t, "the replay probes", func() bool { return w.sink.attempts("a.test") == 1 })
	l.p.CancelReplay(l.dir.Get(sub), id, "by a test")
	eventually(t, "it is cancelled", func() bool { return w.replayState(id).State == ReplayCancelled })
	live := l.send("k", "j")
	close(release)
	eventually(t, "the live events arrive", func() bool { return len(w.sink.took("a.test")) == 3 && w.parked() == 0 })
	w.inKeyOrder("a.test", append(old, live...)...)
}

// An attempt that hangs outlives its subscription. The stream does not wait for it,
// and it leaves no row behind that nobody cancels.
func TestRemoved_AnAttemptThatHangsIsNotParked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	l := w.lead()
	l.send("k")
	eventually(t, "it is on the wire", func() bool { return w.sink.attempts("a.test") == 1 })
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", sub)
	l.refresh(sub)
	l.quiet()
	close(release)
	eventually(t, "nothing is on the wire", func() bool { return l.p.Load() == Load{} && l.rec.Idle() })
	if n := w.parked(); n != 0 {
		t.Errorf("%d rows of a subscription that is gone", n)
	}
	if n := w.ended(StatusCancelled); n != 1 {
		t.Errorf("%d are cancelled, want 1", n)
	}
}

// A request that is carried out twice parks its event twice: the second time there
// is a row already. A lane that counted it would wait for it for ever.
func TestRelease_TwiceCountsOneRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	e := w.commit("k")[0]
	behind := w.commit("k")
	f := e.f
	again := e.f
	l.p.Release(&f, l.dir.Match(f.TenantID, f.Type), 0, 0)
	l.p.Release(&again, l.dir.Match(f.TenantID, f.Type), 0, 0)
	l.take(behind...)
	eventually(t, "everything has ended", func() bool { return l.p.Load() == Load{} && l.rec.Idle() && w.parked() == 0 })
	if n := l.p.Parked(); n != 0 {
		t.Errorf("%d are counted as parked when none is", n)
	}
	more := l.send("k")
	eventually(t, "a later event of the key arrives", func() bool {
		took := w.sink.took("a.test")
		return len(took) > 0 && took[len(took)-1] == more[0].f.EventID.String()
	})
}

// A dead letter may be gone when it comes to bringing it back.
func TestRetry_OfADeadOneThatIsGoneCountsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.sink.on("a.test", failing)
	l := w.lead(attempts(1), func(_ *Options, ro *RecorderOptions) { ro.Interval = 200 * ms })
	l.send("k")
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 && l.rec.Idle() })
	w.sink.on("a.test", ok)
	list, err := (Records{DB: w.pool}).List(context.Background(), Filter{Status: StatusDead, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	l.retry(list[0].ID)
	w.exec("DELETE FROM relay.deliveries")
	more := l.send("k")
	w.arrived("a.test", more...)
	eventually(t, "nothing is parked", func() bool { return l.rec.Idle() && w.parked() == 0 && l.p.Parked() == 0 })
}
