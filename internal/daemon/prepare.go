package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/progress"
)

// ErrSlotGap is returned when progress exists and the slot that it belongs to
// does not, or cannot be read any more: the stream has a hole.
var ErrSlotGap = errors.New("the slot is gone")

func (d *Daemon) publication() cdc.Publication {
	schema, table, _ := strings.Cut(d.cfg().Outbox.Table, ".")
	return cdc.Publication{Name: d.cfg().CDC.Publication, Schema: schema, Table: table}
}

// prepare makes sure of everything that the stream needs, and returns where it
// begins.
func (d *Daemon) prepare(ctx context.Context, conn *cdc.Conn) (progress.State, error) {
	if err := migrate.Check(ctx, d.pool); err != nil {
		return progress.State{}, err
	}
	slot := d.cfg().CDC.Slot
	state, err := progress.Load(ctx, d.pool, slot)
	if errors.Is(err, progress.ErrNone) {
		return d.firstStart(ctx, conn)
	}
	if err != nil {
		return state, err
	}
	if err := state.Check(conn.Identity()); err != nil {
		return state, err
	}
	// It is not made again by itself: rows that were written while it was missing
	// are not in the stream, and somebody has to know.
	if err := d.publication().Check(ctx, d.pool); err != nil {
		return state, fmt.Errorf("%w; once it is there again, %s", err, wayOut(slot))
	}
	found, err := cdc.InspectSlot(ctx, d.pool, slot)
	if err != nil {
		return state, err
	}
	switch {
	case !found.Exists:
		return state, fmt.Errorf("%w: slot %s does not exist, and progress stands at %s; %s",
			ErrSlotGap, slot, state.Position.End, wayOut(slot))
	case found.Invalidated:
		return state, fmt.Errorf("%w: slot %s is %s, PostgreSQL has removed WAL that it needs; %s",
			ErrSlotGap, slot, found.WALStatus, wayOut(slot))
	case found.Plugin != "pgoutput" || found.Database != conn.Identity().Database:
		return state, fmt.Errorf("%w: slot %s uses plugin %s on database %s; set cdc.slot to another name",
			ErrSlotGap, slot, found.Plugin, found.Database)
	}
	return state, nil
}

// wayOut says how an operator recovers from a lost slot.
func wayOut(slot string) string {
	return fmt.Sprintf("to begin anew and send every retained row of the outbox again (receivers see the same webhook-id): "+
		"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '%[1]s'; "+
		"DELETE FROM relay.progress WHERE slot = '%[1]s';", slot)
}

// firstStart makes the publication and the slot, and notes the snapshot of the
// rows that were committed before it. Two instances may come at once: a lock lets
// one of them do it. A slot without progress is a first start that was cut off
// between the two; its snapshot is lost, so it is made again.
func (d *Daemon) firstStart(ctx context.Context, conn *cdc.Conn) (progress.State, error) {
	cfg := d.cfg().CDC
	guard, err := d.direct(ctx)
	if err != nil {
		return progress.State{}, err
	}
	defer func() { _ = guard.Close(context.WithoutCancel(ctx)) }() // and with it the lock
	if _, err := guard.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended('relay.first_start.' || $1, 0))", cfg.Slot); err != nil {
		return progress.State{}, fmt.Errorf("lock the first start: %w", err)
	}
	state, err := progress.Load(ctx, d.pool, cfg.Slot)
	if !errors.Is(err, progress.ErrNone) {
		return state, err // the other one has done it
	}
	created, err := d.publication().Ensure(ctx, d.pool)
	if err != nil {
		return state, err
	}
	if created {
		d.log.Info("publication created", "publication", cfg.Publication)
	}
	found, err := cdc.InspectSlot(ctx, d.pool, cfg.Slot)
	if err != nil {
		return state, err
	}
	if found.Active {
		return state, fmt.Errorf("%w: by process %d", cdc.ErrSlotTaken, found.ActivePID)
	}
	if found.Exists {
		if _, err := d.pool.Exec(ctx, "SELECT pg_drop_replication_slot($1)", cfg.Slot); err != nil {
			return state, fmt.Errorf("drop slot %s, which no progress belongs to: %w", cfg.Slot, err)
		}
	}
	made, err := conn.CreateSlot(ctx, cfg.Slot, cfg.Failover)
	if err != nil {
		return state, err
	}
	snapshot, err := d.readSnapshot(ctx, made.Snapshot)
	if err != nil {
		return state, err
	}
	id := conn.Identity()
	state = progress.State{Slot: cfg.Slot, SystemID: id.SystemID, Timeline: id.Timeline,
		Position: cdc.Position{End: made.ConsistentPoint}, Backfill: snapshot}
	if err := progress.Create(ctx, d.pool, state); err != nil {
		return state, err
	}
	d.log.Info("slot created", "slot", cfg.Slot, "at", made.ConsistentPoint.String())
	return state, nil
}

// readSnapshot imports an exported snapshot and returns it in a form that lasts.
func (d *Daemon) readSnapshot(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, err := d.direct(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return "", fmt.Errorf("read exported snapshot: %w", err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "SET TRANSACTION SNAPSHOT '"+strings.ReplaceAll(name, "'", "''")+"'"); err != nil {
		return "", fmt.Errorf("import snapshot %s: %w", name, err)
	}
	var s string
	// A slot's snapshot may have an xmax below its xmin, which is the bound that counts then; as text it would
	// not be taken back.
	const q = `SELECT CASE WHEN pg_snapshot_xmin(s) > pg_snapshot_xmax(s) THEN pg_snapshot_xmin(s)::text || ':' || pg_snapshot_xmin(s)::text || ':'
            ELSE s::text END FROM pg_current_snapshot() AS s`
	if err := tx.QueryRow(ctx, q).Scan(&s); err != nil {
		return "", fmt.Errorf("read exported snapshot: %w", err)
	}
	return s, nil
}
