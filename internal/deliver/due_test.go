package deliver

import (
	"container/heap"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// However many endpoints fail, what they are tried by is bounded, those that work do
// not wait for it, and each gets what waited once it works.
func TestDispatcher_ManyThatFailCostNoMoreThanTheirShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const dead, perSecond = 30, 50
	for i := range dead {
		host := fmt.Sprintf("dead%d.test", i)
		w.subscribe(host)
		w.sink.on(host, failing)
	}
	w.subscribe("fast.test")
	w.sink.on("fast.test", failFirst(1)) // what waits for it comes from the table too
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.FailingRate, o.Breaker.MaxProbe = perSecond, 5*ms
		o.Schedule.Delays = append([]time.Duration{0}, o.Schedule.Delays[len(o.Schedule.Delays)-1])
		for range 200 { // none goes dead while the test lasts
			o.Schedule.Delays = append(o.Schedule.Delays, ms)
		}
	})
	attempts := func() (n int) {
		for i := range dead {
			n += w.sink.attempts(fmt.Sprintf("dead%d.test", i))
		}
		return n
	}
	first := l.send("k")
	eventually(t, "each was tried", func() bool { return attempts() >= dead })
	before, began := attempts(), time.Now()
	var sent []*entry
	for i := range 20 {
		sent = append(sent, l.send(fmt.Sprint("live", i))...)
	}
	w.arrivedInAll("fast.test", append(first, sent...)...)
	for time.Since(began) < time.Second {
		time.Sleep(10 * ms)
	}
	n, most := attempts()-before, 2*dead+perSecond+int(perSecond*time.Since(began).Seconds())
	for i := range dead { // new events are tried from memory until the breaker opens
		n -= min(5, w.sink.attempts(fmt.Sprintf("dead%d.test", i)))
	}
	if n > most {
		t.Errorf("%d attempts at endpoints that fail, want at most %d", n, most)
	}
	for i := range dead {
		w.sink.on(fmt.Sprintf("dead%d.test", i), ok)
	}
	for i := range dead {
		w.arrivedInAll(fmt.Sprintf("dead%d.test", i), append(first, sent...)...)
	}
}

// What bounds the attempts at endpoints that fail is shared by all of them: one that may have many
// attempts at once, and has one row, takes no more of it than that.
func TestDispatcher_ManyThatFailAreTriedAsOftenAsTheRateAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n, perSecond = 200, 100
	var hosts []string
	for i := range n {
		hosts = append(hosts, fmt.Sprintf("dead%d.test", i))
		w.subscribe(hosts[i])
		w.sink.on(hosts[i], failFirst(1))
	}
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.FailingRate, o.EndpointConcurrency, o.Breaker.Failures = perSecond, 64, 1000
	})
	sent := l.send("k")
	began := time.Now()
	for _, h := range hosts {
		w.arrived(h, sent...)
	}
	if took := time.Since(began); took > 3*n/perSecond*time.Second {
		t.Errorf("it took %s to try %d, at %d a second", took.Round(ms), n, perSecond)
	}
}

// The front of a list is always the endpoint with the earliest time, and each
// endpoint stands in the list of its class alone.
func TestDueList_KeepsTheEarliestInFront(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewDispatcher(Options{}, nil, &Recorder{}, nil, nil, nil)
		eps := make([]*Endpoint, 8)
		for i := range eps {
			eps[i] = &Endpoint{lanes: newLaneSet()}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			ep := rapid.SampledFrom(eps).Draw(t, "endpoint")
			at := epoch.Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "at")) * time.Second)
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				p.dueAt(ep, at)
			case 1:
				p.dueReplay(ep, at)
			case 2:
				ep.lanes.nextDue = time.Time{}
				p.line(ep)
			case 3:
				ep.lanes.works = !ep.lanes.works
				p.reline(ep)
			case 4:
				if _, fails := p.failing[ep]; fails {
					delete(p.failing, ep)
				} else {
					p.failing[ep] = struct{}{}
				}
				p.reline(ep)
			}
			for i, ep := range eps {
				s := &ep.lanes
				if rows := !s.nextDue.IsZero() || !s.replay.nextDue.IsZero(); rows != (s.due != nil) {
					t.Fatalf("endpoint %d: rows %t, in a list %t", i, rows, s.due != nil)
				}
				if s.due != nil && (s.due != &p.due[p.dueClass(ep)] || s.due.eps[s.dueIndex] != ep) {
					t.Fatalf("endpoint %d is not in its place", i)
				}
			}
			for class := range p.due {
				for i, ep := range p.due[class].eps {
					if ep.lanes.wake.Before(p.due[class].eps[0].lanes.wake) {
						t.Fatalf("class %d: number %d is before the front", class, i)
					}
				}
			}
		}
		for class := range p.due {
			var last time.Time
			for p.due[class].Len() > 0 {
				ep := heap.Pop(&p.due[class]).(*Endpoint)
				if ep.lanes.wake.Before(last) {
					t.Fatal("out of order")
				}
				last = ep.lanes.wake
			}
		}
	})
}
