package deliver

import (
	"container/heap"
	"time"
)

// dueClass tells what an endpoint is known for. Rows are loaded in this order.
type dueClass int

const (
	dueWorks   dueClass = iota // its last attempt was taken
	dueUnknown                 // no attempt has ended yet
	dueFails                   // it has taken nothing since it last failed
	dueClasses
)

// dueList holds the endpoints of one class that have rows to be loaded, the one that
// wants it first at the front.
type dueList struct{ eps []*Endpoint }

// Len, Less, Swap, Push and Pop implement [heap.Interface].
func (l *dueList) Len() int { return len(l.eps) }

func (l *dueList) Less(i, j int) bool { return l.eps[i].lanes.wake.Before(l.eps[j].lanes.wake) }

func (l *dueList) Swap(i, j int) {
	l.eps[i], l.eps[j] = l.eps[j], l.eps[i]
	l.eps[i].lanes.dueIndex, l.eps[j].lanes.dueIndex = i, j
}

func (l *dueList) Push(x any) {
	ep := x.(*Endpoint)
	ep.lanes.dueIndex, ep.lanes.due = len(l.eps), l
	l.eps = append(l.eps, ep)
}

func (l *dueList) Pop() any {
	last := len(l.eps) - 1
	ep := l.eps[last]
	l.eps[last] = nil
	l.eps = l.eps[:last]
	ep.lanes.due = nil
	return ep
}

func (p *Dispatcher) dueClass(ep *Endpoint) dueClass {
	if ep.lanes.works {
		return dueWorks
	}
	if _, fails := p.failing[ep]; fails {
		return dueFails
	}
	return dueUnknown
}

// line lines an endpoint up for the loader by the time that its rows name, or by that of
// its next probe, or takes it out when they name none. It stands behind those that have waited since before it
// was looked at: rows of a replay there may be no room for in hours, and those of the
// stream would be loaded before everybody else's meanwhile.
func (p *Dispatcher) line(ep *Endpoint) {
	s := &ep.lanes
	at := s.nextDue
	if r := s.replay.nextDue; at.IsZero() || !r.IsZero() && r.Before(at) {
		at = r
	}
	if s.breaker.open && !at.IsZero() {
		at = s.breaker.until // the soonest one tries the endpoint, whatever time it waits for
	}
	if !at.IsZero() && at.Before(s.looked) {
		at = s.looked
	}
	p.lineAt(ep, at)
}

func (p *Dispatcher) lineAt(ep *Endpoint, at time.Time) {
	s := &ep.lanes
	list := &p.due[p.dueClass(ep)]
	if s.due != nil && (s.due != list || at.IsZero()) {
		heap.Remove(s.due, s.dueIndex)
	}
	s.wake = at
	switch {
	case at.IsZero():
	case s.due == nil:
		heap.Push(list, ep)
	default:
		heap.Fix(list, s.dueIndex)
	}
}

// reline puts an endpoint in its place after what is known of it has changed.
func (p *Dispatcher) reline(ep *Endpoint) {
	if ep.lanes.due != nil {
		p.lineAt(ep, ep.lanes.wake)
	}
}
