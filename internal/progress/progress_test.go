package progress

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, pgtest.NoLeaks()) }

func mustMigrate(t *testing.T) (context.Context, *pgx.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	url := migratetest.NewDatabase(t)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return ctx, conn
}

func TestProgress_ComesBackAsItWasCreated(t *testing.T) {
	ctx, conn := mustMigrate(t)
	want := State{Slot: "relay_main", SystemID: "7123456789012345678", Timeline: 3,
		Position: cdc.Position{End: 0x1_0000_00A0}, Backfill: "10:20:10,14,15"}
	if err := Create(ctx, conn, want); err != nil {
		t.Fatal(err)
	}
	got, err := Load(ctx, conn, "relay_main")
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if err := Create(ctx, conn, want); err == nil {
		t.Error("progress that exists is overwritten")
	}
}

func TestProgress_OfAnUnknownSlotIsNone(t *testing.T) {
	ctx, conn := mustMigrate(t)
	if _, err := Load(ctx, conn, "other"); !errors.Is(err, ErrNone) {
		t.Errorf("load: %v, want %v", err, ErrNone)
	}
	if _, err := TakeOver(ctx, conn, "other", cdc.Identity{}); !errors.Is(err, ErrNone) {
		t.Errorf("take over: %v, want %v", err, ErrNone)
	}
}

func TestTakeOver_EndsTheOlderLeadersRightToWrite(t *testing.T) {
	ctx, conn := mustMigrate(t)
	if err := Create(ctx, conn, State{Slot: "s", SystemID: "1", Timeline: 1, Backfill: "10:20:"}); err != nil {
		t.Fatal(err)
	}
	first, err := TakeOver(ctx, conn, "s", cdc.Identity{SystemID: "1", Timeline: 1})
	if err != nil {
		t.Fatal(err)
	}
	const advance = "SELECT relay.advance('s', $1, $2, '0/100', '0/90', 4, NULL, '0/0', false, NULL)"
	if _, err := conn.Exec(ctx, advance, first.Epoch, 1); err != nil {
		t.Fatal(err)
	}
	var pg *pgconn.PgError
	if _, err := conn.Exec(ctx, advance, first.Epoch, 1); !errors.As(err, &pg) || pg.Code != "RL002" {
		t.Errorf("a batch was written twice: %v", err)
	}
	second, err := TakeOver(ctx, conn, "s", cdc.Identity{SystemID: "1", Timeline: 1})
	if err != nil || second.Epoch != first.Epoch+1 {
		t.Fatalf("epoch %d after %d, %v", second.Epoch, first.Epoch, err)
	}
	if want := (cdc.Position{End: 0x100, Partial: 0x90, Rows: 4}); second.Position != want {
		t.Errorf("position %+v, want %+v", second.Position, want)
	}
	if _, err := conn.Exec(ctx, advance, first.Epoch, 2); !errors.As(err, &pg) || pg.Code != "RL001" {
		t.Errorf("the older leader can still write: %v", err)
	}
	if _, err := conn.Exec(ctx, advance, second.Epoch, 1); err != nil {
		t.Errorf("the new leader counts its batches from one: %v", err)
	}
	shown := cdc.Snapshot{Xmin: 10, Xmax: 20, Running: []uint64{12}}
	if err := Mark(ctx, conn, first, 0, shown, 0x80, nil); !errors.As(err, &pg) || pg.Code != "RL001" {
		t.Errorf("the older leader can still mark: %v", err)
	}
	if err := Mark(ctx, conn, second, 2, shown, 0x80, nil); !errors.As(err, &pg) || pg.Code != "RL001" || !strings.Contains(err.Error(), "knows batch 1") {
		t.Errorf("a database that lacks the leader's last batch takes its marker: %v", err)
	}
	if _, err := conn.Exec(ctx, advance, second.Epoch, 3); !errors.As(err, &pg) || pg.Code != "RL001" || !strings.Contains(err.Error(), "knows batch 1") {
		t.Errorf("a database that lacks the leader's last batch takes the next one: %v", err)
	}
	if err := Mark(ctx, conn, second, 1, shown, 0x80, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "UPDATE relay.progress SET timeline = 7"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, advance, second.Epoch, 2); !errors.As(err, &pg) || pg.Code != "RL001" || !strings.Contains(err.Error(), "timeline") {
		t.Errorf("a server of another timeline takes a batch: %v", err)
	}
	if now, err := Load(ctx, conn, "s"); err != nil || now.Backfill != "" || now.Marker != shown.String() {
		t.Errorf("%+v, %v; want the backfill ended and the marker %s", now, err, shown)
	}
}

func TestMark_KeepsWhatItsSnapshotDoesNotShow(t *testing.T) {
	ctx, conn := mustMigrate(t)
	if err := Create(ctx, conn, State{Slot: "s", SystemID: "1", Timeline: 1, Backfill: "10:20:"}); err != nil {
		t.Fatal(err)
	}
	leader, err := TakeOver(ctx, conn, "s", cdc.Identity{SystemID: "1", Timeline: 1})
	if err != nil {
		t.Fatal(err)
	}
	before, late, after := cdc.Tally{XID: 11, Rows: 2, Sum: 5}, cdc.Tally{XID: 12, Rows: 1, Sum: 1 << 63}, cdc.Tally{XID: 13, Rows: 7, Sum: 9}
	for i, step := range []struct {
		end  string
		done []cdc.Tally
	}{{"0/100", []cdc.Tally{before, late}}, {"0/200", []cdc.Tally{after}}} {
		if _, err := conn.Exec(ctx, "SELECT relay.advance('s', $1, $2, $3::text::pg_lsn, '0/0', 0, NULL, '0/0', false, $4)",
			leader.Epoch, i+1, step.end, cdc.AppendTallies(nil, step.done)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Mark(ctx, conn, leader, 2, cdc.Snapshot{Xmin: 12, Xmax: 13, Running: []uint64{12}}, 0x180, []cdc.Tally{late}); err != nil {
		t.Fatal(err)
	}
	got, err := Accounted(ctx, conn, "s")
	slices.SortFunc(got, func(a, b cdc.Tally) int { return int(a.XID) - int(b.XID) })
	if err != nil || !slices.Equal(got, []cdc.Tally{late, after}) {
		t.Errorf("%v, %v; want %v", got, err, []cdc.Tally{late, after})
	}
}

func TestCheck_RefusesAServerThatProgressDoesNotBelongTo(t *testing.T) {
	s := State{Slot: "s", SystemID: "1", Timeline: 2, Position: cdc.Position{End: 0x200}}
	for name, c := range map[string]struct {
		id   cdc.Identity
		want string // in the error, empty for none
	}{
		"the same":             {cdc.Identity{SystemID: "1", Timeline: 2, XLogPos: 0x300}, ""},
		"at its very end":      {cdc.Identity{SystemID: "1", Timeline: 2, XLogPos: 0x200}, ""},
		"promoted since":       {cdc.Identity{SystemID: "1", Timeline: 3, XLogPos: 0x300}, ""},
		"another system":       {cdc.Identity{SystemID: "9", Timeline: 2, XLogPos: 0x300}, "system 9"},
		"an old primary":       {cdc.Identity{SystemID: "1", Timeline: 1, XLogPos: 0x300}, "timeline 1"},
		"restored from backup": {cdc.Identity{SystemID: "1", Timeline: 2, XLogPos: 0x1ff}, "0/1FF"},
	} {
		err := s.Check(c.id)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.Is(err, ErrWrongServer) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %v about %s", name, err, ErrWrongServer, c.want)
		}
	}
}

// An older leader may prove more while the slot is made anew, and trims what it has proved. The
// marker of another server means nothing, and is not found again by a second try.
func TestRescue_KeepsTheMarkerThatTheDatabaseHas(t *testing.T) {
	for name, c := range map[string]struct {
		server, seen, want string
	}{
		"same server":                    {"1", "10:10:", "20:20:"},
		"none was known":                 {"1", "", "20:20:"},
		"other server, carried over":     {"2", "10:10:", "20:20:"},
		"other server, it means nothing": {"2", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, conn := mustMigrate(t)
			if err := Create(ctx, conn, State{Slot: "s", SystemID: "1", Timeline: 1, Position: cdc.Position{End: 10}, Backfill: "5:5:"}); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(ctx, "UPDATE relay.progress SET marker = '20:20:'"); err != nil {
				t.Fatal(err)
			}
			s, err := Load(ctx, conn, "s")
			if err != nil {
				t.Fatal(err)
			}
			s.Marker = c.seen
			if err := BeginRescue(ctx, conn, s, c.server); err != nil {
				t.Fatal(err)
			}
			if cut, err := Load(ctx, conn, "s"); err != nil || !cut.Remaking || cut.Marker != c.want || cut.Epoch != s.Epoch {
				t.Errorf("%+v, %v: a rescue that has begun", cut, err)
			}
			s.SystemID, s.Position.End, s.Backfill = c.server, 20, "25:25:"
			err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				_, err := Rescue(ctx, tx, s, "test")
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := Load(ctx, conn, "s")
			if err != nil || got.Remaking || got.Marker != c.want || got.Backfill != "25:25:" || got.SystemID != c.server || got.Epoch <= s.Epoch {
				t.Errorf("%+v, %v; want marker %q", got, err, c.want)
			}
			if err := BeginRescue(ctx, conn, s, c.server); err == nil {
				t.Error("a rescue begins for an epoch that is over")
			}
		})
	}
}
