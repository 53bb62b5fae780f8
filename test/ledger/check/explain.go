package check

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// around is how far before and after the event's own life things are told that were done meanwhile.
const around = 3 * time.Second

// Explain writes all that is known about the event of a violation, in the order in which it happened.
func (r *Result) Explain(w io.Writer, v Violation) {
	type line struct {
		at   history.Moment
		text string
	}
	var lines []line
	tell := func(at history.Moment, format string, args ...any) {
		lines = append(lines, line{at, fmt.Sprintf(format, args...)})
	}
	x := r.index
	e := x.events[v.Event]
	fmt.Fprintf(w, "  history of event %s\n", v.Event)
	if e == nil {
		fmt.Fprintln(w, "    no writer knows it")
	} else if tx := e.tx; tx != nil {
		fmt.Fprintf(w, "    tenant %s, key %s, number %d, type %s, invalid %t, undone %t, in the shadow table %t\n",
			e.Tenant, e.Key, e.Seq, e.Type, e.Bad, e.Undone, e.row != nil)
		tell(tx.Began, "writer %d begins transaction %d (%d events) %s", tx.Writer, tx.Number, len(tx.Events), tx.How)
		if tx.CommitSent != 0 {
			tell(tx.CommitSent, "writer %d sends COMMIT; WAL at %X", tx.Writer, tx.Low)
		}
		tell(tx.Ended, "writer %d: %s; WAL at %X", tx.Writer, tx.Outcome, tx.High)
	}
	for _, s := range x.subs {
		for _, a := range s.byEvent[v.Event] {
			tell(a.At, "%s: arrival %d, attempt %d, answer %d %s", s.Name, a.N, a.Attempt, a.Answer, a.Fault)
			if end := x.answered[a.N]; end != nil {
				tell(end.At, "%s: arrival %d is answered, caller gone %t", s.Name, a.N, end.Gone)
			}
		}
		for _, d := range s.rows[v.Event] {
			tell(d.Ended, "%s: relay's record: %s after %d attempts %s %s", s.Name, d.Status, d.Attempts, d.LastError, d.Failed)
		}
		if e != nil && s.requires(e) && len(s.byEvent[v.Event]) == 0 {
			tell(0, "%s: wants it and never got it", s.Name)
		}
	}
	for _, t := range x.h.Transitions {
		if t.Event == v.Event {
			name := t.Sub
			if s := x.byID[t.Sub]; s != nil {
				name = s.Name
			}
			tell(t.At, "%s: %s of its row in relay.parked", name, t.Op)
		}
	}
	for _, q := range x.h.Quarantine {
		if q.Event == v.Event {
			tell(0, "quarantined: %s, %s", q.Reason, q.Detail)
		}
	}
	var first, last history.Moment
	for _, l := range lines {
		if l.at != 0 && (first == 0 || l.at < first) {
			first = l.at
		}
		last = max(last, l.at)
	}
	from, to := first.Add(-around), last.Add(around)
	for _, a := range x.h.Actions {
		if a.Began <= to && max(a.Ended, a.Ready) >= from {
			tell(a.Began, "nemesis: %s %s %s begins", a.Name, a.Target, a.Detail)
			tell(a.Ended, "nemesis: %s is undone", a.Name)
			if a.Ready != 0 {
				tell(a.Ready, "a relay is ready again after %s", a.Name)
			}
		}
	}
	for _, exit := range x.h.Exits {
		if exit.At >= from && exit.At <= to {
			tell(exit.At, "relay %s (process %d) ends with code %d: %s", exit.Relay, exit.PID, exit.Code, exit.Wanted)
		}
	}
	// The first samples that passed it.
	if e != nil && e.tx != nil && e.tx.High != 0 {
		slot, progress := false, false
		for _, s := range x.h.Samples {
			if !slot && s.Slot && s.Confirmed >= e.tx.High {
				slot = true
				tell(s.Ended, "the slot has passed it: confirmed %X, progress %X, epoch %d", s.Confirmed, s.Progress, s.Epoch)
			}
			if !progress && s.Progress >= e.tx.High {
				progress = true
				tell(s.Ended, "progress has passed it: confirmed %X, progress %X, epoch %d", s.Confirmed, s.Progress, s.Epoch)
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return int(a.at - b.at) })
	for _, l := range lines {
		fmt.Fprintf(w, "    %s  %s\n", l.at, l.text)
	}
}
