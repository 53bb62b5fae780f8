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
	created, err := d.publication().Ensure(ctx, d.pool)
	if err != nil {
		return progress.State{}, err
	}
	state, err := progress.Load(ctx, d.pool, slot)
	first := errors.Is(err, progress.ErrNone)
	if err != nil && !first {
		return state, err
	}
	if !first {
		if err := state.Check(conn.Identity()); err != nil {
			return state, err
		}
	}
	if created {
		d.log.Info("publication created", "publication", d.cfg().CDC.Publication)
		if !first {
			d.log.Error("the publication was missing although this relay has run before: rows written meanwhile are not in the stream",
				"publication", d.cfg().CDC.Publication)
		}
	}
	found, err := cdc.InspectSlot(ctx, d.pool, slot)
	if err != nil {
		return state, err
	}
	switch {
	case first && found.Active:
		return state, fmt.Errorf("%w: by process %d", cdc.ErrSlotTaken, found.ActivePID)
	case first:
		return d.firstStart(ctx, conn, found.Exists)
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

// firstStart makes the slot and notes the snapshot of the rows that were
// committed before it. A slot without progress is a first start that was cut
// off between the two: its snapshot is lost, so it is made again.
func (d *Daemon) firstStart(ctx context.Context, conn *cdc.Conn, leftOver bool) (progress.State, error) {
	cfg := d.cfg().CDC
	if leftOver {
		if _, err := d.pool.Exec(ctx, "SELECT pg_drop_replication_slot($1)", cfg.Slot); err != nil {
			return progress.State{}, fmt.Errorf("drop slot %s, which no progress belongs to: %w", cfg.Slot, err)
		}
	}
	made, err := conn.CreateSlot(ctx, cfg.Slot, cfg.Failover)
	if err != nil {
		return progress.State{}, err
	}
	snapshot, err := d.readSnapshot(ctx, made.Snapshot)
	if err != nil {
		return progress.State{}, err
	}
	id := conn.Identity()
	state := progress.State{Slot: cfg.Slot, SystemID: id.SystemID, Timeline: id.Timeline,
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
	if err := tx.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&s); err != nil {
		return "", fmt.Errorf("read exported snapshot: %w", err)
	}
	return s, nil
}
