package deliver

import (
	"testing"
	"time"
)

// Two subscriptions have a lane of the same key; what is in memory for one must
// not keep the other's rows from being loaded.
func TestDispatcher_LoadsALaneWhoseKeyIsBusyAtAnotherEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.subscribe("b.test")
	l := w.lead()
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	w.sink.on("b.test", failFirst(3))
	defer close(release)
	sent := l.send("k1", "k1", "k1", "k2")
	eventually(t, "all arrive at the other", func() bool { return len(w.sink.took("b.test")) == len(sent) })
	w.inKeyOrder("b.test", sent...)
}

// Rows that become due just while others of their lane are being written must not
// be forgotten.
func TestDispatcher_LoadsALaneThatWasBeingWrittenWhenItBecameDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(_ *Options, ro *RecorderOptions) { ro.Interval = 100 * time.Millisecond })
	w.sink.on("a.test", failFirst(1))
	var sent []*entry
	for range 40 { // a new follower is on its way to the table all the time
		sent = append(sent, l.send("k1")...)
		time.Sleep(3 * time.Millisecond) // paces the input, waits for nothing
	}
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	w.inKeyOrder("a.test", sent...)
}

// A busy endpoint always has lanes in memory; its retries must not wait for a lull.
func TestDispatcher_RetriesWhileTheEndpointIsBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.EndpointConcurrency, o.HandoverAfter = 1, time.Minute
		o.Schedule.Delays = []time.Duration{0, 2 * time.Second, time.Hour} // it must not be due before the others are there
	})
	failed := w.commit("failed")
	w.sink.on("a.test", only(failed[0], failing))
	l.take(failed...)
	eventually(t, "it is parked", func() bool { return w.parked() == 1 })
	release := make(chan struct{})
	defer close(release)
	w.sink.on("a.test", hold(release))
	l.send("b1", "b2", "b3")
	eventually(t, "the row is loaded although fresh lanes wait", func() bool { return l.p.Load().Loaded == 1 })
}
