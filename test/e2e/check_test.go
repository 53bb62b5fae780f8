package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// fault is something that may explain repeats: of what was taken not longer than window before at.
type fault struct {
	at     time.Time
	window time.Duration
}

// check compares what arrived with the ledger and returns the number of repeats after a 2xx answer. A repeat that no
// fault explains fails the test.
func (l *ledger) check(faults []fault, subs ...*subscription) (repeats int) {
	l.s.t.Helper()
	rows := l.rows()
	for _, sub := range subs {
		n, complaints := compare(rows, l.s.recv.arrivals(sub.name), faults, sub)
		repeats += n
		for i, c := range complaints {
			if i == 5 {
				l.s.t.Errorf("%s: %d complaints in all", sub.name, len(complaints))
				break
			}
			l.s.t.Errorf("%s: %s", sub.name, c)
		}
	}
	l.s.t.Logf("%d rows committed (%d transactions broke off at their commit), %d subscriptions, %d repeats over %d faults",
		len(rows), l.unknown.Load(), len(subs), repeats, len(faults))
	return repeats
}

// compare finds what is wrong with what one subscription's endpoint got.
func compare(rows []row, arrivals []record, faults []fault, sub *subscription) (repeats int, complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	// The row before each in its key, among those that the subscription matches.
	expected, before := make(map[string]row), make(map[string]string)
	last := make(map[string]string)
	for _, r := range rows {
		if sub.matches(r.tenant, r.typ) {
			expected[r.event], before[r.event] = r, last[r.key]
			last[r.key] = r.event
		}
	}
	first, taken := make(map[string]*record), make(map[string]*record)
	for i := range arrivals {
		a := &arrivals[i]
		r, ok := expected[a.event]
		if !ok {
			complain("arrival %d: %s of type %s did not commit, or is not for it", i, a.event, a.typ)
			continue
		}
		if a.data != r.data || a.typ != r.typ || a.tenant != r.tenant {
			complain("arrival %d: %s is not what was written: %s", i, a.event, a.raw)
		}
		if f := first[a.event]; f == nil {
			first[a.event] = a
			if b := before[a.event]; b != "" && taken[b] == nil {
				complain("arrival %d: number %d of key %s comes although number %d was not taken (%s before %s)",
					i, r.seq, r.key, expected[b].seq, a.event, b)
			}
		} else if f.body != a.body {
			complain("arrival %d: %s has other bytes than before", i, a.event)
		}
		if was := taken[a.event]; was != nil {
			repeats++
			if !slices.ContainsFunc(faults, func(f fault) bool {
				return a.at.After(f.at) && was.at.After(f.at.Add(-f.window)) && was.at.Before(f.at.Add(time.Second))
			}) {
				complain("arrival %d: %s was taken %s before, and no fault explains the repeat", i, a.event, a.at.Sub(was.at))
			}
		} else if a.taken() {
			taken[a.event] = a
		}
	}
	for event, r := range expected {
		if taken[event] == nil {
			complain("%s, number %d of key %s, is lost", event, r.seq, r.key)
		}
	}
	return repeats, complaints
}

func TestCompare_FindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	sub := &subscription{name: "all", tenant: "acme", events: []string{"sales_order.*"}}
	rows := []row{
		{event: "a1", tenant: "acme", key: "a", typ: "sales_order.created", data: "d1", seq: 1},
		{event: "a2", tenant: "acme", key: "a", typ: "sales_order.created", data: "d2", seq: 2},
		{event: "b1", tenant: "acme", key: "b", typ: "sales_order.created", data: "d3", seq: 1},
		{event: "x1", tenant: "other", key: "x", typ: "sales_order.created", data: "d4", seq: 1},
	}
	begin := time.Now()
	got := func(second int, event, data string, answer int) record {
		return record{event: event, typ: "sales_order.created", tenant: "acme", body: "body of " + data, data: data,
			at: begin.Add(time.Duration(second) * time.Second), answer: answer}
	}
	good := []record{got(0, "a1", "d1", 503), got(1, "b1", "d3", 200), got(2, "a1", "d1", 200), got(3, "a2", "d2", 204)}
	with := func(more ...record) []record { return append(slices.Clone(good), more...) }
	crash := []fault{{begin.Add(4 * time.Second), 2 * time.Second}}
	for name, c := range map[string]struct {
		arrivals []record
		faults   []fault
		repeats  int
		want     string
	}{
		"nothing":              {arrivals: good},
		"a lost row":           {arrivals: good[:3], want: "a2, number 2 of key a, is lost"},
		"a row never taken":    {arrivals: with()[:2], want: "a1, number 1 of key a, is lost"},
		"a phantom":            {arrivals: with(got(5, "a3", "d9", 200)), want: "a3 of type sales_order.created did not commit"},
		"another tenant's row": {arrivals: with(got(5, "x1", "d4", 200)), want: "x1 of type sales_order.created did not commit"},
		"rows out of order":    {arrivals: []record{good[1], good[3], good[2]}, want: "number 2 of key a comes although number 1 was not taken"},
		"a row that overtakes": {arrivals: []record{good[0], good[1], good[3], good[2]}, want: "number 2 of key a comes"},
		"other data":           {arrivals: []record{good[1], got(2, "a1", "d7", 200), good[3]}, want: "is not what was written"},
		"a repeat":             {arrivals: with(got(5, "a2", "d2", 200)), repeats: 1, want: "no fault explains the repeat"},
		"an explained repeat":  {arrivals: with(got(5, "a2", "d2", 200)), faults: crash, repeats: 1},
		"too late a repeat":    {arrivals: with(got(5, "b1", "d3", 200)), faults: crash, repeats: 1, want: "no fault explains the repeat"},
		"other bytes": {arrivals: with(record{event: "a2", typ: "sales_order.created", tenant: "acme", body: "other", data: "d2",
			at: begin.Add(5 * time.Second), answer: 200}), faults: crash, repeats: 1, want: "has other bytes than before"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repeats, complaints := compare(rows, c.arrivals, c.faults, sub)
			text := strings.Join(complaints, "; ")
			if repeats != c.repeats || (c.want == "") != (text == "") || !strings.Contains(text, c.want) {
				t.Errorf("%d repeats, complaints %q; want %d and %q", repeats, text, c.repeats, c.want)
			}
		})
	}
}
