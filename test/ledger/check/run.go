package check

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// run is about the run as a whole: I10 liveness, I11 the relay's own audit, I12 hygiene.
func (r *Result) run() {
	h := r.index.h
	if !h.End.Drained {
		r.add("I10", "", "", "not drained after %s: %s", h.End.DrainTook.Round(time.Second), h.End.Waiting)
	}
	for _, a := range h.Actions {
		if a.Late {
			r.add("I10", "", "", "no relay was ready again in time after %s at %s", a.Name, a.Began)
		}
		if a.Fault != "" {
			r.add("I10", "", "", "%s at %s: %s", a.Name, a.Began, a.Fault)
		}
	}
	// A rescue leaves nothing for the audit to find.
	audited := slices.ContainsFunc(h.Actions, func(a history.Action) bool { return a.Incident == history.HoleAudited })
	if h.End.AuditMissing > 0 && !audited {
		r.add("I11", "", "", "the relay's audit misses %.0f rows", h.End.AuditMissing)
	}
	for _, text := range h.End.Bad {
		r.add("I12", "", "", "%s", text)
	}
	for _, e := range h.Exits {
		if e.Wanted == "" {
			r.add("I12", "", "", "relay %s (process %d) ended by itself with code %d at %s", e.Relay, e.PID, e.Code, e.At)
		}
	}
	for _, text := range h.End.Faults {
		r.add("run", "", "", "%s", text)
	}
}

// Figures are the sizes of a run.
type Figures struct {
	Transactions, Aborted, Unknown, Undone int
	Events, Bad                            int
	Arrivals, Taken                        int
	Repeats, UnknownAnswers, ByAudit       int
	RepeatsBy                              map[string]Repeats
	Actions                                map[string]int
	Kills, Crashes                         int
	LongestAway                            map[string]time.Duration // until a relay was ready again
	TakeOvers                              map[string]TakeOver
	Lag, LagHalfDead                       Lag
	Parked                                 int
	Dead                                   int
	DrainTook                              time.Duration
}

func (r *Result) figures() {
	f, h := &r.Figures, r.index.h
	f.Transactions = len(h.Transactions)
	for i := range h.Transactions {
		switch h.Transactions[i].Outcome {
		case history.Aborted:
			f.Aborted++
		case history.Unknown:
			f.Unknown++
		}
	}
	for _, e := range r.index.events {
		if e.Undone {
			f.Undone++
		}
	}
	for _, e := range r.index.committed {
		f.Events++
		if e.Bad {
			f.Bad++
		}
	}
	f.Arrivals = len(h.Arrivals)
	for _, s := range r.index.subs {
		f.Taken += len(s.taken)
		f.Parked += len(s.parked)
	}
	f.Actions, f.LongestAway = make(map[string]int), make(map[string]time.Duration)
	for _, a := range h.Actions {
		f.Actions[a.Name]++
		if a.Ready != 0 {
			f.LongestAway[a.Name] = max(f.LongestAway[a.Name], a.Ready.Sub(max(a.Ended, a.Began)))
		}
		if a.Rewinds {
			f.Crashes++
		}
	}
	for _, e := range h.Exits {
		if e.Code < 0 || e.Wanted == "fault point" {
			f.Kills++
		}
	}
	f.TakeOvers = r.index.takeOvers()
	f.Lag, f.LagHalfDead = r.index.lags()
	for i := range h.Deliveries {
		if h.Deliveries[i].Status == "DEAD" {
			f.Dead++
		}
	}
	f.DrainTook = h.End.DrainTook
}

// Print writes a result for people: what was, what is wrong, and the whole history of the first event of each kind of
// violation.
func (r *Result) Print(w io.Writer) {
	f, h := r.Figures, r.index.h
	fmt.Fprintf(w, "seed %d, profile %s, PostgreSQL %d, %s of writers", h.Run.Seed, h.Run.Profile, h.Run.PostgreSQL, h.Run.For)
	if h.Run.Defect != "" {
		fmt.Fprintf(w, ", planted defect %s", h.Run.Defect)
	}
	fmt.Fprintf(w, "\nwriters: %d transactions (%d rolled back, %d with an unknown end), %d events committed (%d invalid ones), %d undone by savepoints\n",
		f.Transactions, f.Aborted, f.Unknown, f.Events, f.Bad, f.Undone)
	fmt.Fprintf(w, "receivers: %d subscriptions, %d requests, %d deliveries taken, %d repeats, %d after an unknown answer, %d by the audit; %d parked, %d dead\n",
		len(r.index.subs), f.Arrivals, f.Taken, f.Repeats, f.UnknownAnswers, f.ByAudit, f.Parked, f.Dead)
	fmt.Fprintf(w, "faults: %d kills, %d crashes of PostgreSQL; ", f.Kills, f.Crashes)
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(f.Actions)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, f.Actions[name]))
	}
	fmt.Fprintln(w, strings.Join(parts, ", "))
	for _, name := range slices.Sorted(maps.Keys(f.RepeatsBy)) {
		// That these cost none is worth a line, too.
		if by := f.RepeatsBy[name]; by.Total > 0 || name == "kill" || name == exitName || name == "crash" {
			fmt.Fprintf(w, "repeats after %s: %s\n", name, by)
		}
	}
	parts = nil
	for _, name := range slices.Sorted(maps.Keys(f.LongestAway)) {
		parts = append(parts, fmt.Sprintf("%s %s", name, f.LongestAway[name].Round(10*time.Millisecond)))
	}
	fmt.Fprintf(w, "longest until ready: %s\n", strings.Join(parts, ", "))
	parts = nil
	for _, name := range slices.Sorted(maps.Keys(f.TakeOvers)) {
		t := f.TakeOvers[name]
		parts = append(parts, fmt.Sprintf("%s %s (%d)", name, t.Longest.Round(10*time.Millisecond), t.Times))
	}
	fmt.Fprintf(w, "longest until the next leader sends: %s\n", strings.Join(parts, ", "))
	fmt.Fprintf(w, "highest slot lag %s", f.Lag)
	if f.Actions[history.HalfDead] > 0 {
		fmt.Fprintf(w, "; while half of the endpoints are dead %s", f.LagHalfDead)
	}
	fmt.Fprintf(w, "\npeak memory of a relay %d MiB; drained after %s; audited rows %.0f, missing %.0f\n",
		h.End.PeakMemory>>20, f.DrainTook.Round(10*time.Millisecond), h.End.AuditRows, h.End.AuditMissing)
	if len(r.Violations) == 0 {
		fmt.Fprintln(w, "PASS: nothing lost, no phantom, nothing out of order, every repeat explained")
		return
	}
	count := make(map[string]int)
	for _, v := range r.Violations {
		if count[v.Invariant]++; count[v.Invariant] <= 5 {
			fmt.Fprintln(w, v)
		}
		if count[v.Invariant] == 1 && v.Event != "" {
			r.Explain(w, v)
		}
	}
	for _, kind := range r.Kinds() {
		fmt.Fprintf(w, "%s: %d violations\n", kind, count[kind])
	}
	fmt.Fprintln(w, "FAIL")
}
