// Package progress remembers how far all is recorded, under the leader's epoch.
//
// PostgreSQL keeps the slot's position only lazily, so a crash rewinds it; the
// row that this package reads is committed together with the outcomes, in the
// same database as the outbox, and is what a start begins from. It can never be
// ahead of the database that it lives in.
package progress

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// State is one slot's row of relay.progress.
type State struct {
	Slot     string
	Epoch    int64
	SystemID string
	Timeline int32
	Position cdc.Position
	// Backfill is the snapshot whose rows are still to be read from the table,
	// empty when that is done.
	Backfill string
}

var (
	// ErrWrongServer is returned when progress belongs to another server or to a
	// history that this server does not have.
	ErrWrongServer = errors.New("wrong server")
	// ErrNone is returned when the slot has no progress yet.
	ErrNone = errors.New("no progress")
)

const columns = `slot, epoch, system_id, timeline, end_lsn::text, partial_lsn::text, partial_rows, coalesce(backfill::text, '')`

func scan(row pgx.Row) (State, error) {
	var s State
	var end, partial string
	err := row.Scan(&s.Slot, &s.Epoch, &s.SystemID, &s.Timeline, &end, &partial, &s.Position.Rows, &s.Backfill)
	if errors.Is(err, pgx.ErrNoRows) {
		return State{}, ErrNone
	}
	if err != nil {
		return State{}, err
	}
	if s.Position.End, err = pglogrepl.ParseLSN(end); err != nil {
		return State{}, err
	}
	s.Position.Partial, err = pglogrepl.ParseLSN(partial)
	return s, err
}

// Load reads a slot's progress, ErrNone when there is none.
func Load(ctx context.Context, db cdc.Queryer, slot string) (State, error) {
	s, err := scan(db.QueryRow(ctx, "SELECT "+columns+" FROM relay.progress WHERE slot = $1", slot))
	if err != nil {
		return s, fmt.Errorf("load progress of slot %s: %w", slot, err)
	}
	return s, nil
}

// Create writes the first progress of a slot that has just been made.
func Create(ctx context.Context, db cdc.Execer, s State) error {
	_, err := db.Exec(ctx, `INSERT INTO relay.progress (slot, system_id, timeline, end_lsn, backfill)
VALUES ($1, $2, $3, $4::text::pg_lsn, $5::text::pg_snapshot)`, s.Slot, s.SystemID, s.Timeline, s.Position.End.String(), s.Backfill)
	if err != nil {
		return fmt.Errorf("create progress of slot %s: %w", s.Slot, err)
	}
	return nil
}

// TakeOver begins a new epoch, which ends every older leader's right to write,
// notes the timeline that is read from now on, and returns the progress as it
// stands then.
func TakeOver(ctx context.Context, db cdc.Queryer, slot string, id cdc.Identity) (State, error) {
	s, err := scan(db.QueryRow(ctx, "UPDATE relay.progress SET epoch = nextval('relay.epochs'), timeline = $2, batch = 0, updated_at = now() "+
		"WHERE slot = $1 AND system_id = $3 RETURNING "+columns, slot, id.Timeline, id.SystemID))
	if err != nil {
		return s, fmt.Errorf("take over slot %s: %w", slot, err)
	}
	return s, nil
}

// EndBackfill notes that all rows from before the slot are recorded.
func EndBackfill(ctx context.Context, db cdc.Execer, slot string, epoch int64) error {
	tag, err := db.Exec(ctx, "UPDATE relay.progress SET backfill = NULL WHERE slot = $1 AND epoch = $2", slot, epoch)
	if err != nil {
		return fmt.Errorf("end backfill: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("end backfill: epoch %d is over", epoch)
	}
	return nil
}

// Check compares progress with the server that is to be read. Starting from a
// position that another history wrote would skip events without a word.
func (s State) Check(id cdc.Identity) error {
	switch {
	case s.SystemID != id.SystemID:
		return fmt.Errorf("%w: progress of slot %s was written on system %s, this server is system %s; "+
			"connect to the right server, or, if this database was restored into a new cluster on purpose, "+
			"delete the row from relay.progress and drop the slot: every retained row is then sent again",
			ErrWrongServer, s.Slot, s.SystemID, id.SystemID)
	case id.Timeline < s.Timeline:
		return fmt.Errorf("%w: progress of slot %s was written on timeline %d, this server is on timeline %d: "+
			"an old primary has come back; connect to the new one", ErrWrongServer, s.Slot, s.Timeline, id.Timeline)
	case id.Timeline == s.Timeline && s.Position.End > id.XLogPos:
		return fmt.Errorf("%w: progress of slot %s stands at %s, this server's WAL ends at %s: "+
			"it was restored from a backup; delete the row from relay.progress and drop the slot: "+
			"every retained row is then sent again", ErrWrongServer, s.Slot, s.Position.End, id.XLogPos)
	}
	return nil
}
