package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/faultpoint"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/progress"
)

// ErrSlotGap is returned when progress exists and the slot that it belongs to
// does not, or cannot be read any more: the stream has a hole.
var ErrSlotGap = errors.New("the slot is gone")

func (d *Daemon) publication() cdc.Publication { return publication(d.cfg()) }

func publication(c *Settings) cdc.Publication {
	schema, table, _ := strings.Cut(c.Outbox.Table, ".")
	return cdc.Publication{Name: c.CDC.Publication, Schema: schema, Table: table}
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
	id := conn.Identity()
	if high := d.timeline.Load(); id.Timeline < high {
		return state, fmt.Errorf("%w: this relay has read timeline %d, this server is on timeline %d: "+
			"an old primary has come back; connect to the new one", progress.ErrWrongServer, high, id.Timeline)
	}
	if err := state.Check(id); err != nil {
		// Nothing is skipped over, but an operator may know that this is the server now.
		asked, aerr := d.rescueAsked(ctx, slot)
		if aerr != nil || !asked {
			return state, errors.Join(err, aerr)
		}
		return d.rescue(ctx, conn, state, err)
	}
	fault := d.findHole(ctx, id, state)
	if errors.Is(fault, cdc.ErrPublicationIncomplete) {
		if state, err = d.mend(ctx, conn, state, fault); err != nil {
			return state, err
		}
		fault = d.findHole(ctx, id, state)
	}
	switch {
	case fault == nil:
		d.timeline.Store(max(id.Timeline, d.timeline.Load()))
		return state, nil
	case faultpoint.Planted(faultpoint.SlotRecreated) && errors.Is(fault, ErrSlotGap):
		_, _, err := d.makeSlot(ctx, conn, func() error { return nil })
		return state, err
	case errors.Is(fault, ErrSlotGap), errors.Is(fault, cdc.ErrPublicationMissing):
		return d.mend(ctx, conn, state, fault)
	}
	return state, fault
}

// findHole looks for signs that the stream does not show everything that was
// committed since the recorded position.
func (d *Daemon) findHole(ctx context.Context, id cdc.Identity, state progress.State) error {
	if err := findHole(ctx, d.pool, d.cfg(), id.Database, state); err != nil {
		return err
	}
	// A publication that is there again does not help a stream that fails where it was not.
	if h := d.hole.Load(); h != nil && h.epoch == state.Epoch {
		return h.error
	}
	return nil
}

// hole is what a term has found out about the stream. Once another term has begun it
// says nothing any more.
type hole struct {
	error
	epoch int64
}

func findHole(ctx context.Context, db cdc.Queryer, c *Settings, database string, state progress.State) error {
	if err := publication(c).Check(ctx, db); err != nil {
		return err
	}
	found, err := cdc.InspectSlot(ctx, db, state.Slot)
	if err != nil {
		return err
	}
	if err := foreignSlot(state.Slot, found, database); err != nil {
		return err
	}
	switch {
	case !found.Exists:
		return fmt.Errorf("%w: slot %s does not exist, and progress stands at %s", ErrSlotGap, state.Slot, state.Position.End)
	case state.Remaking:
		return fmt.Errorf("%w: slot %s was being made anew when a rescue was cut off, and where it begins was not noted; progress stands at %s",
			ErrSlotGap, state.Slot, state.Position.End)
	case state.Backfill != "" && found.ConfirmedFlush > state.Position.End:
		// Nothing of the stream is confirmed before all rows from before the slot are recorded.
		return fmt.Errorf("%w: slot %s stands at %s, and the rows from before %s are not all recorded: somebody has moved it or made it anew",
			ErrSlotGap, state.Slot, found.ConfirmedFlush, state.Position.End)
	case found.Invalidated:
		return fmt.Errorf("%w: slot %s is %s, PostgreSQL has removed WAL that it needs", ErrSlotLost, state.Slot, found.WALStatus)
	}
	return nil
}

// ErrSlotLost is an ErrSlotGap: the slot exists and can never be read again.
var ErrSlotLost = fmt.Errorf("%w for good", ErrSlotGap)

// errForeignSlot is returned when the slot's name belongs to somebody else.
var errForeignSlot = errors.New("the slot is another one")

// foreignSlot refuses a slot that is somebody else's: it is neither read nor made anew.
func foreignSlot(name string, found cdc.SlotState, database string) error {
	if !found.Exists || found.Plugin == "pgoutput" && found.Database == database {
		return nil
	}
	return fmt.Errorf("%w: slot %s uses plugin %q on database %q; set cdc.slot to another name, or drop that slot",
		errForeignSlot, name, found.Plugin, found.Database)
}

// firstStart makes the publication and the slot, and notes the snapshot of the
// rows that were committed before it. Two instances may come at once: a lock lets
// one of them do it. A slot without progress is a first start that was cut off
// between the two; its snapshot is lost, so it is made again.
func (d *Daemon) firstStart(ctx context.Context, conn *cdc.Conn) (progress.State, error) {
	slot := d.cfg().CDC.Slot
	unlock, err := d.lockStart(ctx, slot)
	if err != nil {
		return progress.State{}, err
	}
	defer unlock()
	state, err := progress.Load(ctx, d.pool, slot)
	if !errors.Is(err, progress.ErrNone) {
		return state, err // the other one has done it
	}
	if err := d.refuseSecondSlot(ctx, slot); err != nil {
		return state, err
	}
	made, snapshot, err := d.makeSlot(ctx, conn, func() error { return nil })
	if err != nil {
		return state, err
	}
	id := conn.Identity()
	state = progress.State{Slot: slot, SystemID: id.SystemID, Timeline: id.Timeline,
		Position: cdc.Position{End: made.ConsistentPoint}, Backfill: snapshot}
	if err := progress.Create(ctx, d.pool, state); err != nil {
		return state, err
	}
	d.log.Info("slot created", "slot", slot, "at", made.ConsistentPoint.String())
	return state, nil
}

// lockStart lets one instance at a time make a slot.
func (d *Daemon) lockStart(ctx context.Context, slot string) (unlock func(), err error) {
	guard, err := d.direct(ctx)
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = guard.Close(context.WithoutCancel(ctx)) } // and with it the lock
	if _, err := guard.Exec(ctx, "SELECT pg_advisory_lock(hashtextextended('relay.first_start', 0))"); err != nil {
		unlock()
		return nil, fmt.Errorf("lock the making of slot %s: %w", slot, err)
	}
	return unlock, nil
}

// makeSlot makes sure of the publication, and makes the slot in place of one that is
// there. It returns the snapshot of what was committed before it. begin is called when
// nothing speaks against it, and before anything is done to a slot.
func (d *Daemon) makeSlot(ctx context.Context, conn *cdc.Conn, begin func() error) (cdc.NewSlot, string, error) {
	cfg := d.cfg().CDC
	var none cdc.NewSlot
	if err := d.checkIDs(ctx); err != nil {
		return none, "", err
	}
	created, err := d.publication().Ensure(ctx, d.pool)
	if err != nil {
		return none, "", err
	}
	if created {
		d.log.Info("publication created", "publication", cfg.Publication)
	}
	found, err := cdc.InspectSlot(ctx, d.pool, cfg.Slot)
	if err != nil {
		return none, "", err
	}
	if err := foreignSlot(cfg.Slot, found, conn.Identity().Database); err != nil {
		return none, "", err
	}
	if found.Active {
		return none, "", fmt.Errorf("%w: by process %d", cdc.ErrSlotTaken, found.ActivePID)
	}
	if err := begin(); err != nil {
		return none, "", err
	}
	if found.Exists {
		if _, err := d.pool.Exec(ctx, "SELECT pg_drop_replication_slot($1)", cfg.Slot); err != nil {
			return none, "", fmt.Errorf("drop slot %s, which cannot be used: %w", cfg.Slot, err)
		}
	}
	made, err := conn.CreateSlot(ctx, cfg.Slot, cfg.Failover)
	if err != nil {
		return none, "", err
	}
	snapshot, err := d.readSnapshot(ctx, made.Snapshot)
	return made, snapshot, err
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
