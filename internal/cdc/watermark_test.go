package cdc

import (
	"sync"
	"testing"
)

// rows adds n rows to the open transaction.
func rows(t testing.TB, w *Watermark, n int) []Ticket {
	t.Helper()
	var tickets []Ticket
	for range n {
		ticket, err := w.Row()
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
	}
	return tickets
}

func begin(t testing.TB, w *Watermark, commit LSN) {
	t.Helper()
	if err := w.Begin(commit); err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, w *Watermark, end LSN) {
	t.Helper()
	if err := w.Commit(end, nil); err != nil {
		t.Fatal(err)
	}
}

func wantPosition(t testing.TB, w *Watermark, want Position) {
	t.Helper()
	if got := w.Position(); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
}

func TestWatermark_MovesToTheEndOfARecordedTransaction(t *testing.T) {
	w := NewWatermark(10)
	wantPosition(t, w, Position{End: 10})
	begin(t, w, 100)
	tickets := rows(t, w, 2)
	commit(t, w, 130)
	wantPosition(t, w, Position{End: 10})
	w.Done(tickets[1])
	wantPosition(t, w, Position{End: 10})
	w.Done(tickets[0])
	wantPosition(t, w, Position{End: 130})
	if w.Outstanding() != 0 {
		t.Errorf("%d outstanding", w.Outstanding())
	}
}

func TestWatermark_KeepsBackOpenTransaction(t *testing.T) {
	w := NewWatermark(10)
	begin(t, w, 100)
	for _, ticket := range rows(t, w, 2) {
		w.Done(ticket)
	}
	wantPosition(t, w, Position{End: 10, Partial: 100, Rows: 2})
	more := rows(t, w, 1)
	commit(t, w, 130)
	wantPosition(t, w, Position{End: 10, Partial: 100, Rows: 2})
	w.Done(more[0])
	wantPosition(t, w, Position{End: 130})
}

func TestWatermark_HoldsFinishedTransactionsBehindAnUnfinishedOne(t *testing.T) {
	w := NewWatermark(10)
	begin(t, w, 100)
	first := rows(t, w, 1)
	commit(t, w, 130)
	begin(t, w, 130) // the next may begin where the last one ended
	second := rows(t, w, 1)
	commit(t, w, 160)
	w.Keepalive(200)
	w.Done(second[0])
	wantPosition(t, w, Position{End: 10})
	if w.Arrived() != 200 {
		t.Errorf("arrived %s, want the keepalive's position", w.Arrived())
	}
	w.Done(first[0])
	wantPosition(t, w, Position{End: 200})
}

func TestWatermark_CountsThePrefixOfTheFirstUnfinishedTransaction(t *testing.T) {
	w := NewWatermark(0)
	begin(t, w, 100)
	const n = 200 // more than one word of the bitmap
	tickets := rows(t, w, n)
	commit(t, w, 130)
	for i := n - 1; i > 0; i-- {
		w.Done(tickets[i])
		w.Done(tickets[i]) // a second time changes nothing
	}
	wantPosition(t, w, Position{})
	begin(t, w, 140)
	w.Done(rows(t, w, 1)[0])
	wantPosition(t, w, Position{}) // a prefix of the second is no prefix of the stream
	w.Done(tickets[0])
	wantPosition(t, w, Position{End: 130, Partial: 140, Rows: 1})
}

// A leader that is killed before the rows come again must not have taken back that they are recorded.
func TestWatermark_HoldsOnToThePartialTransactionOfAnEarlierLeader(t *testing.T) {
	w := NewWatermark(100)
	w.Remember(Position{End: 100, Partial: 150, Rows: 3})
	wantPosition(t, w, Position{End: 100, Partial: 150, Rows: 3})
	w.Keepalive(140)
	wantPosition(t, w, Position{End: 140, Partial: 150, Rows: 3})
	begin(t, w, 150)
	tickets := rows(t, w, 5)
	w.Done(tickets[0])
	wantPosition(t, w, Position{End: 140, Partial: 150, Rows: 3})
	for _, ticket := range tickets[1:4] {
		w.Done(ticket)
	}
	wantPosition(t, w, Position{End: 140, Partial: 150, Rows: 4})
	commit(t, w, 180)
	w.Done(tickets[4])
	wantPosition(t, w, Position{End: 180})
	begin(t, w, 200)
	w.Done(rows(t, w, 2)[0])
	wantPosition(t, w, Position{End: 180, Partial: 200, Rows: 1})
}

func TestWatermark_IgnoresKeepaliveInsideATransaction(t *testing.T) {
	w := NewWatermark(10)
	begin(t, w, 100)
	w.Keepalive(100)
	w.Keepalive(500)
	wantPosition(t, w, Position{End: 10})
	if w.Arrived() != 10 {
		t.Errorf("arrived %s, want the start", w.Arrived())
	}
	commit(t, w, 130)
	wantPosition(t, w, Position{End: 130})
	w.Keepalive(120) // late
	wantPosition(t, w, Position{End: 130})
}

func TestWatermark_KeepsOneEntryForManyKeepalives(t *testing.T) {
	w := NewWatermark(10)
	begin(t, w, 100)
	tickets := rows(t, w, 1)
	commit(t, w, 130)
	for lsn := LSN(200); lsn < 1200; lsn++ {
		w.Keepalive(lsn)
	}
	if w.Outstanding() > 2 {
		t.Errorf("%d entries wait behind one row", w.Outstanding())
	}
	wantPosition(t, w, Position{End: 10})
	w.Done(tickets[0])
	wantPosition(t, w, Position{End: 1199})
}

func TestWatermark_NeverCountsBackfill(t *testing.T) {
	w := NewWatermark(10)
	if err := w.BeginBackfill(10); err != nil {
		t.Fatal(err)
	}
	tickets := rows(t, w, 3)
	w.Done(tickets[0])
	wantPosition(t, w, Position{End: 10})
	commit(t, w, 10)
	w.Done(tickets[1])
	wantPosition(t, w, Position{End: 10})
	begin(t, w, 100)
	w.Done(rows(t, w, 1)[0])
	commit(t, w, 130)
	wantPosition(t, w, Position{End: 10})
	w.Done(tickets[2])
	wantPosition(t, w, Position{End: 130})
}

func TestWatermark_RemembersATransactionThatBroke(t *testing.T) {
	w := NewWatermark(10)
	if _, _, ok := w.Open(); ok {
		t.Error("open before anything began")
	}
	begin(t, w, 100)
	rows(t, w, 3)
	if lsn, n, ok := w.Open(); !ok || lsn != 100 || n != 3 {
		t.Errorf("open %s with %d rows, %v", lsn, n, ok)
	}
	if w.Arrived() != 10 {
		t.Errorf("arrived %s, want the end of the last whole transaction", w.Arrived())
	}
	commit(t, w, 130)
	if _, _, ok := w.Open(); ok || w.Arrived() != 130 {
		t.Errorf("open %v, arrived %s after the commit", ok, w.Arrived())
	}
}

func TestWatermark_RefusesWhatIsNoStream(t *testing.T) {
	tests := map[string]func(w *Watermark) error{
		"transaction inside a transaction": func(w *Watermark) error {
			_ = w.Begin(100)
			return w.Begin(110)
		},
		"transaction before the start":          func(w *Watermark) error { return w.Begin(9) },
		"transaction behind a keepalive":        func(w *Watermark) error { w.Keepalive(50); return w.Begin(49) },
		"commit without a transaction":          func(w *Watermark) error { return w.Commit(100, nil) },
		"end before its own commit":             func(w *Watermark) error { _ = w.Begin(100); return w.Commit(99, nil) },
		"row without a transaction":             func(w *Watermark) error { _, err := w.Row(); return err },
		"row after the commit of a transaction": func(w *Watermark) error { _ = w.Begin(20); _ = w.Commit(30, nil); _, err := w.Row(); return err },
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			if err := do(NewWatermark(10)); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestWatermark_IgnoresTheZeroTicket(t *testing.T) {
	w := NewWatermark(10)
	begin(t, w, 100)
	rows(t, w, 1)
	w.Done(Ticket{})
	commit(t, w, 130)
	wantPosition(t, w, Position{End: 10})
}

func TestWatermark_TakesDoneFromManyGoroutines(t *testing.T) {
	w := NewWatermark(0)
	var all sync.WaitGroup
	lsn := LSN(100)
	for range 100 {
		begin(t, w, lsn)
		for _, ticket := range rows(t, w, 70) {
			all.Go(func() { w.Done(ticket) })
		}
		commit(t, w, lsn+30)
		lsn += 50
	}
	all.Wait()
	wantPosition(t, w, Position{End: lsn - 20})
}

func TestPosition_CoversWhatAStartThereWouldSkip(t *testing.T) {
	p := Position{End: 100, Partial: 150, Rows: 2}
	for _, tc := range []struct {
		commit LSN
		index  int
		want   bool
	}{
		{99, 7, true},
		{100, 0, false}, // a transaction whose commit begins at End is sent again
		{150, 0, true},
		{150, 1, true},
		{150, 2, false},
		{160, 0, false},
	} {
		if got := p.Covers(tc.commit, tc.index); got != tc.want {
			t.Errorf("covers row %d of %d: %v", tc.index, tc.commit, got)
		}
	}
}

// One transaction of ten rows through the watermark, 100 transactions being
// under way.
func BenchmarkWatermark(b *testing.B) {
	w := NewWatermark(0)
	lsn := LSN(100)
	const width = 100
	waiting := make([][10]Ticket, width)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		slot := &waiting[i%width]
		for _, ticket := range slot {
			w.Done(ticket)
		}
		if err := w.Begin(lsn); err != nil {
			b.Fatal(err)
		}
		for j := range slot {
			ticket, err := w.Row()
			if err != nil {
				b.Fatal(err)
			}
			slot[j] = ticket
		}
		if err := w.Commit(lsn, nil); err != nil {
			b.Fatal(err)
		}
		w.Position()
		lsn += 50
	}
}
