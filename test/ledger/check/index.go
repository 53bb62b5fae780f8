package check

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// event is one event with what is known of it.
type event struct {
	history.Event
	tx  *history.Transaction
	row *history.Row // nil: it did not commit
}

// sub is one subscription with what came to it.
type sub struct {
	history.Subscription
	arrivals []*history.Arrival            // in order
	byEvent  map[string][]*history.Arrival // in order
	first    map[string]*history.Arrival
	taken    map[string]*history.Arrival // the first that was answered 2xx
	rows     map[string][]*history.Delivery
	parked   map[string]history.Moment // when it first had a row in relay.parked
}

// requires tells whether the subscription must get the event: it was there before the event's COMMIT was sent, and was
// never removed.
func (s *sub) requires(e *event) bool {
	return s.Removing == 0 && e.tx != nil && e.tx.CommitSent >= s.Added && s.Matches(e.Tenant, e.Type)
}

// promises tells whether the subscription was there when the event committed. What committed shortly before it was added
// may meet it as well, in no order that was promised.
func (s *sub) promises(e *event) bool {
	return e.tx != nil && e.tx.CommitSent >= s.Added && (s.Removed == 0 || e.tx.CommitSent <= s.Removed) && s.Matches(e.Tenant, e.Type)
}

func (s *sub) takenBy(id string) *history.Arrival { return s.taken[id] }

// last is the relay's record of a delivery, the one that waits before those that ended.
func (s *sub) last(id string) *history.Delivery {
	var found *history.Delivery
	for _, d := range s.rows[id] {
		if found == nil || d.Status == "PENDING" || d.Ended > found.Ended {
			found = d
		}
	}
	return found
}

// index finds things of a history.
type index struct {
	h         *history.History
	events    map[string]*event
	committed []*event // by tenant, key and number
	subs      []*sub   // by name
	byID      map[string]*sub
	answered  map[int]*history.Answered
	holes     holes
}

func newIndex(h *history.History) *index {
	x := &index{h: h, events: make(map[string]*event), byID: make(map[string]*sub), answered: make(map[int]*history.Answered)}
	for i := range h.Transactions {
		tx := &h.Transactions[i]
		for _, e := range tx.Events {
			x.events[e.ID] = &event{Event: e, tx: tx}
		}
	}
	for i := range h.Rows {
		row := &h.Rows[i]
		e := x.events[row.Event]
		if e == nil {
			e = &event{Event: history.Event{ID: row.Event}}
			x.events[row.Event] = e
		}
		e.row = row
		if e.tx != nil {
			x.committed = append(x.committed, e)
		}
	}
	slices.SortFunc(x.committed, func(a, b *event) int {
		return cmp.Or(strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Key, b.Key), a.Seq-b.Seq)
	})
	byName := make(map[string]*sub)
	for _, s := range h.Subscriptions {
		n := &sub{Subscription: s, byEvent: make(map[string][]*history.Arrival), first: make(map[string]*history.Arrival),
			taken: make(map[string]*history.Arrival), rows: make(map[string][]*history.Delivery), parked: make(map[string]history.Moment)}
		x.subs = append(x.subs, n)
		x.byID[s.ID], byName[s.Name] = n, n
	}
	slices.SortFunc(x.subs, func(a, b *sub) int { return strings.Compare(a.Name, b.Name) })
	for i := range h.Arrivals {
		a := &h.Arrivals[i]
		s := byName[a.Sub]
		if s == nil {
			continue // its INSERT was never acknowledged, and it is not in the table
		}
		s.arrivals = append(s.arrivals, a)
		s.byEvent[a.Event] = append(s.byEvent[a.Event], a)
		if s.first[a.Event] == nil {
			s.first[a.Event] = a
		}
		if a.Taken() && s.taken[a.Event] == nil {
			s.taken[a.Event] = a
		}
	}
	for i := range h.Answered {
		x.answered[h.Answered[i].N] = &h.Answered[i]
	}
	for i := range h.Deliveries {
		d := &h.Deliveries[i]
		if s := x.byID[d.Sub]; s != nil {
			s.rows[d.Event] = append(s.rows[d.Event], d)
		}
	}
	for _, t := range h.Transitions {
		if s := x.byID[t.Sub]; s != nil && t.Op == "INSERT" {
			if at, ok := s.parked[t.Event]; !ok || t.At < at {
				s.parked[t.Event] = t.At
			}
		}
	}
	x.holes = newHoles(h)
	return x
}

// answeredAt is when the relay could know how an arrival was answered: a receiver writes to disk first, which may
// take long.
func (x *index) answeredAt(a *history.Arrival) history.Moment {
	if end := x.answered[a.N]; end != nil {
		return max(end.At, a.At)
	}
	return a.At
}

// unknownAnswer tells whether the relay cannot know that an arrival was answered: by its own record that attempt
// ended without an answer, or the receiver saw that nobody waited for it.
func (x *index) unknownAnswer(a *history.Arrival, rows []*history.Delivery) bool {
	if end := x.answered[a.N]; end == nil || end.Gone || end.At.Sub(a.At) > x.h.Run.AttemptFor*3/4 {
		return true
	}
	for _, d := range rows {
		var failed []struct {
			N      int    `json:"n"`
			Reason string `json:"reason"`
		}
		if json.Unmarshal(d.Failed, &failed) != nil {
			continue
		}
		for _, f := range failed {
			if f.N == a.Attempt && (f.Reason == "timeout" || f.Reason == "connect") {
				return true
			}
		}
	}
	return false
}

// holes are times in which rows were hidden from the stream.
type holes []hole

type hole struct {
	kind     string
	from, to history.Moment
	base     uint64 // progress when it came: what lies beyond may be hidden, however old it is
}

// holeAfter is how long the positions may take to make sense again.
const holeAfter = 5 * time.Second

func newHoles(h *history.History) holes {
	var all holes
	for _, a := range h.Actions {
		if a.Incident != "" {
			one := hole{kind: a.Incident, from: a.Began, to: max(a.Ended, a.Ready)}
			for _, s := range h.Samples {
				if s.Ended < a.Began {
					one.base = s.Progress
				}
			}
			all = append(all, one)
		}
	}
	return all
}

// hid tells whether a hole may have hidden an event from the stream.
func (hs holes) hid(e *event, kinds ...string) bool {
	return slices.ContainsFunc(hs, func(h hole) bool {
		return slices.Contains(kinds, h.kind) && (e.tx.High == 0 || e.tx.High > h.base) && e.tx.CommitSent <= h.to.Add(holeAfter)
	})
}

// around tells whether a moment lies in a hole or shortly after it.
func (hs holes) around(m history.Moment) bool {
	return slices.ContainsFunc(hs, func(h hole) bool { return m >= h.from && m <= h.to.Add(holeAfter) })
}
