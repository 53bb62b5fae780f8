package audit

import (
	"encoding/binary"
	"slices"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/outbox-relay/relay/internal/cdc"
)

var columns = Columns{ID: "id", XID: "xid"}

var relation = &cdc.Relation{Columns: []cdc.Column{{Name: "xid"}, {Name: "tenant_id"}, {Name: "id"}}}

func row(id uuid.UUID, xid uint64) cdc.Row {
	text := func(s string) cdc.Value { return cdc.Value{Kind: cdc.KindText, Data: []byte(s)} }
	return cdc.Row{Relation: relation, Values: []cdc.Value{text(strconv.FormatUint(xid, 10)), text("acme"), text(id.String())}}
}

func number(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[:8], uint64(n))
	return id
}

// bring lets a transaction come through the stream.
func bring(j *Journal, lsn cdc.LSN, xid uint64, ids ...uuid.UUID) []cdc.Tally {
	for _, id := range ids {
		j.Row(row(id, xid), uint32(xid))
	}
	return slices.Clone(j.Commit(lsn))
}

func xids(w Window) (list []uint64) {
	for _, s := range w.seen {
		list = append(list, s.XID)
	}
	return list
}

func TestJournal_CutsAtTheMarker(t *testing.T) {
	j := NewJournal(columns, cdc.Snapshot{Xmin: 10, Xmax: 10}, nil)
	bring(j, 100, 10, number(1), number(2))
	bring(j, 110, 11, number(3)) // in the WAL, and not seen by the snapshot yet
	came := j.Expect("m1")
	j.Marker("forged", 120)
	select {
	case <-came:
		t.Fatal("another marker was taken")
	default:
	}
	j.Marker("m1", 130)
	<-came
	bring(j, 140, 12, number(4)) // behind the marker
	w, left := j.Cut(cdc.Snapshot{Xmin: 11, Xmax: 12, Running: []uint64{11}})
	if got := xids(w); !slices.Equal(got, []uint64{10}) || w.LSN != 130 || w.seen[0].Rows != 2 {
		t.Errorf("window of %v at %s", got, w.LSN)
	}
	if len(left) != 1 || left[0].XID != 11 || left[0].Commit != 110 {
		t.Errorf("left over: %v, want transaction 11 at 110", left)
	}
	j.Expect("m2")
	j.Marker("m2", 150)
	w, left = j.Cut(cdc.Snapshot{Xmin: 13, Xmax: 13})
	if got := xids(w); !slices.Equal(got, []uint64{11, 12}) || len(left) != 0 {
		t.Errorf("second window of %v, left over %v", got, left)
	}
}

func TestJournal_GoesOnWithWhatIsOnRecord(t *testing.T) {
	before := NewJournal(columns, cdc.Snapshot{Xmin: 5, Xmax: 5}, nil)
	recorded := append(bring(before, 100, 4, number(1)), bring(before, 110, 7, number(2), number(3))...)
	j := NewJournal(columns, cdc.Snapshot{Xmin: 5, Xmax: 5}, recorded)
	bring(j, 120, 8, number(4))
	j.Expect("m")
	j.Marker("m", 130)
	w, _ := j.Cut(cdc.Snapshot{Xmin: 9, Xmax: 9})
	if got := xids(w); !slices.Equal(got, []uint64{7, 8}) {
		t.Errorf("window of %v, want 7, which is on record, and 8", got)
	}
}

func TestJournal_TellsWhenRowsCannotBeAudited(t *testing.T) {
	for name, r := range map[string]cdc.Row{
		"no such column": {Relation: &cdc.Relation{Columns: []cdc.Column{{Name: "id"}}}, Values: []cdc.Value{{Kind: cdc.KindText, Data: []byte(number(1).String())}}},
		"id is no uuid":  {Relation: relation, Values: []cdc.Value{{Data: []byte("7")}, {}, {Data: []byte("42")}}},
		"null":           {Relation: relation, Values: []cdc.Value{{Kind: cdc.KindNull}, {}, {Data: []byte(number(1).String())}}},
	} {
		j := NewJournal(columns, cdc.Snapshot{}, nil)
		j.Row(r, 0)
		if !j.Blind() {
			t.Errorf("%s: taken for a row that can be audited", name)
		}
	}
}

func TestJournal_BoundsTheIdsItKeeps(t *testing.T) {
	j := NewJournal(columns, cdc.Snapshot{}, nil)
	const n = maxIDs + 10
	for i := range n {
		j.Row(row(number(i), 7), 7)
	}
	tally := j.Commit(100)[0]
	if tally.Rows != n || j.done[0].n != maxIDs {
		t.Errorf("%d rows counted, %d ids kept", tally.Rows, j.done[0].n)
	}
	j.Expect("m")
	j.Marker("m", 110)
	j.Cut(cdc.Snapshot{Xmin: 8, Xmax: 8})
	if len(j.ids) != 0 {
		t.Errorf("%d ids are still kept", len(j.ids))
	}
}

func TestJournal_ForgetsRatherThanGrowForEver(t *testing.T) {
	j := NewJournal(columns, cdc.Snapshot{Xmin: 5, Xmax: 5}, nil)
	r := row(number(1), 7)
	for i := range maxTransactions + 1 {
		j.Row(r, 7)
		j.Commit(cdc.LSN(100 + i))
	}
	if !j.Overflowed() || len(j.done) != 0 {
		t.Fatalf("%d transactions are kept", len(j.done))
	}
	bring(j, 1<<40, 8, number(2))
	j.Expect("m")
	j.Marker("m", 1<<41)
	if w, _ := j.Cut(cdc.Snapshot{Xmin: 9, Xmax: 9}); !w.From.IsZero() || !w.Forgotten {
		t.Errorf("the window begins at %s, and what came first is forgotten", w.From)
	}
	if j.Overflowed() || j.Baseline().IsZero() {
		t.Error("the next marker begins anew, and does not")
	}
}

// What a backlog of any length leaves in memory is bounded once its marker is sent,
// also when that marker never comes.
// Between the marker and the cut, which waits for the recording, as much may come as before it.
func TestJournal_RemembersThatItForgotWhatCameBehindTheMarker(t *testing.T) {
	t.Parallel()
	j := NewJournal(columns, cdc.Snapshot{Xmin: 10, Xmax: 10}, nil)
	j.Keep(5)
	_ = j.Expect("m")
	j.Emitted(20, cdc.Snapshot{Xmin: 20, Xmax: 20})
	j.Marker("m", 100)
	for xid := uint64(20); xid < 30; xid++ { // none of them is shown by the marker
		bring(j, cdc.LSN(xid*10), xid, number(int(xid)))
	}
	if !j.Overflowed() {
		t.Fatal("ten transactions fit where five are kept")
	}
	if w, _ := j.Cut(cdc.Snapshot{Xmin: 20, Xmax: 20}); !w.Forgotten {
		t.Error("the window does not say that something was forgotten")
	}
	if !j.Overflowed() || !j.Baseline().IsZero() {
		t.Errorf("overflowed %t, baseline %s: what came behind the marker would be taken for missing", j.Overflowed(), j.Baseline())
	}
	_ = j.Expect("n")
	j.Emitted(40, cdc.Snapshot{Xmin: 40, Xmax: 40})
	j.Marker("n", 500)
	if w, _ := j.Cut(cdc.Snapshot{Xmin: 40, Xmax: 40}); !w.Forgotten || w.LSN != 500 {
		t.Errorf("the next window: %+v", w)
	}
	if j.Overflowed() || j.Baseline().IsZero() {
		t.Error("it does not begin anew behind the next marker")
	}
}

func TestJournal_AddsUpABacklogThatTheMarkerWillShow(t *testing.T) {
	j := NewJournal(columns, cdc.Snapshot{Xmin: 5, Xmax: 5}, nil)
	const n = maxTransactions + 1000
	bring(j, 90, n+50, number(n)) // does not show, and goes before
	j.Expect("lost")
	j.Emitted(n+6, cdc.Snapshot{Xmin: n + 6, Xmax: n + 6})
	most := 0
	for i := range n {
		bring(j, cdc.LSN(100+i), uint64(6+i), number(i))
		most = max(most, len(j.done))
	}
	if most > keepEach+10 || j.Overflowed() {
		t.Fatalf("%d transactions were kept one by one, overflow %t", most, j.Overflowed())
	}
	j.Expect("m")
	j.Marker("m", 1<<40)
	j.Emitted(n+60, cdc.Snapshot{Xmin: n + 60, Xmax: n + 60}) // it came before the answer did
	w, left := j.Cut(cdc.Snapshot{Xmin: n + 60, Xmax: n + 60})
	if got := int(w.folded.Rows) + len(w.seen); got != n+1 || len(left) != 0 || w.Forgotten {
		t.Errorf("the window has %d rows, want %d; left over %v", got, n+1, left)
	}
	if j.folded.Rows != 0 {
		t.Error("what was added up counts again with the next marker")
	}
}

// A dump that is loaded has rows with ids of other transactions, as many as rows.
func TestJournal_AddsUpTransactionsThatComeInTurns(t *testing.T) {
	j := NewJournal(columns, cdc.Snapshot{}, nil)
	const rows, ids = 30_000, 3
	for i := range rows {
		j.Row(row(number(i), uint64(5+i%ids)), 1)
	}
	var n uint32
	for _, tally := range j.Commit(100) {
		n += tally.Rows
	}
	if n != rows {
		t.Errorf("%d rows are counted, %d came", n, rows)
	}
	j.Expect("m")
	j.Marker("m", 110)
	w, _ := j.Cut(cdc.Snapshot{Xmin: 9, Xmax: 9})
	var table []cdc.Tally
	for k := range ids {
		want := cdc.Tally{XID: uint64(5 + k)}
		for i := k; i < rows; i += ids {
			want.Rows++
			want.Sum += cdc.Fingerprint(number(i))
		}
		table = append(table, want)
	}
	var res Result
	if w.compare(&res, table); len(res.Missing) != 0 || res.Vanished != 0 {
		t.Errorf("%d gaps, %d rows gone; want all in order", len(res.Missing), res.Vanished)
	}
}

// Whatever comes in which order, each transaction is in exactly one window, and in the
// first whose snapshot shows it.
func TestJournal_PutsEachTransactionIntoOneWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := NewJournal(columns, cdc.Snapshot{Xmin: 1, Xmax: 1}, nil)
		var pending, running []uint64 // committed in the WAL and not visible; begun
		next, lsn, ids := uint64(1), cdc.LSN(1), 0
		committed := make(map[uint64]int)
		written := make(map[uint64][]uuid.UUID)
		windows := make(map[uint64]int)
		last := cdc.Snapshot{Xmin: 1, Xmax: 1}
		check := func(w Window) {
			for _, s := range w.seen {
				if windows[s.XID]++; windows[s.XID] > 1 {
					t.Fatalf("transaction %d is in two windows", s.XID)
				}
				if !w.To.Visible(s.XID) || w.From.Visible(s.XID) {
					t.Fatalf("transaction %d is in the wrong window", s.XID)
				}
				if int(s.Rows) != committed[s.XID] || !slices.Equal(w.ids[s.at:s.at+s.n], written[s.XID]) {
					t.Fatalf("transaction %d has %d rows, want %d", s.XID, s.Rows, committed[s.XID])
				}
			}
		}
		marker := func() {
			name := strconv.Itoa(int(lsn))
			j.Expect(name)
			snap := cdc.Snapshot{Xmin: next, Xmax: next}
			open := append(slices.Clone(running), pending...)
			slices.Sort(open)
			if len(open) > 0 {
				snap.Xmin, snap.Running = open[0], open
			}
			lsn++
			j.Marker(name, lsn)
			w, _ := j.Cut(snap)
			check(w)
			last = snap
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(*rapid.T) { running = append(running, next); next++ },
			"commit": func(t *rapid.T) {
				if len(running) == 0 {
					t.Skip("nothing runs")
				}
				i := rapid.IntRange(0, len(running)-1).Draw(t, "which")
				xid := running[i]
				running = slices.Delete(running, i, i+1)
				n := rapid.IntRange(1, 3).Draw(t, "rows")
				var list []uuid.UUID
				for range n {
					ids++
					list = append(list, number(ids))
				}
				committed[xid], written[xid] = n, list
				lsn++
				bring(j, lsn, xid, list...)
				pending = append(pending, xid)
			},
			"become visible": func(t *rapid.T) {
				if len(pending) == 0 {
					t.Skip("nothing waits")
				}
				pending = pending[1:]
			},
			"marker": func(*rapid.T) { marker() },
		})
		running, pending = nil, nil
		marker()
		for xid := range committed {
			if windows[xid] != 1 {
				t.Fatalf("transaction %d is in %d windows; last %s", xid, windows[xid], last)
			}
		}
	})
}

// Ids that the server has not given out when the marker is emitted are no transactions of its own.
// A few stay, for the case that it comes so far; a transaction that came since is none of them.
func TestJournal_KeepsFewTransactionsThatTheServerDoesNotKnow(t *testing.T) {
	j := NewJournal(columns, cdc.Snapshot{Xmin: 5, Xmax: 5}, nil)
	const own, many = keepEach + 5000, 2 * maxUnknown
	for i := range many {
		bring(j, 90, uint64(1_000_000_000+i), number(i))
	}
	for xid := uint64(6); xid < own; xid++ {
		bring(j, cdc.LSN(xid)+100, xid, number(int(xid)))
	}
	j.Expect("m")
	shown := cdc.Snapshot{Xmin: own, Xmax: own}
	j.Emitted(own, shown) // adds most of them up
	bring(j, 1<<30, own+1, number(7))
	j.Marker("m", 1<<31)
	w, left := j.Cut(shown)
	if w.Unknown != many-maxUnknown || len(left) != maxUnknown+1 || left[maxUnknown].XID != own+1 {
		t.Errorf("%d are given up, %d left over; want %d, and the one that came since among %d", w.Unknown, len(left), many-maxUnknown, maxUnknown+1)
	}
	if got := int(w.folded.Rows) + len(w.seen); got != own-6 {
		t.Errorf("the window has %d rows, want %d", got, own-6)
	}
}

// A row that an UPDATE has moved comes again, in another transaction, and counts once.
func TestJournal_CountsAMovedRowOnce(t *testing.T) {
	t.Parallel()
	j := NewJournal(columns, cdc.Snapshot{Xmin: 5, Xmax: 5}, nil)
	bring(j, 100, 6, number(1), number(2))
	if other, again := j.Row(row(number(1), 6), 7); !other || !again {
		t.Error("a moved row is taken for a new one")
	}
	if other, again := j.Row(row(number(3), 6), 7); !other || again {
		t.Error("a row with another transaction's id, which has not come, is taken for one that was moved")
	}
	if other, again := j.Row(row(number(1), 1<<32+7), 7); other || again {
		t.Error("a row of the transaction itself is taken for one that was moved")
	}
	if list := j.Commit(110); len(list) != 2 || list[0].Rows+list[1].Rows != 2 {
		t.Errorf("the transaction shows %v, want two rows", list)
	}
}
