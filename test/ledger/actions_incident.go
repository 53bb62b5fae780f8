package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// dropSlot drops the slot under the relay: what it has not read yet is gone from the stream.
func dropSlot(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Incident, a.Stalls = history.HoleRescued, true
	if err := n.slotFree(ctx, "SELECT pg_drop_replication_slot(slot_name)"); err != nil {
		return err
	}
	return n.mended(ctx, "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE active)")
}

// slotFree runs a statement on the slot in the moment in which nobody holds it.
func (n *nemesis) slotFree(ctx context.Context, sql string) error {
	whole := context.WithoutCancel(ctx)
	const free = " FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NULL"
	for deadline := time.Now().Add(readyLimit); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		_, err := n.r.pool.Exec(whole, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL", slot)
		if err != nil {
			continue
		}
		if done, err := n.r.pool.Exec(whole, sql+free, slot); err == nil && done.RowsAffected() == 1 {
			return nil
		}
	}
	return fmt.Errorf("the slot could not be taken from the relay within %s", readyLimit)
}

// mended waits until the relay has seen what is wrong, and has begun to mend it: by then a query says true.
func (n *nemesis) mended(ctx context.Context, sql string) error {
	for deadline := time.Now().Add(readyLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var there bool
		if n.r.pool.QueryRow(context.WithoutCancel(ctx), sql).Scan(&there) == nil && there {
			return nil
		}
	}
	return fmt.Errorf("the relay did not mend it within %s", readyLimit)
}

// dropPublication drops the publication: up to 17 the stream fails at the next row, for ever; 18 skips rows with a notice.
func dropPublication(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Incident, a.Stalls = history.HoleRescued, true
	if err := n.r.untilDone(context.WithoutCancel(ctx), "DROP PUBLICATION IF EXISTS relay"); err != nil {
		return err
	}
	return n.mended(ctx, "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = 'relay')")
}

// unpublish takes the outbox out of the publication and puts it back: the rows between are in no stream.
func unpublish(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Incident = history.HoleAudited
	whole := context.WithoutCancel(ctx)
	if _, err := n.r.pool.Exec(whole, "ALTER PUBLICATION relay DROP TABLE outbox.events"); err != nil {
		return n.unlessEnding(ctx, err)
	}
	wait(ctx, n.between(200*time.Millisecond, 2*time.Second))
	// The relay may be about to do the same, and then one of the two is told to try again.
	return n.r.untilDone(whole, "ALTER PUBLICATION relay SET TABLE outbox.events")
}

// advanceSlot moves the slot on while no relay runs, as somebody does who wants to free the disk.
func advanceSlot(n *nemesis, ctx context.Context, a *history.Action) error {
	a.Incident, a.Stalls, a.Repeats = history.HoleAudited, true, true
	var stopped []*unit
	for _, u := range n.r.units {
		if u.running() {
			stopped = append(stopped, u)
			if err := u.end(syscall.SIGKILL, a.Name, false); err != nil {
				return err
			}
		}
	}
	wait(ctx, n.between(100*time.Millisecond, time.Second))
	err := n.slotFree(ctx, "SELECT pg_replication_slot_advance(slot_name, pg_current_wal_lsn())")
	for _, u := range stopped {
		u.start()
	}
	return err
}
