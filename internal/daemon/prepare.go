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
	"github.com/outbox-relay/relay/internal/health"
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

// start is what a term begins with.
type start struct {
	state   progress.State
	binding progress.Binding // what is there now, to be recorded once this relay leads
	// unpublished tells how the publication shows less than the outbox. The leader mends it: before that, others may
	// lead, and know better.
	unpublished error
}

// prepare makes sure of everything that the stream needs, and tells where it begins. It changes nothing while another
// relay may lead: what is made here is made under the lock of lockStart, when the slot serves nobody.
func (d *Daemon) prepare(ctx context.Context, conn *cdc.Conn) (start, error) {
	if err := migrate.Check(ctx, d.pool); err != nil {
		return start{}, err
	}
	cfg := d.cfg()
	slot, id := cfg.CDC.Slot, conn.Identity()
	binding, err := progress.ReadBinding(ctx, d.pool, cfg.CDC.Publication, cfg.Outbox.Table)
	if err != nil {
		return start{}, err
	}
	state, err := progress.Load(ctx, d.pool, slot)
	if errors.Is(err, progress.ErrNone) {
		return d.firstStart(ctx, conn, binding)
	}
	if err != nil {
		return start{}, err
	}
	s := start{state: state, binding: binding}
	if err := state.CheckBinding(slot, binding, id.SystemID); err != nil {
		return s, err
	}
	if err := findTable(ctx, d.pool, binding, state.Binding); err != nil {
		return s, err
	}
	if err := d.refuseSource(ctx); err != nil {
		return s, err
	}
	if high := d.timeline.Load(); id.Timeline < high {
		return s, fmt.Errorf("%w: this relay has read timeline %d, this server is on timeline %d: "+
			"an old primary has come back; connect to the new one", progress.ErrWrongServer, high, id.Timeline)
	}
	if err := state.Check(id); err != nil {
		// Nothing is skipped over, but an operator may know that this is the server now.
		asked, aerr := d.rescueAsked(ctx, slot)
		if aerr != nil || !asked {
			return s, errors.Join(err, aerr)
		}
		return d.rescue(ctx, conn, s, err)
	}
	fault := d.findHole(ctx, id, state)
	switch {
	case fault == nil:
		d.timeline.Store(max(id.Timeline, d.timeline.Load()))
		return s, nil
	case faultpoint.Planted(faultpoint.SlotRecreated) && errors.Is(fault, ErrSlotGap):
		_, _, err := d.makeSlot(ctx, conn, false, func() error { return nil })
		return s, err
	case errors.Is(fault, cdc.ErrPublicationIncomplete):
		if err := d.mayMend(ctx, slot, fault); err != nil {
			return s, err
		}
		s.unpublished = fault
		d.timeline.Store(max(id.Timeline, d.timeline.Load()))
		return s, nil
	case errors.Is(fault, ErrSlotGap), errors.Is(fault, cdc.ErrPublicationMissing):
		if err := d.mayMend(ctx, slot, fault); err != nil {
			return s, err
		}
		return d.rescue(ctx, conn, s, fault)
	}
	return s, fault
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
	found, err := cdc.InspectSlot(ctx, db, state.Slot)
	if err != nil {
		return err
	}
	if err := foreignSlot(state.Slot, found, database); err != nil {
		return err
	}
	switch {
	case state.Moved:
		return fmt.Errorf("%w: the relay was moved to table %s, slot %s", ErrSlotGap, state.Binding.Table, state.Slot)
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
	fault := publication(c).Check(ctx, db)
	if found.Active && (errors.Is(fault, cdc.ErrPublicationMissing) || errors.Is(fault, cdc.ErrPublicationIncomplete)) {
		return fmt.Errorf("%w: by process %d, whose relay mends the publication", cdc.ErrSlotTaken, found.ActivePID)
	}
	return fault
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
func (d *Daemon) firstStart(ctx context.Context, conn *cdc.Conn, binding progress.Binding) (start, error) {
	slot := d.cfg().CDC.Slot
	unlock, err := d.lockStart(ctx, slot)
	if err != nil {
		return start{}, err
	}
	defer unlock()
	id := conn.Identity()
	state, err := progress.Load(ctx, d.pool, slot)
	if err == nil { // another one has done it
		return start{state: state, binding: binding}, state.CheckBinding(slot, binding, id.SystemID)
	}
	if !errors.Is(err, progress.ErrNone) {
		return start{}, err
	}
	if err := d.refuseSecondSlot(ctx, slot, binding, id.SystemID); err != nil {
		return start{}, err
	}
	if err := findTable(ctx, d.pool, binding, progress.Binding{}); err != nil {
		return start{}, err
	}
	if err := d.refuseSource(ctx); err != nil {
		return start{}, err
	}
	// Before anything is made: what is half made would have to be taken away again.
	if found, err := health.Preflight(ctx, d.pool, Facts(d.cfg())); err != nil {
		return start{}, err
	} else if len(found) > 0 {
		return start{}, health.NewFault(found[0].Condition)
	}
	made, snapshot, err := d.makeSlot(ctx, conn, false, func() error { return nil })
	if err != nil {
		return start{}, err
	}
	state = progress.State{Slot: slot, SystemID: id.SystemID, Timeline: id.Timeline,
		Position: cdc.Position{End: made.ConsistentPoint}, Backfill: snapshot, Binding: binding}
	if err := progress.Create(ctx, d.pool, state); err != nil {
		return start{}, err
	}
	d.log.Info("slot created", "slot", slot, "at", made.ConsistentPoint.String(), "database", binding.Database,
		"publication", binding.Publication, "table", binding.Table)
	return start{state: state, binding: binding}, nil
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
// there and serves nobody. It returns the snapshot of what was committed before it. begin is
// called when nothing speaks against it, and before anything is done to a slot. repair tells
// whether a publication that shows less than the outbox is mended, or refused.
func (d *Daemon) makeSlot(ctx context.Context, conn *cdc.Conn, repair bool, begin func() error) (cdc.NewSlot, string, error) {
	cfg := d.cfg().CDC
	var none cdc.NewSlot
	if err := d.checkIDs(ctx); err != nil {
		return none, "", err
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
	created, err := d.publication().Ensure(ctx, d.pool)
	if repair && errors.Is(err, cdc.ErrPublicationIncomplete) {
		err = d.publication().Repair(ctx, d.pool)
	}
	if err != nil {
		return none, "", err
	}
	if created {
		d.log.Info("publication created", "publication", cfg.Publication)
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
