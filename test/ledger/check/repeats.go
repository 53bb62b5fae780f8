package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// settling is how long after the end of a fault what it explains may still be on its way.
const settling = 2 * time.Second

// excuse is a fault that explains repeats of what was taken in a span of time.
type excuse struct {
	name     string
	began    history.Moment
	from, to history.Moment  // taken then
	repeats  map[string]bool // by subscription and event: each once
}

// excuses are the faults of a history, first the one that soonest explains nothing more. What could not be recorded
// because PostgreSQL was away before a fault, had no session for the relay, or waited for its disk, counts as not
// recorded.
func (x *index) excuses() []*excuse {
	var all []*excuse
	window := x.h.Run.Window
	for _, a := range x.h.Actions {
		if !a.Repeats && a.Incident == "" {
			continue
		}
		all = append(all, &excuse{name: a.Name, began: a.Began, from: a.Began.Add(-window), to: max(a.Ended, a.Ready).Add(settling)})
	}
	for i := range x.h.Exits {
		if exit := x.h.Exits[i]; exit.Wanted == "" || exit.Wanted == "fault point" {
			all = append(all, &excuse{name: exitName, began: exit.At, from: exit.At.Add(-window), to: exit.At.Add(settling)})
		}
	}
	disk := x.slowDisk()
	for _, s := range disk {
		if s.to.Sub(s.from) < window {
			continue // too short to cost the leader its connection, as a cut does
		}
		all = append(all, &excuse{name: diskName, began: s.from, from: s.from.Add(-window), to: s.to.Add(settling)})
	}
	stalls := append(x.stalls(), disk...)
	for _, e := range all {
		e.reachBack(stalls, window)
	}
	slices.SortFunc(all, func(a, b *excuse) int { return int(a.to - b.to) })
	return all
}

// slowCommit is a COMMIT that took so long that nothing else was recorded meanwhile either: the disk stood still.
const slowCommit = time.Second

// span is a stretch of time.
type span struct{ from, to history.Moment }

// stalls are the times in which nothing could be recorded because of a fault.
func (x *index) stalls() (list []span) {
	for _, a := range x.h.Actions {
		if a.Stalls {
			list = append(list, span{a.Began, max(a.Ended, a.Ready)})
		}
	}
	return list
}

// slowDisk are the times in which the disk stood still, by the commits of the writers.
func (x *index) slowDisk() (list []span) {
	for _, t := range x.h.Transactions {
		if t.Outcome == history.Committed && t.CommitSent != 0 && t.Ended.Sub(t.CommitSent) >= slowCommit {
			list = append(list, span{t.CommitSent, t.Ended})
		}
	}
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var merged []span
	for _, s := range list {
		if n := len(merged); n > 0 && s.from <= merged[n-1].to {
			merged[n-1].to = max(merged[n-1].to, s.to)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// reachBack lets an excuse begin before what kept everything from being recorded when its own fault came.
func (e *excuse) reachBack(stalls []span, window time.Duration) {
	for grown := true; grown; {
		grown = false
		for _, s := range stalls {
			if s.from < e.began && s.to.Add(settling) >= e.from && s.from.Add(-window) < e.from {
				e.from, grown = s.from.Add(-window), true
			}
		}
	}
}

// repeats is I5: what was taken comes again only when a fault explains it, once for each fault, and only what was in
// flight or not recorded when that fault came.
func (r *Result) repeats() {
	excuses := r.index.excuses()
	for _, s := range r.index.subs {
		for id, list := range s.byEvent {
			taken := s.taken[id]
			if taken == nil {
				continue
			}
			r.Figures.Repeats += r.repeatsOf(s, id, list, taken, excuses)
		}
	}
	r.Figures.RepeatsBy = make(map[string]Repeats)
	for _, a := range r.index.h.Actions { // those too that explain nothing: a crash of PostgreSQL need not cost a repeat
		by := r.Figures.RepeatsBy[a.Name]
		by.Faults++
		r.Figures.RepeatsBy[a.Name] = by
	}
	for _, e := range excuses {
		by := r.Figures.RepeatsBy[e.name]
		if e.name == exitName || e.name == diskName {
			by.Faults++
		}
		by.Total += len(e.repeats)
		by.Most = max(by.Most, len(e.repeats))
		r.Figures.RepeatsBy[e.name] = by
	}
}

// diskName stands for times in which the disk stood still.
const diskName = "slow-disk"

// exitName stands for relays that died at a fault point, or by themselves.
const exitName = "exit"

func (r *Result) repeatsOf(s *sub, id string, list []*history.Arrival, taken *history.Arrival, excuses []*excuse) (n int) {
	last := taken    // the latest that was taken
	refused := false // the one before was not: this one is its retry
	for _, a := range list {
		if a.N <= taken.N {
			continue
		}
		n++
		if refused {
			if refused = !a.Taken(); !refused {
				last = a
			}
			continue
		}
		if a.Attempt > last.Attempt && r.index.unknownAnswer(last, s.rows[id]) {
			r.Figures.UnknownAnswers++
			last = a
			continue
		}
		// Each explains one repeat: what another may still explain is left to it.
		at := slices.IndexFunc(excuses, func(e *excuse) bool {
			return a.At > e.began && r.index.answeredAt(last) >= e.from && last.At <= e.to && !e.repeats[s.Name+id]
		})
		if e := r.index.events[id]; at < 0 && e != nil && e.tx != nil && r.index.holes.hid(e, history.HoleAudited) {
			// Of a transaction that was recorded in part when somebody moved the slot, the audit sends all.
			r.Figures.ByAudit++
		} else if at < 0 {
			r.add("I5", id, s.Name, "arrival %d: taken already by arrival %d, %s before, and nothing explains the repeat",
				a.N, last.N, a.At.Sub(last.At).Round(time.Millisecond))
		} else {
			if excuses[at].repeats == nil {
				excuses[at].repeats = make(map[string]bool)
			}
			excuses[at].repeats[s.Name+id] = true
		}
		if refused = !a.Taken(); !refused {
			last = a
		}
	}
	return n
}

// Repeats are repeats by what explains them.
type Repeats struct {
	Faults int // that there were of the kind
	Total  int
	Most   int // after one of them
}

func (r Repeats) String() string {
	return fmt.Sprintf("%d in %d, %.1f each on average, at most %d", r.Total, r.Faults, float64(r.Total)/float64(max(r.Faults, 1)), r.Most)
}
