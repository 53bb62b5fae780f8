package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// errOtherSlot is returned when another slot than the configured one serves this outbox.
var errOtherSlot = errors.New("another slot serves this outbox")

// refuseSecondSlot keeps a relay whose slot has no progress from an outbox that another slot serves: it would send every event
// again, and both would deliver what is parked. It runs under the lock of the first start.
func (d *Daemon) refuseSecondSlot(ctx context.Context, slot string) error {
	var other, since string
	err := d.pool.QueryRow(ctx, `SELECT slot, to_char(updated_at, 'YYYY-MM-DD HH24:MI:SS TZ') FROM relay.progress
		WHERE slot <> $1 ORDER BY updated_at DESC LIMIT 1`, slot).Scan(&other, &since)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look for other slots: %w", err)
	}
	return fmt.Errorf("%w: %s, which last recorded at %s, and cdc.slot is %s; set cdc.slot to %[2]s, or, if that one is given up for good: "+
		"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '%[2]s'; "+
		"DELETE FROM relay.progress WHERE slot = '%[2]s'; every retained row is sent again then", errOtherSlot, other, since, slot)
}
