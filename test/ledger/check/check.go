package check

import (
	"fmt"
	"slices"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// Violation is one way in which a history breaks an invariant.
type Violation struct {
	Invariant string // I1 to I12
	Event     string // empty when it is about the whole run
	Sub       string // name of the subscription, if it is about one
	Text      string
}

func (v Violation) String() string {
	s := v.Invariant + ": " + v.Text
	if v.Sub != "" {
		s += " [" + v.Sub + "]"
	}
	return s
}

// Result is what a check found.
type Result struct {
	Violations []Violation
	Figures    Figures
	index      *index
}

// Kinds are the invariants that are broken, each once, in order.
func (r *Result) Kinds() []string {
	var kinds []string
	for _, v := range r.Violations {
		if !slices.Contains(kinds, v.Invariant) {
			kinds = append(kinds, v.Invariant)
		}
	}
	slices.SortFunc(kinds, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return slices.Compare([]byte(a), []byte(b))
	})
	return kinds
}

func (r *Result) add(invariant, event, sub, format string, args ...any) {
	r.Violations = append(r.Violations, Violation{Invariant: invariant, Event: event, Sub: sub, Text: fmt.Sprintf(format, args...)})
}

// Check judges a history.
func Check(h *history.History) *Result {
	r := &Result{index: newIndex(h)}
	r.acknowledged()
	for _, s := range r.index.subs {
		r.arrivals(s)
		r.loss(s)
		r.order(s)
		r.books(s)
		r.numbers(s)
	}
	r.quarantine()
	r.repeats()
	r.positions()
	r.run()
	r.figures()
	return r
}

// acknowledged is I3: what a writer was told is so.
func (r *Result) acknowledged() {
	for id, e := range r.index.events {
		switch {
		case e.tx == nil:
			r.add("I3", id, "", "a row that no writer wrote is in the shadow table")
		case e.row == nil && e.tx.Outcome == history.Committed && !e.Undone:
			r.add("I3", id, "", "the writer was told that it committed, and the database does not have it")
		case e.row != nil && (e.tx.Outcome == history.Aborted || e.Undone):
			r.add("I3", id, "", "it was rolled back, and the database has it")
		}
	}
}

// arrivals is about each request by itself: I2 no phantom, I6 bytes, I7 isolation.
func (r *Result) arrivals(s *sub) {
	for _, a := range s.arrivals {
		if a.Fault != "" {
			r.add("I6", a.Event, s.Name, "arrival %d: %s", a.N, a.Fault)
		}
		e := r.index.events[a.Event]
		switch {
		case e == nil || e.row == nil:
			r.add("I2", a.Event, s.Name, "arrival %d: it did not commit", a.N)
			continue
		case e.tx != nil && a.At < e.tx.CommitSent:
			r.add("I2", a.Event, s.Name, "arrival %d: it came before its COMMIT was sent", a.N)
		}
		if e.tx == nil {
			continue
		}
		if e.Tenant != s.Tenant || a.Tenant != s.Tenant {
			r.add("I7", a.Event, s.Name, "arrival %d: an event of tenant %s, of %s by its body, came to one of tenant %s", a.N, e.Tenant, a.Tenant, s.Tenant)
			continue
		}
		switch {
		case !s.Matches(e.Tenant, e.Type):
			r.add("I2", a.Event, s.Name, "arrival %d: its type %s is not for this subscription", a.N, e.Type)
		case s.Removed != 0 && e.tx.CommitSent > s.Removed:
			r.add("I2", a.Event, s.Name, "arrival %d: it committed after the subscription was removed", a.N)
		}
		switch {
		case e.Bad:
			r.add("I6", a.Event, s.Name, "arrival %d: a row that is no valid event was delivered", a.N)
		case a.Body != e.Body || a.Type != e.Type:
			r.add("I6", a.Event, s.Name, "arrival %d: the body is not what was written", a.N)
		}
	}
}

// loss is I1: each committed event was taken, is a dead letter, or still waits, which is a matter of I10.
func (r *Result) loss(s *sub) {
	for _, e := range r.index.committed {
		if e.Bad || !s.requires(e) || s.takenBy(e.ID) != nil {
			continue
		}
		switch d := s.last(e.ID); {
		case d == nil:
			r.add("I1", e.ID, s.Name, "number %d of key %s is lost", e.Seq, e.Key)
		case d.Status == "PENDING":
			r.add("I10", e.ID, s.Name, "number %d of key %s still waits at the end", e.Seq, e.Key)
		case d.Status != "DEAD":
			r.add("I1", e.ID, s.Name, "number %d of key %s was not taken, and is on record as %s", e.Seq, e.Key, d.Status)
		}
	}
}

// order is I4: first arrivals of a key in the order of commits, none before its predecessor was taken or died.
func (r *Result) order(s *sub) {
	if s.Ordering == "none" {
		return
	}
	before := make(map[string]*event)
	for _, e := range r.index.committed { // by key and number
		if e.Bad || !s.promises(e) {
			continue
		}
		first := s.first[e.ID]
		if first == nil && !s.requires(e) {
			continue // committed around the time at which the subscription went
		}
		b := before[e.Tenant+"\x00"+e.Key]
		before[e.Tenant+"\x00"+e.Key] = e
		if b == nil || first == nil {
			continue
		}
		switch taken := s.takenBy(b.ID); {
		case taken != nil && taken.N < first.N:
		case taken == nil && s.last(b.ID) != nil && s.last(b.ID).Status == "DEAD":
			if first.At < s.last(b.ID).Ended {
				r.add("I4", e.ID, s.Name, "arrival %d: number %d of key %s came before number %d (%s) had died", first.N, e.Seq, e.Key, b.Seq, b.ID)
			}
		case r.index.holes.hid(b, history.HoleAudited):
			// What only the audit finds comes later than what came through the stream.
		default:
			r.add("I4", e.ID, s.Name, "arrival %d: number %d of key %s came before number %d (%s) was taken", first.N, e.Seq, e.Key, b.Seq, b.ID)
		}
	}
}

// books is I8: what the relay recorded is what receivers know.
func (r *Result) books(s *sub) {
	for id, rows := range s.rows {
		delivered := 0
		for _, d := range rows {
			switch d.Status {
			case "DELIVERED":
				delivered++
				if !slices.ContainsFunc(s.byEvent[id], func(a *history.Arrival) bool { return a.Taken() && a.Attempt == d.Attempts }) {
					r.add("I8", id, s.Name, "on record as delivered by attempt %d, which no receiver took", d.Attempts)
				}
			case "DEAD":
				if s.takenBy(id) != nil && delivered == 0 && !r.index.unknownAnswer(s.takenBy(id), rows) {
					r.add("I8", id, s.Name, "on record as dead, and a receiver took it")
				}
			case "CANCELLED":
				if s.Removing == 0 {
					r.add("I8", id, s.Name, "on record as cancelled, and the subscription was never removed")
				}
			}
		}
		// The audit knows whole transactions only: of one that was cut in two by a hole it sends all.
		if e := r.index.events[id]; delivered > 1 && (e == nil || e.tx == nil || !r.index.holes.hid(e, history.HoleAudited)) {
			r.add("I8", id, s.Name, "%d times on record as delivered", delivered)
		}
	}
	if s.Removing != 0 {
		return
	}
	for id := range s.taken {
		if len(s.rows[id]) == 0 {
			r.add("I8", id, s.Name, "a receiver took it, and the relay has no record of it")
		}
	}
}

// numbers is of I8: the deliveries on record are numbered from 1 without a gap, and no two events have one number.
func (r *Result) numbers(s *sub) {
	if s.Removing != 0 {
		return // what it had on the wire may be on record or not
	}
	numbered := make(map[int64]string)
	last := int64(0)
	for id, rows := range s.rows {
		for _, d := range rows {
			if d.Sequence == 0 {
				continue
			}
			if other, ok := numbered[d.Sequence]; ok && other != id {
				r.add("I8", id, s.Name, "it has number %d on record, as has %s", d.Sequence, other)
			}
			numbered[d.Sequence] = id
			last = max(last, d.Sequence)
		}
	}
	for n := int64(1); n < last; n++ {
		if _, ok := numbered[n]; !ok {
			r.add("I8", "", s.Name, "nothing on record has number %d of %d", n, last)
			return
		}
	}
}

// quarantine: rows that are no events are there, and only they.
func (r *Result) quarantine() {
	kept := make(map[string]bool)
	for _, q := range r.index.h.Quarantine {
		kept[q.Event] = true
		switch e := r.index.events[q.Event]; {
		case e == nil || e.row == nil:
			r.add("I2", q.Event, "", "quarantined (%s), and it did not commit", q.Reason)
		case !e.Bad:
			r.add("I1", q.Event, "", "quarantined (%s: %s), and it is a valid event", q.Reason, q.Detail)
		}
	}
	for _, e := range r.index.committed {
		if e.Bad && !kept[e.ID] {
			r.add("I1", e.ID, "", "a row that is no valid event is not in the quarantine")
		}
	}
}
