package cdc

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
)

// slotName is what PostgreSQL accepts as the name of a slot. The replication
// grammar has no way to pass it as a parameter, so nothing else gets through.
var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// plugin is the output plugin of our slots.
const plugin = "pgoutput"

// ErrSlotTaken is returned when another session streams from the slot.
var ErrSlotTaken = errors.New("slot is active elsewhere")

// SlotState is what pg_replication_slots says of a slot.
type SlotState struct {
	Exists         bool
	Plugin         string
	Database       string
	Active         bool
	ActivePID      int32
	ConfirmedFlush LSN
	RestartLSN     LSN
	WALStatus      string // reserved, extended, unreserved, lost
	Invalidated    bool   // it can never be read again
	RetainedBytes  int64  // WAL that the server keeps for it
	SafeWALSize    *int64 // bytes that can be written before it is in danger; nil without a limit
}

// Queryer runs one query. A pgx connection, pool or transaction does.
type Queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// InspectSlot reads the state of a slot through an ordinary connection.
//
// Source: https://www.postgresql.org/docs/current/view-pg-replication-slots.html
func InspectSlot(ctx context.Context, db Queryer, name string) (SlotState, error) {
	const q = `
SELECT coalesce(plugin, ''), coalesce(database, ''), active, coalesce(active_pid, 0),
       coalesce(confirmed_flush_lsn, '0/0')::text, coalesce(restart_lsn, '0/0')::text,
       coalesce(wal_status, ''),
       coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                     ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint,
       safe_wal_size
  FROM pg_replication_slots WHERE slot_name = $1`
	s := SlotState{Exists: true}
	var confirmed, restart string
	err := db.QueryRow(ctx, q, name).Scan(&s.Plugin, &s.Database, &s.Active, &s.ActivePID,
		&confirmed, &restart, &s.WALStatus, &s.RetainedBytes, &s.SafeWALSize)
	if errors.Is(err, pgx.ErrNoRows) {
		return SlotState{}, nil
	}
	if err != nil {
		return SlotState{}, fmt.Errorf("inspect slot %s: %w", name, err)
	}
	if s.ConfirmedFlush, err = pglogrepl.ParseLSN(confirmed); err != nil {
		return SlotState{}, fmt.Errorf("inspect slot %s: %w", name, err)
	}
	if s.RestartLSN, err = pglogrepl.ParseLSN(restart); err != nil {
		return SlotState{}, fmt.Errorf("inspect slot %s: %w", name, err)
	}
	s.Invalidated = s.WALStatus == "lost" || s.RestartLSN == 0
	return s, nil
}

// NewSlot is a slot that has just been made.
type NewSlot struct {
	ConsistentPoint LSN
	// Snapshot is the name of the exported snapshot: it sees exactly the
	// transactions that the slot will not stream. It can be imported until the
	// next command on the Conn that made it.
	Snapshot string
}

// CreateSlot makes a logical slot and exports its snapshot. The publication must
// exist by now: the stream fails for ever at a row that was written between the
// slot and the publication. It waits for running transactions that have written.
//
// failover asks for a slot that standbys synchronise; servers before 17 do not
// know it and it is left out.
func (c *Conn) CreateSlot(ctx context.Context, name string, failover bool) (NewSlot, error) {
	if !slotName.MatchString(name) {
		return NewSlot{}, fmt.Errorf("create slot %q: a name has 1 to 63 of a-z, 0-9 and _", name)
	}
	options := "SNAPSHOT 'export'"
	if failover && c.version >= 17 {
		options += ", FAILOVER true"
	}
	res, err := pglogrepl.ParseCreateReplicationSlot(
		c.pg.Exec(ctx, fmt.Sprintf("CREATE_REPLICATION_SLOT %s LOGICAL %s (%s)", name, plugin, options)))
	if err != nil {
		return NewSlot{}, health.During(health.CreateSlot, fmt.Errorf("create slot %s: %w", name, err))
	}
	lsn, err := pglogrepl.ParseLSN(res.ConsistentPoint)
	if err != nil {
		return NewSlot{}, fmt.Errorf("create slot %s: read consistent point: %w", name, err)
	}
	return NewSlot{ConsistentPoint: lsn, Snapshot: res.SnapshotName}, nil
}
