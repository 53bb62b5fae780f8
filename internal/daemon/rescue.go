package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/faultpoint"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/progress"
)

// rescueTask is what a leader that reads the rows of a gap has to know. Its fields
// belong to the goroutine that takes rows in.
type rescueTask struct {
	incident int64       // of relay.incidents, 0 for none
	recorded []cdc.Tally // what was recorded since the marker, before the slot was lost
	read     int         // rows that the gap's snapshots show
}

// mayMend tells whether the relay may do what is needed so that the stream can go on
// although fault says that it has a hole. Unless recovery is automatic, somebody has to have
// asked for it (`relay rescue`).
func (d *Daemon) mayMend(ctx context.Context, slot string, fault error) error {
	asked, err := d.rescueAsked(ctx, slot)
	if err != nil {
		return err
	}
	if d.cfg().CDC.Recovery == config.RecoveryManual && !asked {
		return fmt.Errorf("%w; cdc.recovery is manual: `relay rescue --dry-run` tells what would be read from the table, "+
			"`relay rescue` begins it", fault)
	}
	return nil
}

// repairPublication makes the publication publish the outbox again. The stream goes on
// from the same slot; what it did not show meanwhile, the next marker misses, and
// the rows are delivered from the table.
func (d *Daemon) repairPublication(ctx context.Context, slot string, fault error) error {
	if err := d.publication().Repair(ctx, d.pool); err != nil {
		return errors.Join(fault, err)
	}
	d.log.Error("publication repaired; rows that were committed meanwhile are found by the audit and delivered from the table",
		"publication", d.cfg().CDC.Publication, "because", fault.Error())
	id, err := progress.NoteIncident(ctx, d.pool, slot, "publication", fault.Error())
	if err != nil {
		return err
	}
	if err := progress.EndIncident(ctx, d.pool, id, 0, 0); err != nil {
		return err
	}
	return d.dismissRescue(ctx, d.pool, slot)
}

// rescue makes a new slot with an exported snapshot. Rows that this snapshot shows, and
// that neither the last marker nor the record of what was settled since then show to
// be recorded, are read from the table; the stream goes on behind them.
func (d *Daemon) rescue(ctx context.Context, conn *cdc.Conn, seen start, fault error) (start, error) {
	d.board.Raise(health.PartStream, health.Condition{State: health.Rescuing, Sentence: health.Describe(fault)})
	id := conn.Identity()
	slot := seen.state.Slot
	unlock, err := d.lockStart(ctx, slot)
	if err != nil {
		return seen, err
	}
	defer unlock()
	state, err := progress.Load(ctx, d.pool, slot)
	if err != nil {
		return seen, err
	}
	if state.Epoch != seen.state.Epoch { // another instance has done it
		return start{state: state, binding: seen.binding}, state.CheckBinding(slot, seen.binding, id.SystemID)
	}
	made, snapshot, err := d.makeSlot(ctx, conn, true, func() (err error) {
		// Before the row of progress is written: it is by the row as it came that markerHere decides.
		if state.SystemID != id.SystemID {
			if state.Marker, err = d.markerHere(ctx, state.Slot, state.Marker); err != nil {
				return err
			}
		}
		return progress.BeginRescue(ctx, d.pool, state, id.SystemID)
	})
	if err != nil {
		return seen, err
	}
	faultpoint.Hit(faultpoint.InRescueSnapshot)
	state.SystemID, state.Timeline = id.SystemID, id.Timeline
	state.Position = cdc.Position{End: made.ConsistentPoint}
	state.Backfill = snapshot
	state.Binding = seen.binding
	err = pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if _, err := progress.Rescue(ctx, tx, state, fault.Error()); err != nil {
			return err
		}
		return d.dismissRescue(ctx, tx, state.Slot)
	})
	if err != nil {
		return seen, err
	}
	d.hole.Store(nil)
	d.log.Error("slot made anew; rows that the stream has missed are read from the table", "slot", state.Slot,
		"at", made.ConsistentPoint.String(), "because", fault.Error(), "shown_by_marker", state.Marker)
	if state.Marker == "" {
		d.log.Warn("no marker tells what was recorded before: every retained row is read, and sent unless relay.deliveries or relay.parked "+
			"has its delivery; with deliver.log failures or none, most of them are sent again", "deliver.log", string(d.cfg().Deliver.Log))
	}
	state, err = progress.Load(ctx, d.pool, state.Slot)
	return start{state: state, binding: seen.binding}, err
}

// markerHere returns a marker of another server when it means something on this one,
// else none. pg_upgrade carries the row of progress over with the id of the
// transaction that wrote it, which began after the marker's snapshot. A dump writes the
// row anew: where this server has given out fewer ids than the marker knows of by
// then, rows with ids of its own may lie below the marker, however far it counts since.
func (d *Daemon) markerHere(ctx context.Context, slot, marker string) (string, error) {
	if marker == "" {
		return "", nil
	}
	var holds bool
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		// age() counts back from the id of this transaction; of a frozen row it says the most.
		var current string
		if err := tx.QueryRow(ctx, "SELECT pg_current_xact_id()::text").Scan(&current); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT $3::text::bigint - age(xmin) >= pg_snapshot_xmax($2::text::pg_snapshot)::text::bigint
			FROM relay.progress WHERE slot = $1`, slot, marker, current).Scan(&holds)
	})
	if err != nil {
		return "", fmt.Errorf("compare marker: %w", err)
	}
	if !holds {
		return "", nil
	}
	return marker, nil
}

// errForeignIDs is returned when rows carry transaction ids that are none of this
// server's.
var errForeignIDs = errors.New("rows of another cluster")

// checkIDs refuses rows whose transaction ids this server has not given out: they were
// restored from another cluster, and no snapshot shows them.
func (d *Daemon) checkIDs(ctx context.Context) error {
	t := d.auditTable()
	xid := "(" + pgx.Identifier{t.Columns.XID}.Sanitize() + "::text)::bigint"
	var n int64
	var next string
	tx, err := t.BeginNarrow(ctx, d.pool)
	if err != nil {
		return fmt.Errorf("check transaction ids of %s: %w", t.Name, err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	err = tx.QueryRow(ctx, "SELECT count(*), pg_snapshot_xmax(pg_current_snapshot())::text FROM "+t.Quoted()+
		" WHERE "+xid+" >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&n, &next)
	if err != nil {
		return fmt.Errorf("check transaction ids of %s: %w", t.Name, err)
	}
	if n > 0 {
		return fmt.Errorf("%w: %d rows of %s carry transaction ids that this server has not given out, so nobody can tell which of them "+
			"are new; they were restored from another cluster: give them ids of this one, "+
			"UPDATE %s SET xid = DEFAULT WHERE %s >= %s", errForeignIDs, n, t.Name, t.Quoted(), xid, next)
	}
	return nil
}

// rescueAsked tells whether an operator has asked for a rescue.
func (d *Daemon) rescueAsked(ctx context.Context, slot string) (bool, error) {
	var asked bool
	err := d.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM relay.requests WHERE kind = $1 AND target = $2)",
		deliver.RequestRescue, slot).Scan(&asked)
	if err != nil {
		return false, fmt.Errorf("look for a request to rescue: %w", err)
	}
	return asked, nil
}

func (d *Daemon) dismissRescue(ctx context.Context, db cdc.Execer, slot string) error {
	if _, err := db.Exec(ctx, "DELETE FROM relay.requests WHERE kind = $1 AND target = $2", deliver.RequestRescue, slot); err != nil {
		return fmt.Errorf("end the request to rescue: %w", err)
	}
	return nil
}

// endRescue notes how a rescue ended.
func (l *leader) endRescue(ctx context.Context, sent int) error {
	if l.rescue.incident == 0 {
		return nil
	}
	l.d.auditMetrics.rescued.Add(float64(sent))
	l.log.Info("rescue ended", "rows_read", l.rescue.read, "rows_taken", sent, "took", time.Since(l.began).Round(time.Millisecond).String())
	return l.persist(ctx, func() error {
		return progress.EndIncident(ctx, l.d.pool, l.rescue.incident, l.rescue.read, sent)
	})
}
