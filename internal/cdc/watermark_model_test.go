package cdc

import (
	"testing"

	"pgregory.net/rapid"
)

// modelTx is a transaction or keepalive as the naive model keeps it: nothing is
// ever forgotten, and everything is looked at each time.
type modelTx struct {
	commit, end         LSN
	committed, backfill bool
	done                []bool
}

func (x *modelTx) prefix() int {
	n := 0
	for n < len(x.done) && x.done[n] {
		n++
	}
	return n
}

type model struct {
	start   LSN
	arrived LSN
	all     []*modelTx
}

func (m *model) open() *modelTx {
	if n := len(m.all); n > 0 && !m.all[n-1].committed {
		return m.all[n-1]
	}
	return nil
}

func (m *model) position() Position {
	p := Position{End: m.start}
	for _, x := range m.all {
		if !x.committed || x.prefix() < len(x.done) {
			if !x.backfill && x.prefix() > 0 {
				p.Partial, p.Rows = x.commit, x.prefix()
			}
			break
		}
		p.End = x.end
	}
	return p
}

type claim struct {
	ticket Ticket
	tx     *modelTx
	index  int
}

func TestWatermark_AgreesWithTheNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := LSN(rapid.Uint64Range(0, 1000).Draw(t, "start"))
		w, m := NewWatermark(start), &model{start: start, arrived: start}
		putIn := map[LSN]bool{start: true}
		var claims []claim
		var last Position
		gap := rapid.Uint64Range(0, 40)

		startTx := func(t *rapid.T, backfill bool) {
			at := m.arrived + LSN(gap.Draw(t, "gap"))
			var err error
			if backfill {
				err = w.BeginBackfill(at)
			} else {
				err = w.Begin(at)
			}
			if m.open() != nil {
				if err == nil {
					t.Fatal("a transaction began inside a transaction")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m.all = append(m.all, &modelTx{commit: at, backfill: backfill})
		}
		t.Repeat(map[string]func(*rapid.T){
			"begin":    func(t *rapid.T) { startTx(t, false) },
			"backfill": func(t *rapid.T) { startTx(t, true) },
			"rows": func(t *rapid.T) {
				x := m.open()
				if x == nil {
					if _, err := w.Row(); err == nil {
						t.Fatal("a row outside a transaction")
					}
					return
				}
				for range rapid.IntRange(1, 70).Draw(t, "rows") {
					ticket, err := w.Row()
					if err != nil {
						t.Fatal(err)
					}
					claims = append(claims, claim{ticket, x, len(x.done)})
					x.done = append(x.done, false)
				}
			},
			"commit": func(t *rapid.T) {
				x := m.open()
				if x == nil {
					if w.Commit(m.arrived, nil) == nil {
						t.Fatal("a commit outside a transaction")
					}
					return
				}
				// A commit record takes room, so no two transactions commit at one position. Rows from the
				// table have no record: theirs ends where it begins.
				x.end = x.commit + LSN(gap.Draw(t, "length"))
				if !x.backfill {
					x.end++
				}
				if err := w.Commit(x.end, nil); err != nil {
					t.Fatal(err)
				}
				x.committed, m.arrived, putIn[x.end] = true, x.end, true
			},
			"keepalive": func(t *rapid.T) {
				pos := LSN(rapid.Uint64Range(0, uint64(m.arrived)+40).Draw(t, "position"))
				w.Keepalive(pos)
				if m.open() == nil && pos > m.arrived {
					m.all = append(m.all, &modelTx{commit: pos, end: pos, committed: true})
					m.arrived, putIn[pos] = pos, true
				}
			},
			"done": func(t *rapid.T) {
				if len(claims) == 0 {
					t.Skip("no row yet")
				}
				// Mostly in order, as endpoints do, so that positions move.
				from := rapid.IntRange(0, len(claims)-1).Draw(t, "claim")
				for _, c := range claims[from:min(len(claims), from+rapid.IntRange(1, 100).Draw(t, "run"))] {
					w.Done(c.ticket)
					c.tx.done[c.index] = true
				}
			},
			"zero ticket": func(*rapid.T) { w.Done(Ticket{}) },
			"": func(t *rapid.T) {
				got := w.Position()
				if want := m.position(); got != want {
					t.Fatalf("position %+v, want %+v", got, want)
				}
				if got.End < last.End {
					t.Fatalf("position fell from %s to %s", last.End, got.End)
				}
				if !putIn[got.End] {
					t.Fatalf("position %s was never put in", got.End)
				}
				for _, c := range claims {
					if !c.tx.backfill && !c.tx.done[c.index] && got.Covers(c.tx.commit, c.index) && c.tx.commit != c.tx.end {
						t.Fatalf("position %+v covers row %d of transaction %s, which is open", got, c.index, c.tx.commit)
					}
					if !c.tx.done[c.index] && c.tx.committed && got.End >= c.tx.end && c.tx.end > c.tx.commit {
						t.Fatalf("position %+v lies behind open row %d of transaction %s", got, c.index, c.tx.commit)
					}
				}
				if w.Arrived() != m.arrived {
					t.Fatalf("arrived %s, want %s", w.Arrived(), m.arrived)
				}
				lsn, n, ok := w.Open()
				if x := m.open(); (x != nil) != ok || (ok && (lsn != x.commit || n != len(x.done))) {
					t.Fatalf("open %s with %d rows, %v; want %+v", lsn, n, ok, x)
				}
				last = got
			},
		})
	})
}
