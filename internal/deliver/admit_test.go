package deliver

import (
	"context"
	"strconv"
	"testing"
	"time"
)

func TestDispatcher_ParksWhenTheWindowStaysFull(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]setting{
		"by count": func(o *Options, _ *RecorderOptions) { o.WindowEvents = 2 },
		"by bytes": func(o *Options, _ *RecorderOptions) { o.WindowBytes = 100 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.subscribe("a.test")
			release := make(chan struct{})
			w.sink.on("a.test", hold(release))
			l := w.lead(limit, func(o *Options, _ *RecorderOptions) { o.HandoverAfter = 300 * time.Millisecond })
			began := time.Now()
			sent := l.send("k1", "k2")
			if w.parked() != 0 {
				t.Error("parked before the window was full")
			}
			sent = append(sent, l.send("k3")...)
			if waited := time.Since(began); waited < 200*time.Millisecond {
				t.Errorf("the window was full and admission waited only %s", waited)
			}
			eventually(t, "all are parked", func() bool { return w.parked() == 3 })
			close(release)
			w.arrivedInAll("a.test", sent...)
			eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
		})
	}
}

func TestDispatcher_HoldsNoMoreThanKeepsTheMachineBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	filled := make(chan struct{}) // however slowly the rows come, they are more than go out until then
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		select {
		case <-filled:
		case <-ctx.Done():
		}
		time.Sleep(200 * time.Microsecond)
		return ok(ctx, r, try)
	})
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.WindowEvents, o.FreshConcurrency, o.EndpointConcurrency, o.Concurrency = 10*busyWindow, 4, 1000, 1000
		o.HandoverAfter = time.Hour
	})
	const sent = 2 * busyWindow
	most := 0
	for i := range sent {
		l.send(strconv.Itoa(i))
		most = max(most, l.p.Load().Window)
		if i == busyWindow/2 {
			close(filled)
		}
	}
	if most > busyWindow {
		t.Errorf("%d deliveries were in memory, want at most %d", most, busyWindow)
	}
	if most < busyWindow/2 {
		t.Errorf("only %d deliveries were in memory at once: the test shows nothing", most)
	}
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == sent })
}

// Deliveries that wait for their endpoint leave the machine idle: the window takes
// all that comes for others.
func TestDispatcher_WhatWaitsForItsEndpointKeepsNothingOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("slow.test")
	w.subscribe("fast.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.WindowEvents, o.FreshConcurrency, o.EndpointConcurrency, o.HandoverAfter = 10*busyWindow, 4, 4, time.Hour
	})
	release := make(chan struct{})
	w.sink.on("slow.test", hold(release))
	const sent = busyWindow + 500
	for i := range sent {
		l.send(strconv.Itoa(i))
	}
	eventually(t, "all arrive at the fast one", func() bool { return len(w.sink.took("fast.test")) == sent })
	eventually(t, "the slow one's are in memory, and no others", func() bool { return l.p.Load().Window == sent })
	close(release)
	eventually(t, "all arrive at the slow one", func() bool { return len(w.sink.took("slow.test")) == sent })
}

func TestDispatcher_LetsThroughAsTheWindowEmpties(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	turn := make(chan struct{})
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		select {
		case <-turn:
			return ok(ctx, r, try)
		case <-ctx.Done():
			return Outcome{Aborted: true}
		}
	})
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.WindowEvents, o.HandoverAfter = 2, time.Minute })
	sent := l.send("k1", "k2")
	third := w.commit("k3")
	done := make(chan error, 1)
	go func() { done <- l.tryTake(context.Background(), third...) }()
	turn <- struct{}{}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	turn <- struct{}{}
	turn <- struct{}{}
	w.arrivedInAll("a.test", append(sent, third...)...)
	l.quiet()
	if n := w.count("SELECT count(*) FROM relay.bodies"); n != 0 {
		t.Errorf("%d bodies: something was parked", n)
	}
}

func TestDispatcher_AdmissionGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.sink.on("a.test", hold(nil))
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.WindowEvents, o.HandoverAfter = 1, time.Minute })
	l.send("k1")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.tryTake(ctx, w.commit("k2")...); err != context.Canceled {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
