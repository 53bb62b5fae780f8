package check

import (
	"cmp"
	"slices"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// progressLag is how long progress may stay behind a position that is confirmed.
const progressLag = 10 * time.Second

// due is an event with when it was settled for the last of its subscriptions.
type due struct {
	e       *event
	settled history.Moment // never: zero
	sub     string         // that it waited for longest
}

// positions is I9: positions only grow, none passes the end of the WAL, and none passes an event that was neither taken
// nor parked.
func (r *Result) positions() {
	x := r.index
	var events []due
	for _, e := range x.committed {
		if e.Bad || e.tx.High == 0 || x.holes.hid(e, history.HoleRescued, history.HoleAudited) {
			continue
		}
		d := due{e: e}
		needed := false
		for _, s := range x.subs {
			if !s.requires(e) {
				continue
			}
			needed = true
			at := s.settledAt(e.ID)
			if at == 0 {
				d.settled, d.sub = 0, s.Name
				break
			}
			if at > d.settled {
				d.settled, d.sub = at, s.Name
			}
		}
		if needed {
			events = append(events, d)
		}
	}
	slices.SortFunc(events, func(a, b due) int { return cmp.Compare(a.e.tx.High, b.e.tx.High) })

	var before *history.Sample
	passed, recorded := 0, 0   // events below the confirmed position, and below progress
	ahead := &history.Sample{} // since when the slot stands beyond an event that progress has not reached
	var low uint64             // the highest beginning of those below the confirmed position
	for i := range x.h.Samples {
		s := &x.h.Samples[i]
		hole := x.holes.around(s.Ended)
		if before != nil && !hole {
			if s.Slot && before.Slot && s.Confirmed < before.Confirmed && !x.rewound(before.Began, s.Ended) {
				r.add("I9", "", "", "the confirmed position went back from %X to %X at %s", before.Confirmed, s.Confirmed, s.Began)
			}
			if s.Progress < before.Progress {
				r.add("I9", "", "", "progress went back from %X to %X at %s", before.Progress, s.Progress, s.Began)
			}
			if s.Epoch < before.Epoch {
				r.add("I9", "", "", "the epoch went back from %d to %d at %s", before.Epoch, s.Epoch, s.Began)
			}
		}
		before = s
		for passed < len(events) && s.Slot && events[passed].e.tx.High <= s.Confirmed {
			low = max(low, events[passed].e.tx.Low)
			r.notSettled(events[passed], s, "the slot", s.Confirmed)
			passed++
		}
		for recorded < len(events) && events[recorded].e.tx.High <= s.Progress {
			r.notSettled(events[recorded], s, "progress", s.Progress)
			recorded++
		}
		if hole {
			continue
		}
		if s.Slot && s.Confirmed > s.Head {
			r.add("I9", "", "", "the slot is confirmed up to %X at %s, and the WAL ended at %X", s.Confirmed, s.Began, s.Head)
		}
		// What relay.settled names may be confirmed before progress is written, which is soon.
		if !s.Slot || low < s.Progress || s.Progress != ahead.Progress {
			ahead = s
		} else if s.Ended.Sub(ahead.Ended) > progressLag {
			r.add("I9", "", "", "the slot is confirmed up to %X at %s, beyond an event at %X, and progress has stood at %X for %s",
				s.Confirmed, s.Began, low, s.Progress, progressLag)
			low = 0
		}
	}
}

func (r *Result) notSettled(d due, s *history.Sample, what string, at uint64) {
	if d.settled == 0 || d.settled > s.Ended {
		r.add("I9", d.e.ID, d.sub, "%s stood at %X at %s, beyond it, and it was neither taken nor parked", what, at, s.Ended)
	}
}

// settledAt is when an event was first taken or given to the table; zero for never.
func (s *sub) settledAt(id string) history.Moment {
	at := s.parked[id]
	if a := s.taken[id]; a != nil && (at == 0 || a.At < at) {
		at = a.At
	}
	if d := s.last(id); at == 0 && d != nil {
		at = d.Ended // dead without a row in between
	}
	return at
}

// rewound tells whether PostgreSQL crashed between two moments: it keeps a slot's position only lazily.
func (x *index) rewound(from, to history.Moment) bool {
	for _, a := range x.h.Actions {
		if a.Rewinds && a.Began <= to && max(a.Ended, a.Ready) >= from {
			return true
		}
	}
	return false
}
