package daemon

import (
	"context"

	"github.com/outbox-relay/relay/internal/progress"
)

// refuseSecondSlot keeps a relay whose slot has no progress from an outbox that another slot serves: it would send every event
// again, and both would deliver what is parked. It runs under the lock of the first start.
func (d *Daemon) refuseSecondSlot(ctx context.Context, slot string, binding progress.Binding, server string) error {
	others, err := progress.Slots(ctx, d.pool)
	if err != nil || len(others) == 0 {
		return err
	}
	return others[0].CheckBinding(slot, binding, server)
}
