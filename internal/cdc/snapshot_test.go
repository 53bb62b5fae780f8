package cdc

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestSnapshot_AgreesWithPostgreSQL(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), pgtest.NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, text := range []string{"1:1:", "10:20:", "10:20:10,14,19", "100:101:100", "4294967290:4294967300:4294967296"} {
		s, err := ParseSnapshot(text)
		if err != nil || s.String() != text {
			t.Fatalf("%q became %q, %v", text, s, err)
		}
		low := max(s.Xmin, 3) - 2
		rows, err := conn.Query(t.Context(), `SELECT pg_visible_in_snapshot(x::text::xid8, $1::text::pg_snapshot)
			FROM generate_series($2::bigint, $2::bigint + 25) x ORDER BY x`, text, int64(low))
		if err != nil {
			t.Fatal(err)
		}
		want, err := pgx.CollectRows(rows, pgx.RowTo[bool])
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range want {
			if xid := low + uint64(i); s.Visible(xid) != w {
				t.Errorf("%s: transaction %d visible %v, PostgreSQL says %v", text, xid, !w, w)
			}
		}
	}
}

func TestParseSnapshot_RefusesWhatIsNone(t *testing.T) {
	for _, s := range []string{"", ":", "::", "5", "5:6", "6:5:", "0:5:", "5:9:4", "5:9:9", "5:9:7,6", "5:9:6,6", "a:b:", "5:9:6,", "-1:5:"} {
		if got, err := ParseSnapshot(s); err == nil {
			t.Errorf("%q became %v", s, got)
		}
	}
	if (Snapshot{}).Visible(1) || (Snapshot{}).String() != "" {
		t.Error("the zero Snapshot shows something")
	}
}

func FuzzParseSnapshot(f *testing.F) {
	f.Add("10:20:10,14,19")
	f.Add("1:1:")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSnapshot(text)
		if err != nil {
			return
		}
		again, err := ParseSnapshot(s.String())
		if err != nil || again.Xmin != s.Xmin || again.Xmax != s.Xmax || !slices.Equal(again.Running, s.Running) {
			t.Errorf("%q became %v, then %v, %v", text, s, again, err)
		}
	})
}

func TestTallies_ComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Tally {
			return Tally{Commit: LSN(rapid.Uint64().Draw(t, "commit")), XID: rapid.Uint64().Draw(t, "xid"),
				Rows: rapid.Uint32().Draw(t, "rows"), Sum: rapid.Uint64().Draw(t, "sum")}
		})).Draw(t, "tallies")
		if got := ParseTallies(AppendTallies(nil, want)); !slices.Equal(got, want) {
			t.Fatalf("%v became %v", want, got)
		}
	})
}

func TestWatermark_GivesTheTalliesOfFinishedTransactionsOnce(t *testing.T) {
	w := NewWatermark(100)
	var tickets []Ticket
	for i, commit := range []LSN{110, 120} {
		if err := w.Begin(commit); err != nil {
			t.Fatal(err)
		}
		ticket, err := w.Row()
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
		if err := w.Commit(commit+5, []Tally{{Commit: commit, XID: uint64(i), Rows: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	w.Done(tickets[1])
	if p, list := w.Finished(); p.End != 100 || len(list) != 0 {
		t.Errorf("at %s with %v, while the first is open", p.End, list)
	}
	w.Done(tickets[0])
	if n := w.Untaken(); n != 2 {
		t.Errorf("%d tallies untaken, want 2", n)
	}
	p, list := w.Finished()
	if p.End != 125 || len(list) != 2 || list[0].Commit != 110 || list[1].Commit != 120 {
		t.Errorf("at %s with %v", p.End, list)
	}
	if _, again := w.Finished(); len(again) != 0 {
		t.Errorf("taken twice: %v", again)
	}
}
