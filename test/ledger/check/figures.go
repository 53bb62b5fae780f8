package check

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// TakeOver says how long nobody sent after a leader had gone, by how it went.
type TakeOver struct {
	Times   int
	Longest time.Duration // until the successor's first request
}

// onItsWay is how long a request of a process that is gone may lie before the receiver takes it.
const onItsWay = 20 * time.Millisecond

// takeOvers are the times from the end of a leader, or from the moment in which it was frozen or cut off, to the first
// request of the next one. That another has the term, samples of the epoch show. A relay that ended and did not lead is not
// counted: the other one's requests go on.
func (x *index) takeOvers() map[string]TakeOver {
	all := make(map[string]TakeOver)
	note := func(name string, took time.Duration) {
		t := all[name]
		t.Times++
		t.Longest = max(t.Longest, took)
		all[name] = t
	}
	for _, e := range x.h.Exits {
		name := e.Wanted
		if name == "" || name == "fault point" {
			name = exitName
		}
		if e.Standby {
			name += " beside a standby"
		}
		since, _, ok := x.nextEpoch(e.At)
		if first := x.arrivalAfter(e.At.Add(onItsWay)); ok && first >= since {
			note(name, first.Sub(e.At))
		}
	}
	for _, a := range x.h.Actions {
		if a.Name != "freeze" && a.Name != "cut-stall" {
			continue
		}
		if since, by, ok := x.nextEpoch(a.Began); ok && by <= a.Ended {
			if first := x.arrivalAfter(max(since, a.Began)); first != 0 {
				note(a.Name, first.Sub(a.Began))
			}
		}
	}
	return all
}

// nextEpoch finds the next term after the one of a moment: it had not begun at since, and it had at by.
func (x *index) nextEpoch(at history.Moment) (since, by history.Moment, ok bool) {
	i := sort.Search(len(x.h.Samples), func(i int) bool { return x.h.Samples[i].Ended > at })
	if i == 0 {
		return 0, 0, false
	}
	for before := &x.h.Samples[i-1]; i < len(x.h.Samples); i++ {
		if s := &x.h.Samples[i]; s.Epoch > before.Epoch {
			return x.h.Samples[i-1].Began, s.Ended, true
		}
	}
	return 0, 0, false
}

// arrivalAfter is when the first request after a moment came, 0 for never.
func (x *index) arrivalAfter(at history.Moment) history.Moment {
	i := sort.Search(len(x.h.Arrivals), func(i int) bool { return x.h.Arrivals[i].At > at })
	if i == len(x.h.Arrivals) {
		return 0
	}
	return x.h.Arrivals[i].At
}

// Lag is what the slot stood behind at most.
type Lag struct {
	Bytes uint64
	Time  time.Duration // since the oldest transaction that was never confirmed had committed
}

// lags are the highest lag of the run, and the highest while half of the endpoints were dead.
func (x *index) lags() (all, halfDead Lag) {
	var commits []*history.Transaction // by position
	for i := range x.h.Transactions {
		if tx := &x.h.Transactions[i]; tx.High != 0 && tx.Outcome == history.Committed {
			commits = append(commits, tx)
		}
	}
	slices.SortFunc(commits, func(a, b *history.Transaction) int {
		if a.High < b.High {
			return -1
		}
		return 1
	})
	var confirmed uint64 // once; a crash of PostgreSQL takes the slot back, and what had been confirmed does not wait again
	for i := range x.h.Samples {
		s := &x.h.Samples[i]
		if !s.Slot {
			continue
		}
		confirmed = max(confirmed, s.Confirmed)
		var lag Lag
		if s.Head > s.Confirmed {
			lag.Bytes = s.Head - s.Confirmed
		}
		at := sort.Search(len(commits), func(i int) bool { return commits[i].High > confirmed })
		if at < len(commits) && commits[at].Ended < s.Began {
			lag.Time = s.Began.Sub(commits[at].Ended)
		}
		all.most(lag)
		if slices.ContainsFunc(x.h.Actions, func(a history.Action) bool {
			return a.Name == history.HalfDead && a.Began <= s.Began && s.Began <= a.Ended
		}) {
			halfDead.most(lag)
		}
	}
	return all, halfDead
}

func (l *Lag) most(o Lag) { l.Bytes, l.Time = max(l.Bytes, o.Bytes), max(l.Time, o.Time) }

func (l Lag) String() string {
	return fmt.Sprintf("%d KiB, %s", l.Bytes>>10, l.Time.Round(10*time.Millisecond))
}
