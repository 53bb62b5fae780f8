package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/progress"
)

// Identity is a slot and what its progress belongs to.
type Identity struct {
	Slot string `json:"slot"`
	progress.Binding
}

// IdentityReport compares what is on record with what is configured.
type IdentityReport struct {
	Recorded   *Identity `json:"recorded"` // null: no relay has led on this database yet
	Configured Identity  `json:"configured"`
	Matches    bool      `json:"matches"`
	Detail     string    `json:"detail,omitempty"` // how the two differ

	fault error
	state progress.State
}

// ReadIdentity compares what the progress on record belongs to with a configuration.
func ReadIdentity(ctx context.Context, db *pgxpool.Pool, c *Settings) (*IdentityReport, error) {
	have, err := progress.ReadBinding(ctx, db, c.CDC.Publication, c.Outbox.Table)
	if err != nil {
		return nil, err
	}
	r := &IdentityReport{Configured: Identity{c.CDC.Slot, have}}
	list, err := progress.Slots(ctx, db)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		r.Matches = true
		return r, nil
	}
	r.state = list[0]
	for _, s := range list {
		if s.Slot == c.CDC.Slot {
			r.state = s
		}
	}
	r.Recorded = &Identity{r.state.Slot, r.state.Binding}
	server, err := systemID(ctx, db)
	if err != nil {
		return nil, err
	}
	if r.fault = r.state.CheckBinding(c.CDC.Slot, have, server); r.fault != nil {
		r.Detail = r.fault.Error()
	}
	r.Matches = r.fault == nil
	return r, nil
}

// CheckIdentity refuses a configuration that reads something else than the relay of this database does: what a command would
// tell of it, or ask for, would be about another outbox.
func CheckIdentity(ctx context.Context, db *pgxpool.Pool, c *Settings) error {
	r, err := ReadIdentity(ctx, db, c)
	if err != nil {
		return err
	}
	return r.fault
}

// systemID names the server, as IDENTIFY_SYSTEM does.
func systemID(ctx context.Context, db cdc.Queryer) (string, error) {
	var id string
	if err := db.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&id); err != nil {
		return "", fmt.Errorf("identify system: %w", err)
	}
	return id, nil
}

// Move is what moving the relay to another slot, table, publication or database does.
type Move struct {
	From Identity `json:"from"`
	To   Identity `json:"to"`
	// Left counts rows of the table that is left which nothing proves to be recorded: nobody reads them once the relay has
	// moved. Null: they cannot be told.
	Left *int `json:"left"`
	// Read counts rows of the new table of which nothing is on record: the next start reads them.
	Read int `json:"read"`
	// DroppedSlot is the slot that was given up, empty for none.
	DroppedSlot string `json:"dropped_slot,omitempty"`
	Moved       bool   `json:"moved"`
}

var (
	// ErrNothingToMove is returned when what is on record is what is configured.
	ErrNothingToMove = errors.New("nothing to move")
	// ErrRowsLeft is returned when a move would leave rows that are not delivered.
	ErrRowsLeft = errors.New("rows would be left")
)

// PlanMove tells what moving to a configuration does, and changes nothing.
func PlanMove(ctx context.Context, db *pgxpool.Pool, c *Settings) (*Move, error) {
	m, _, err := planMove(ctx, db, c)
	return m, err
}

func planMove(ctx context.Context, db *pgxpool.Pool, c *Settings) (*Move, progress.State, error) {
	r, err := ReadIdentity(ctx, db, c)
	switch {
	case err != nil:
		return nil, progress.State{}, err
	case r.Recorded == nil:
		return nil, r.state, fmt.Errorf("%w: no relay has led on this database yet, the first start records what it reads", ErrNothingToMove)
	case r.Matches:
		return nil, r.state, fmt.Errorf("%w: slot %s belongs to table %s already", ErrNothingToMove, r.Recorded.Slot, r.Configured.Table)
	case r.Configured.TableOID == 0:
		return nil, r.state, fmt.Errorf("table %s does not exist: create it, or correct outbox.table", r.Configured.Table)
	}
	m := &Move{From: *r.Recorded, To: r.Configured}
	for _, slot := range []string{m.From.Slot, m.To.Slot} {
		found, err := cdc.InspectSlot(ctx, db, slot)
		if err != nil {
			return nil, r.state, err
		}
		if found.Active {
			return nil, r.state, fmt.Errorf("slot %s is in use by process %d: stop every relay of this database first", slot, found.ActivePID)
		}
		if found.Exists && slot == m.To.Slot && slot != m.From.Slot {
			return nil, r.state, fmt.Errorf("slot %s exists already and nobody knows whose it is: set cdc.slot to another name, or drop it: "+
				"SELECT pg_drop_replication_slot('%s')", slot, slot)
		}
	}
	if m.Left, err = rowsLeft(ctx, db, r.state, m.From.Table, m.To.Table); err != nil {
		return nil, r.state, err
	}
	m.Read, err = rowsToRead(ctx, db, c)
	return m, r.state, err
}

// rowsLeft counts rows of a table that no marker and no record proves; nil when that cannot be told.
func rowsLeft(ctx context.Context, db *pgxpool.Pool, s progress.State, table, to string) (*int, error) {
	none := 0
	if table == "" || table == to { // they are read by the next start
		return &none, nil
	}
	old, err := progress.ReadBinding(ctx, db, "", table)
	if err != nil {
		return nil, err
	}
	if old.TableOID == 0 { // it is gone, and its rows with it
		return &none, nil
	}
	recorded, err := progress.Accounted(ctx, db, s.Slot)
	if err != nil {
		return nil, err
	}
	known := make([]string, 0, len(recorded))
	for _, t := range recorded {
		known = append(known, fmt.Sprint(t.XID))
	}
	t := audit.Table{Name: table, Columns: audit.Columns{ID: "id", XID: "xid"}}
	tx, err := t.BeginReading(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("count rows of %s: %w", table, err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var now string
	if err := tx.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&now); err != nil {
		return nil, fmt.Errorf("count rows of %s: %w", table, err)
	}
	var n int
	err = tx.QueryRow(ctx, "SELECT count(*) FROM "+t.Quoted()+" WHERE "+t.Between()+" AND xid::text <> ALL ($3::text[])",
		now, s.Marker, known).Scan(&n)
	if hasCode(err, "42703") { // it has no xid
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("count rows of %s: %w", table, err)
	}
	return &n, nil
}

// rowsToRead counts rows of the outbox of which nothing is on record.
func rowsToRead(ctx context.Context, db *pgxpool.Pool, c *Settings) (int, error) {
	t := AuditTable(c)
	tx, err := t.BeginReading(ctx, db)
	if err != nil {
		return 0, fmt.Errorf("count rows of %s: %w", t.Name, err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	join, known := audit.OnRecord(t.Columns.ID)
	var n int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM "+t.Quoted()+" AS e "+join+" WHERE "+known+" = ''").Scan(&n); err != nil {
		return 0, fmt.Errorf("count rows of %s: %w", t.Name, err)
	}
	return n, nil
}

// MoveIdentity records that the relay of this database reads what a configuration names from now on. leave lets it leave
// rows of the table before that are not delivered.
func MoveIdentity(ctx context.Context, db *pgxpool.Pool, c *Settings, leave bool) (*Move, error) {
	m, state, err := planMove(ctx, db, c)
	if err != nil {
		return nil, err
	}
	if !leave && (m.Left == nil || *m.Left > 0) {
		return m, ErrRowsLeft
	}
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if err := progress.Move(ctx, tx, state, m.To.Slot, m.To.Binding); err != nil {
			return err
		}
		// It is asked for: a relay with cdc.recovery manual need not be asked again.
		_, err := tx.Exec(ctx, "INSERT INTO relay.requests (kind, target) VALUES ($1, $2)", deliver.RequestRescue, m.To.Slot)
		return err
	})
	if err != nil {
		return m, err
	}
	m.Moved = true
	if m.From.Slot == m.To.Slot {
		return m, nil // the next start makes it anew
	}
	tag, err := db.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()", m.From.Slot)
	if err != nil {
		return m, fmt.Errorf("drop slot %s, which keeps WAL for nobody now: SELECT pg_drop_replication_slot('%[1]s'): %w", m.From.Slot, err)
	}
	if tag.RowsAffected() > 0 {
		m.DroppedSlot = m.From.Slot
	}
	return m, nil
}
