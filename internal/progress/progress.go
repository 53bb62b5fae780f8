// Package progress remembers how far all is recorded, under the leader's epoch.
//
// PostgreSQL keeps the slot's position only lazily, so a crash rewinds it; the
// row that this package reads is committed together with the outcomes, in the
// same database as the outbox, and is what a start begins from. It can never be
// ahead of the database that it lives in.
package progress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// State is one slot's row of relay.progress.
type State struct {
	Slot     string
	Epoch    int64
	Batch    int64 // number of the last one of the epoch
	SystemID string
	Timeline int32
	Position cdc.Position
	// Backfill is the snapshot whose rows are still to be read from the table,
	// empty when that is done.
	Backfill string
	// Marker is a snapshot all of whose rows are recorded, empty when none is known.
	// What is read for Backfill is what it does not show.
	Marker string
	// Remaking tells that a rescue has begun to make the slot anew, and has not come to
	// note where it begins.
	Remaking bool
	// Moved tells that progress was moved to another slot, table, publication or
	// database, and that no slot was made for it since.
	Moved bool
	// Binding is what progress belongs to, zero when an older relay has made it.
	Binding Binding
}

var (
	// ErrWrongServer is returned when progress belongs to another server or to a
	// history that this server does not have.
	ErrWrongServer = errors.New("wrong server")
	// ErrNone is returned when the slot has no progress yet.
	ErrNone = errors.New("no progress")
)

const columns = `slot, epoch, batch, system_id, timeline, end_lsn::text, partial_lsn::text, partial_rows, coalesce(backfill::text, ''), coalesce(marker::text, ''), remaking, moved,
	coalesce(database, ''), coalesce(database_oid, 0), coalesce(publication, ''), coalesce(outbox_table, ''), coalesce(outbox_oid, 0)`

func scan(row pgx.Row) (State, error) {
	var s State
	var end, partial string
	err := row.Scan(&s.Slot, &s.Epoch, &s.Batch, &s.SystemID, &s.Timeline, &end, &partial, &s.Position.Rows, &s.Backfill, &s.Marker, &s.Remaking, &s.Moved,
		&s.Binding.Database, &s.Binding.DatabaseOID, &s.Binding.Publication, &s.Binding.Table, &s.Binding.TableOID)
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
	_, err := db.Exec(ctx, `INSERT INTO relay.progress (slot, system_id, timeline, end_lsn, backfill, database, database_oid, publication, outbox_table, outbox_oid)
VALUES ($1, $2, $3, $4::text::pg_lsn, $5::text::pg_snapshot, nullif($6, ''), nullif($7::oid, 0), nullif($8, ''), nullif($9, ''), nullif($10::oid, 0))`,
		s.Slot, s.SystemID, s.Timeline, s.Position.End.String(), s.Backfill,
		s.Binding.Database, s.Binding.DatabaseOID, s.Binding.Publication, s.Binding.Table, s.Binding.TableOID)
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

// BeginRescue notes that the slot is about to be made anew. Without it, a rescue that
// dies before Rescue would leave a slot that looks like the one that progress belongs to.
//
// A marker that means nothing on the server that systemID names, so that s has none, goes
// for good. Else it stays as it is: an older leader may move it on meanwhile, and what is
// trimmed then is not on record any more.
func BeginRescue(ctx context.Context, db cdc.Execer, s State, systemID string) error {
	tag, err := db.Exec(ctx, `UPDATE relay.progress
   SET remaking = true, marker = CASE WHEN system_id = $3 OR $4::text <> '' THEN marker END WHERE slot = $1 AND epoch = $2`,
		s.Slot, s.Epoch, systemID, s.Marker)
	if err != nil {
		return fmt.Errorf("note that slot %s is made anew: %w", s.Slot, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("note that slot %s is made anew: epoch %d is over", s.Slot, s.Epoch)
	}
	return nil
}

// Rescue gives a slot that has been made anew its progress: the position where it
// begins, the snapshot up to which rows are read from the table, and what it belongs to. It begins a new
// epoch, so no older leader writes any more. detail tells the operator why.
func Rescue(ctx context.Context, tx pgx.Tx, s State, detail string) (incident int64, err error) {
	tag, err := tx.Exec(ctx, `UPDATE relay.progress
   SET system_id = $2, timeline = $3, end_lsn = $4::text::pg_lsn, partial_lsn = '0/0', partial_rows = 0,
       backfill = $5::text::pg_snapshot, remaking = false, moved = false, epoch = nextval('relay.epochs'), batch = 0, updated_at = now(),
       database = nullif($7, ''), database_oid = nullif($8::oid, 0), publication = nullif($9, ''), outbox_table = nullif($10, ''), outbox_oid = nullif($11::oid, 0)
 WHERE slot = $1 AND epoch = $6`, s.Slot, s.SystemID, s.Timeline, s.Position.End.String(), s.Backfill, s.Epoch,
		s.Binding.Database, s.Binding.DatabaseOID, s.Binding.Publication, s.Binding.Table, s.Binding.TableOID)
	if err != nil {
		return 0, fmt.Errorf("note the new slot %s: %w", s.Slot, err)
	}
	if tag.RowsAffected() != 1 {
		return 0, fmt.Errorf("note the new slot %s: epoch %d is over", s.Slot, s.Epoch)
	}
	return NoteIncident(ctx, tx, s.Slot, "rescue", detail)
}

// Mark notes that all rows that a snapshot shows are recorded, those among them that
// had to be read from the table. leftOver are the transactions that came before its
// marker, at lsn, and that it does not show. batch is one that the leader of epoch has
// written before: it proves that this is the database that it was written to.
func Mark(ctx context.Context, db cdc.Execer, s State, batch int64, snapshot cdc.Snapshot, lsn cdc.LSN, leftOver []cdc.Tally) error {
	_, err := db.Exec(ctx, "SELECT relay.mark($1, $2, $3, $4::text::pg_snapshot, $5::text::pg_lsn, $6)", s.Slot, s.Epoch, batch,
		snapshot.String(), lsn.String(), cdc.AppendTallies(nil, leftOver))
	if err != nil {
		return fmt.Errorf("mark slot %s: %w", s.Slot, err)
	}
	return nil
}

// Accounted reads which transactions are recorded and not trimmed by a marker yet,
// each once, by their commit.
func Accounted(ctx context.Context, db Rows, slot string) ([]cdc.Tally, error) {
	rows, err := db.Query(ctx, "SELECT entries FROM relay.accounted WHERE slot = $1", slot)
	if err != nil {
		return nil, fmt.Errorf("load accounted transactions: %w", err)
	}
	var list []cdc.Tally
	var b []byte
	if _, err := pgx.ForEachRow(rows, []any{&b}, func() error {
		list = append(list, cdc.ParseTallies(b)...)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("load accounted transactions: %w", err)
	}
	slices.SortFunc(list, func(a, b cdc.Tally) int {
		return cmp.Or(cmp.Compare(a.Commit, b.Commit), cmp.Compare(a.XID, b.XID), cmp.Compare(a.Rows, b.Rows), cmp.Compare(a.Sum, b.Sum))
	})
	return slices.Compact(list), nil
}

// Rows runs a query that returns rows. A pgx connection, pool or transaction does.
type Rows interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Check compares progress with the server that is to be read. Starting from a
// position that another history wrote would skip events without a word.
func (s State) Check(id cdc.Identity) error {
	switch {
	case s.SystemID != id.SystemID:
		return fmt.Errorf("%w: progress of slot %s was written on system %s, this server is system %s; "+
			"connect to the right server, or, if this is the server now (restored elsewhere, or upgraded), call `relay rescue`",
			ErrWrongServer, s.Slot, s.SystemID, id.SystemID)
	case id.Timeline < s.Timeline:
		return fmt.Errorf("%w: progress of slot %s was written on timeline %d, this server is on timeline %d: "+
			"an old primary has come back; connect to the new one", ErrWrongServer, s.Slot, s.Timeline, id.Timeline)
	case id.Timeline == s.Timeline && s.Position.End > id.XLogPos:
		return fmt.Errorf("%w: progress of slot %s stands at %s, this server's WAL ends at %s: "+
			"this is not what the progress was written on; `relay rescue` makes it the relay's server", ErrWrongServer, s.Slot, s.Position.End, id.XLogPos)
	}
	return nil
}
