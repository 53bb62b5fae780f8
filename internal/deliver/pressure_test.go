package deliver

import (
	"testing"
	"time"
)

func TestPressure_ParksAtOnceWhatIsNotDeliveredAtTheFirstTry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("slow.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.HandoverAfter, o.Timeout, o.EndpointConcurrency = time.Hour, 2*time.Hour, 1
	})
	release := make(chan struct{})
	w.sink.on("slow.test", hold(release))
	sent := l.send("a", "b", "b", "c")
	eventually(t, "one is on the wire", func() bool { return w.sink.attempts("slow.test") == 1 })
	if load := l.p.Load(); load.Window != 4 || w.parked() != 0 {
		t.Fatalf("%+v, %d parked: the test shows nothing", load, w.parked())
	}
	l.p.SetPressure(PressureHigh)
	l.quiet() // all of it is confirmed, though the endpoint has answered nothing
	if n := w.parked(); n != 4 {
		t.Errorf("%d are parked, want 4", n)
	}
	l.p.mu.Lock()
	hangs := l.dir.All()[0].lanes.breaker.open
	l.p.mu.Unlock()
	if hangs {
		t.Error("pressure says nothing of an endpoint")
	}
	close(release)
	eventually(t, "all are recorded", func() bool { return w.ended(StatusDelivered) == 4 })
	w.inKeyOrder("slow.test", sent...)
	l.p.SetPressure(PressureNone)
	if n := l.p.handoverAfter(); n != time.Hour {
		t.Errorf("the hand-over stays at %s", n)
	}
}

func TestPressure_AtItsFullestParksEveryEventBeforeItsFirstAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	l.p.SetPressure(PressureFull)
	sent := l.send("a", "b", "a", "c")
	if load := l.p.Load(); load.Window != 0 {
		t.Errorf("%d deliveries are in memory only", load.Window)
	}
	eventually(t, "all are delivered from the table", func() bool { return w.ended(StatusDelivered) == 4 && w.parked() == 0 })
	w.inKeyOrder("a.test", sent...)
	l.p.SetPressure(PressureNone)
	sent = append(sent, l.send("a", "b")...)
	eventually(t, "the next go from memory", func() bool { return w.ended(StatusDelivered) == 6 })
	w.inKeyOrder("a.test", sent...)
}
