package check

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// second is a moment of the made-up histories.
func second(n float64) history.Moment { return history.Moment(1_000_000_000 + n*1e6) }

// story is a run of a correct relay, small enough to be bent by hand:
//
//	a1, a2   key a, taken at 10.1 and 10.3 by all (a2 after a refusal that parked it at 10.25)
//	b1       key b, not valid: quarantined
//	c1       key c, its COMMIT was never answered; it did commit
//	x1       rolled back
//	d1       of tenant other, to whom nobody listens but sub "theirs"
func story() *history.History {
	event := func(id, tenant, key string, seq int) history.Event {
		return history.Event{ID: id, Tenant: tenant, Key: key, Seq: seq, Type: "sales_order.created", Body: "body of " + id}
	}
	bad := event("b1", "acme", "b", 1)
	bad.Bad = true
	tx := func(n int, outcome string, at float64, low, high uint64, events ...history.Event) history.Transaction {
		t := history.Transaction{Writer: 1, Number: n, Began: second(at - 0.05), CommitSent: second(at), Ended: second(at + 0.01),
			Outcome: outcome, Low: low, High: high, Events: events}
		if outcome == history.Aborted {
			t.CommitSent = 0
		}
		return t
	}
	arrival := func(n int, at float64, sub, event, tenant string, attempt, answer int) history.Arrival {
		return history.Arrival{N: n, At: second(at), Sub: sub, Event: event, Tenant: tenant, Type: "sales_order.created", Attempt: attempt,
			Body: "body of " + event, Answer: answer}
	}
	h := &history.History{
		Run: history.Run{Window: 3 * time.Second, AttemptFor: 3 * time.Second},
		Transactions: []history.Transaction{
			tx(1, history.Committed, 10, 100, 150, event("a1", "acme", "a", 1)),
			tx(2, history.Committed, 10.2, 200, 250, event("a2", "acme", "a", 2)),
			tx(3, history.Committed, 11, 300, 350, bad),
			tx(4, history.Unknown, 12, 400, 0, event("c1", "acme", "c", 1)),
			tx(5, history.Aborted, 13, 0, 0, event("x1", "acme", "a", 3)),
			tx(6, history.Committed, 14, 600, 650, event("d1", "other", "a", 1)),
		},
		Rows: []history.Row{{Event: "a1"}, {Event: "a2"}, {Event: "b1"}, {Event: "c1"}, {Event: "d1"}},
		Subscriptions: []history.Subscription{
			{ID: "1", Name: "ours", Tenant: "acme", Events: []string{"*"}, Ordering: "key", Added: second(0)},
			{ID: "2", Name: "theirs", Tenant: "other", Events: []string{"*"}, Ordering: "key", Added: second(0)},
		},
		Arrivals: []history.Arrival{
			arrival(1, 10.1, "ours", "a1", "acme", 1, 204),
			arrival(2, 10.24, "ours", "a2", "acme", 1, 503),
			arrival(3, 10.3, "ours", "a2", "acme", 2, 200),
			arrival(4, 12.1, "ours", "c1", "acme", 1, 204),
			arrival(5, 14.1, "theirs", "d1", "other", 1, 204),
		},
		Transitions: []history.Transition{{At: second(10.25), Op: "INSERT", Sub: "1", Event: "a2"}, {At: second(10.35), Op: "DELETE", Sub: "1", Event: "a2"}},
		Deliveries: []history.Delivery{
			{Sub: "1", Event: "a1", Status: "DELIVERED", Attempts: 1, Ended: second(10.1)},
			{Sub: "1", Event: "a2", Status: "DELIVERED", Attempts: 2, Ended: second(10.3)},
			{Sub: "1", Event: "c1", Status: "DELIVERED", Attempts: 1, Ended: second(12.1)},
			{Sub: "2", Event: "d1", Status: "DELIVERED", Attempts: 1, Ended: second(14.1)},
		},
		Quarantine: []history.Quarantined{{Event: "b1", Reason: "invalid_payload"}},
		Samples: []history.Sample{
			sample(9, 50, 50), sample(10.5, 250, 250), sample(11.5, 350, 350), sample(13, 450, 450), sample(15, 650, 650),
		},
		End: history.End{Drained: true},
	}
	for _, a := range h.Arrivals {
		h.Answered = append(h.Answered, history.Answered{N: a.N, At: a.At + 100})
	}
	return h
}

func sample(at float64, confirmed, progress uint64) history.Sample {
	return history.Sample{Began: second(at), Ended: second(at + 0.001), Slot: true, Confirmed: confirmed, Head: 1000, Progress: progress, Epoch: 1}
}

// more appends an arrival that was answered.
func more(h *history.History, at float64, sub, event, tenant string, attempt, answer int) {
	n := len(h.Arrivals) + 1
	h.Arrivals = append(h.Arrivals, history.Arrival{N: n, At: second(at), Sub: sub, Event: event, Tenant: tenant, Type: "sales_order.created",
		Attempt: attempt, Body: "body of " + event, Answer: answer})
	h.Answered = append(h.Answered, history.Answered{N: n, At: second(at) + 100})
}

func kill(at float64) history.Action {
	return history.Action{Name: "kill", Began: second(at), Ended: second(at + 0.2), Ready: second(at + 0.5), Repeats: true}
}

// without removes an event's arrivals.
func without(h *history.History, event string) {
	var kept []history.Arrival
	for _, a := range h.Arrivals {
		if a.Event != event {
			kept = append(kept, a)
		}
	}
	h.Arrivals = kept
}

func unrecord(h *history.History, event string) {
	var kept []history.Delivery
	for _, d := range h.Deliveries {
		if d.Event != event {
			kept = append(kept, d)
		}
	}
	h.Deliveries = kept
}

func TestCheck_PassesACorrectRelay(t *testing.T) {
	for name, bend := range map[string]func(h *history.History){
		"as it is": func(*history.History) {},
		"a repeat after a kill": func(h *history.History) {
			more(h, 15, "theirs", "d1", "other", 1, 204)
			h.Actions = []history.Action{kill(14.5)}
		},
		"a repeat after an answer that came too late": func(h *history.History) {
			more(h, 18, "theirs", "d1", "other", 2, 204)
			h.Answered[4].At = second(17)
			h.Deliveries[3].Attempts = 2
		},
		"a repeat after a connection that broke": func(h *history.History) {
			more(h, 18, "theirs", "d1", "other", 2, 204)
			h.Deliveries[3].Attempts, h.Deliveries[3].Failed = 2, json.RawMessage(`[{"n":1,"reason":"connect"}]`)
		},
		"the retry of a repeat that was refused": func(h *history.History) {
			more(h, 15, "theirs", "d1", "other", 1, 503)
			more(h, 25, "theirs", "d1", "other", 2, 503)
			more(h, 35, "theirs", "d1", "other", 3, 204)
			h.Actions = []history.Action{kill(14.5)}
		},
		"a repeat of what could not be recorded before a kill": func(h *history.History) {
			more(h, 40, "theirs", "d1", "other", 1, 204)
			h.Actions = []history.Action{{Name: "crash", Began: second(15), Ended: second(30), Ready: second(31), Stalls: true, Rewinds: true}, kill(32)}
		},
		"a repeat of what could not be recorded before a relay died": func(h *history.History) {
			more(h, 40, "theirs", "d1", "other", 1, 204)
			h.Actions = []history.Action{{Name: "take-slots", Began: second(15), Ended: second(33), Ready: second(34), Stalls: true}}
			h.Exits = []history.Exit{{Relay: "a", At: second(32), Wanted: "fault point"}}
		},
		"a repeat of what was answered late, right before a kill": func(h *history.History) {
			more(h, 40, "theirs", "d1", "other", 1, 204)
			h.Answered[4].At = second(29.5)
			h.Actions = []history.Action{kill(30)}
		},
		"repeats of what the disk kept from being recorded": func(h *history.History) {
			more(h, 31, "theirs", "d1", "other", 1, 204) // of a leader that had lost its connection
			more(h, 40, "theirs", "d1", "other", 1, 204)
			h.Transactions = append(h.Transactions, history.Transaction{Writer: 9, Number: 1, Outcome: history.Committed, CommitSent: second(15), Ended: second(30)})
			h.Actions = []history.Action{kill(32)}
		},
		"a dead letter": func(h *history.History) {
			h.Arrivals[2].Answer = 500
			h.Deliveries[1].Status = "DEAD"
		},
		"a slot that goes back in a crash": func(h *history.History) {
			h.Samples = append(h.Samples, sample(16, 350, 650))
			h.Actions = []history.Action{{Name: "crash", Began: second(15.5), Ended: second(15.8), Rewinds: true}}
		},
		"an event from before its subscription": func(h *history.History) {
			h.Subscriptions[0].Added = second(10.1)
			without(h, "a1")
			unrecord(h, "a1")
		},
		"a subscription that was removed": func(h *history.History) {
			h.Subscriptions[1].Removing, h.Subscriptions[1].Removed = second(14.05), second(14.06)
			without(h, "d1")
			h.Deliveries[3].Status = "CANCELLED"
		},
		"a hole in the stream that was repaired out of order": func(h *history.History) {
			h.Actions = []history.Action{{Name: "drop-publication", Incident: history.HoleAudited, Began: second(9.5), Ended: second(10.1)}}
			h.Arrivals[0].At, h.Arrivals[0].N, h.Arrivals[1].N, h.Arrivals[2].N = second(10.4), 3, 1, 2
			h.Answered[0].N, h.Answered[1].N, h.Answered[2].N = 3, 1, 2
			h.Arrivals[0], h.Arrivals[1], h.Arrivals[2] = h.Arrivals[1], h.Arrivals[2], h.Arrivals[0]
		},
	} {
		h := story()
		bend(h)
		for _, v := range Check(h).Violations {
			t.Errorf("%s: %s: %s", name, v.Event, v)
		}
	}
}

func TestCheck_FindsEachBrokenInvariant(t *testing.T) {
	for _, c := range []struct {
		name, invariant, says string
		bend                  func(h *history.History)
	}{
		{"a lost event", "I1", "number 1 of key a is lost", func(h *history.History) { without(h, "a1"); unrecord(h, "a1") }},
		{"a lost event whose COMMIT was not answered", "I1", "number 1 of key c is lost", func(h *history.History) { without(h, "c1"); unrecord(h, "c1") }},
		{"an event that was never taken", "I1", "was not taken, and is on record as DELIVERED", func(h *history.History) { h.Arrivals[0].Answer = 500 }},
		{"a valid event in quarantine", "I1", "it is a valid event", func(h *history.History) { h.Quarantine[0].Event = "a1" }},
		{"an invalid one that is nowhere", "I1", "is not in the quarantine", func(h *history.History) { h.Quarantine = nil }},
		{"a rolled back event", "I2", "it did not commit", func(h *history.History) { more(h, 14, "ours", "x1", "acme", 1, 204) }},
		{"an event that nobody wrote", "I2", "it did not commit", func(h *history.History) { more(h, 14, "ours", "z1", "acme", 1, 204) }},
		{"an event before its commit", "I2", "came before its COMMIT was sent", func(h *history.History) { h.Transactions[0].CommitSent = second(10.15) }},
		{"an event of another type", "I2", "is not for this subscription", func(h *history.History) { h.Subscriptions[1].Events = []string{"payment.*"} }},
		{"an event after the subscription was removed", "I2", "after the subscription was removed", func(h *history.History) {
			h.Subscriptions[1].Removing, h.Subscriptions[1].Removed = second(13), second(13.1)
		}},
		{"a commit that is forgotten", "I3", "the database does not have it", func(h *history.History) { h.Rows = h.Rows[1:] }},
		{"a rollback that is not", "I3", "it was rolled back, and the database has it", func(h *history.History) { h.Rows = append(h.Rows, history.Row{Event: "x1"}) }},
		{"an event that overtakes", "I4", "number 2 of key a came before number 1", func(h *history.History) {
			h.Arrivals[0].N, h.Arrivals[1].N = 2, 1
			h.Arrivals[0], h.Arrivals[1] = h.Arrivals[1], h.Arrivals[0]
		}},
		{"an event before its predecessor is taken", "I4", "number 2 of key a came before number 1", func(h *history.History) {
			h.Arrivals[0].Answer = 503
			more(h, 15, "ours", "a1", "acme", 2, 204)
			h.Deliveries[0].Attempts = 2
		}},
		{"an event before its predecessor died", "I4", "came before number 1 (a1) had died", func(h *history.History) {
			h.Arrivals[0].Answer = 500
			h.Deliveries[0].Status, h.Deliveries[0].Ended = "DEAD", second(20)
		}},
		{"a repeat without a reason", "I5", "nothing explains the repeat", func(h *history.History) { more(h, 15, "theirs", "d1", "other", 1, 204) }},
		{"a repeat of what was taken long before the kill", "I5", "nothing explains the repeat", func(h *history.History) {
			more(h, 30, "theirs", "d1", "other", 1, 204)
			h.Actions = []history.Action{kill(25)}
		}},
		{"a second repeat after one kill", "I5", "nothing explains the repeat", func(h *history.History) {
			more(h, 15, "theirs", "d1", "other", 1, 204)
			more(h, 25, "theirs", "d1", "other", 1, 204)
			h.Actions = []history.Action{kill(14.5)}
		}},
		{"another body", "I6", "not what was written", func(h *history.History) { h.Arrivals[0].Body = "other" }},
		{"a bad signature", "I6", "no signature matches", func(h *history.History) { h.Arrivals[0].Fault = "no signature matches" }},
		{"an invalid event delivered", "I6", "no valid event was delivered", func(h *history.History) { more(h, 14, "ours", "b1", "acme", 1, 204) }},
		{"another tenant's event", "I7", "an event of tenant acme", func(h *history.History) { more(h, 14, "theirs", "a1", "acme", 1, 204) }},
		{"another tenant in the body", "I7", "of other by its body", func(h *history.History) { h.Arrivals[0].Tenant = "other" }},
		{"a delivery on record that was none", "I8", "which no receiver took", func(h *history.History) { h.Deliveries[0].Attempts = 3 }},
		{"a delivery without a record", "I8", "the relay has no record of it", func(h *history.History) { unrecord(h, "c1") }},
		{"a delivery with two records", "I8", "2 times on record", func(h *history.History) { h.Deliveries = append(h.Deliveries, h.Deliveries[0]) }},
		{"two events with one number", "I8", "it has number 1 on record", func(h *history.History) { h.Deliveries[0].Sequence, h.Deliveries[1].Sequence = 1, 1 }},
		{"a number that nothing has", "I8", "nothing on record has number 2 of 3", func(h *history.History) { h.Deliveries[0].Sequence, h.Deliveries[1].Sequence = 1, 3 }},
		{"a dead letter that was taken", "I8", "on record as dead", func(h *history.History) { h.Deliveries[0].Status = "DEAD" }},
		{"a cancelled delivery of a subscription that stays", "I8", "never removed", func(h *history.History) { h.Deliveries[0].Status = "CANCELLED" }},
		{"a slot that goes back", "I9", "the confirmed position went back", func(h *history.History) { h.Samples = append(h.Samples, sample(16, 350, 650)) }},
		{"progress that goes back", "I9", "progress went back", func(h *history.History) { h.Samples = append(h.Samples, sample(16, 650, 350)) }},
		{"an epoch that goes back", "I9", "the epoch went back", func(h *history.History) { h.Samples[4].Epoch = 0 }},
		{"a position beyond the WAL", "I9", "the WAL ended at", func(h *history.History) { h.Samples[4].Confirmed = 2000 }},
		{"a position beyond what was handled", "I9", "the slot stood at FA", func(h *history.History) { h.Samples[0] = sample(10.2, 250, 250) }},
		{"progress beyond what was handled", "I9", "progress stood at FA", func(h *history.History) { h.Samples[0] = sample(10.2, 50, 250) }},
		{"progress that is not written", "I9", "progress has stood at", func(h *history.History) {
			for i := range h.Samples {
				h.Samples[i].Progress = 50
			}
			s := sample(30, 650, 50)
			h.Samples = append(h.Samples, s)
		}},
		{"a delivery that waits at the end", "I10", "still waits at the end", func(h *history.History) { without(h, "c1"); h.Deliveries[2].Status = "PENDING" }},
		{"no rest", "I10", "not drained", func(h *history.History) { h.End.Drained = false }},
		{"no relay after a kill", "I10", "no relay was ready again", func(h *history.History) { h.Actions = []history.Action{{Name: "kill", Late: true}} }},
		{"an audit that misses rows", "I11", "audit misses 3 rows", func(h *history.History) { h.End.AuditMissing = 3 }},
		{"a race report", "I12", "DATA RACE", func(h *history.History) { h.End.Bad = []string{"relay a prints: DATA RACE"} }},
		{"a relay that ends by itself", "I12", "ended by itself with code 1", func(h *history.History) { h.Exits = []history.Exit{{Code: 1}} }},
	} {
		h := story()
		c.bend(h)
		r := Check(h)
		var all []string
		found := false
		for _, v := range r.Violations {
			all = append(all, v.String())
			found = found || v.Invariant == c.invariant && strings.Contains(v.Text, c.says)
		}
		if !found {
			t.Errorf("%s: found %q, want %s: %s", c.name, all, c.invariant, c.says)
		}
	}
}

func TestPrint_TellsTheWholeHistoryOfAnEvent(t *testing.T) {
	h := story()
	h.Arrivals[2].Answer = 500
	h.Actions = []history.Action{kill(10.28)}
	h.Exits = []history.Exit{{At: second(10.28), Relay: "a", PID: 7, Code: -1, Wanted: "kill"}}
	var b strings.Builder
	Check(h).Print(&b)
	for _, want := range []string{"I1: number 2 of key a was not taken", "history of event a2", "writer 1 sends COMMIT", "ours: arrival 2, attempt 1, answer 503",
		"ours: INSERT of its row in relay.parked", "nemesis: kill", "relay a (process 7) ends with code -1: kill", "ours: relay's record: DELIVERED",
		"the slot has passed it", "FAIL"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text does not say %q:\n%s", want, b.String())
		}
	}
}

func TestFigures_TellHowLongTheNextLeaderTook(t *testing.T) {
	t.Parallel()
	h := story()
	h.Samples = []history.Sample{sample(9, 50, 50), sample(10.4, 250, 250), sample(12.05, 450, 450), sample(14.08, 450, 450)}
	h.Samples[2].Epoch, h.Samples[3].Epoch = 2, 3
	h.Exits = []history.Exit{
		{At: second(10.05), Wanted: "terminate"}, // it did not lead: requests go on under the same epoch
		{At: second(11.5), Wanted: "kill", Standby: true},
	}
	h.Actions = []history.Action{
		{Name: "freeze", Began: second(12.5), Ended: second(15)},
		{Name: "freeze", Began: second(10.5), Ended: second(10.6)}, // nobody took over
	}
	got := Check(h).Figures.TakeOvers
	want := map[string]TakeOver{"kill beside a standby": {1, 600 * time.Millisecond}, "freeze": {1, 1600 * time.Millisecond}}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestFigures_TellHowFarTheSlotStoodBehind(t *testing.T) {
	t.Parallel()
	h := story()
	h.Samples = []history.Sample{sample(10.11, 150, 150), sample(12.51, 350, 350), sample(14.21, 350, 350), sample(15, 650, 650),
		sample(16, 350, 650)} // after a crash
	h.Actions = []history.Action{{Name: history.HalfDead, Began: second(12), Ended: second(13)}}
	f := Check(h).Figures
	// Of c1, whose COMMIT was not answered, nobody knows where it ends.
	if want := (Lag{Bytes: 850, Time: 200 * time.Millisecond}); f.Lag != want {
		t.Errorf("in all %v, want %v", f.Lag, want)
	}
	if want := (Lag{Bytes: 650}); f.LagHalfDead != want {
		t.Errorf("while half of the endpoints are dead %v, want %v", f.LagHalfDead, want)
	}
}

func TestFigures_CountRepeatsByFault(t *testing.T) {
	t.Parallel()
	h := story()
	more(h, 15, "theirs", "d1", "other", 1, 204)
	h.Actions = []history.Action{kill(14.5), kill(30), {Name: "crash", Began: second(40), Ended: second(41), Rewinds: true, Stalls: true}}
	r := Check(h)
	by := r.Figures.RepeatsBy
	if want := (Repeats{Faults: 2, Total: 1, Most: 1}); by["kill"] != want || by["crash"] != (Repeats{Faults: 1}) {
		t.Errorf("%+v", by)
	}
	var b strings.Builder
	r.Print(&b)
	for _, want := range []string{"repeats after kill: 1 in 2, 0.5 each on average, at most 1\n", "repeats after crash: 0 in 1, 0.0 each on average, at most 0\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text does not say %q:\n%s", want, b.String())
		}
	}
}
