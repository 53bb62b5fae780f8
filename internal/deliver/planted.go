//go:build faultpoints

package deliver

import (
	"context"
	"slices"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// plantedAdvance is the epoch and the position that a faulty leader would write, and the number of its batch.
func (r *Recorder) plantedAdvance(ctx context.Context, pos Position) (int64, Position) {
	epoch := r.opts.Epoch
	if faultpoint.Planted(faultpoint.EpochUnchecked) {
		_ = r.db.QueryRow(ctx, "SELECT epoch, batch + 1 FROM relay.progress WHERE slot = $1", r.opts.Slot).Scan(&epoch, &r.number)
	}
	if faultpoint.Planted(faultpoint.ProgressInMemory) {
		pos = r.written
	}
	return epoch, pos
}

// plantedCommitted hurts a relay that has committed a batch and confirmed nothing.
func plantedCommitted(batch []op) {
	faultpoint.Hit(faultpoint.AfterRecordCommit)
	if slices.ContainsFunc(batch, func(o op) bool { return o.kind == opPark }) {
		faultpoint.Hit(faultpoint.AfterParkCommit)
	}
}
