package daemon

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
)

// retentionKeeper tells whether all rows of an old partition are settled: the
// first time it is asked it notes where the WAL ends, and once a marker from behind
// there was found in order, every row that the partition held then is settled. One goroutine
// uses it.
type retentionKeeper struct {
	d    *Daemon
	seen map[string]cdc.LSN
	told map[string]bool // partitions that were said to wait for a replay
}

func (k *retentionKeeper) settled(ctx context.Context, tx pgx.Tx, partition string, upper time.Time) (bool, error) {
	l := k.d.current.Load()
	if l == nil || l.backfilling.Load() {
		return false, nil
	}
	at, ok := k.seen[partition]
	if !ok {
		var text string
		if err := tx.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
			return false, fmt.Errorf("read end of WAL: %w", err)
		}
		at, err := pglogrepl.ParseLSN(text)
		if err != nil {
			return false, fmt.Errorf("read end of WAL: %w", err)
		}
		k.seen[partition] = at
		return false, nil
	}
	reached := cdc.LSN(l.audited.Load())
	if l.auditOff.Load() {
		reached = l.recordedEnd()
	}
	if reached < at {
		return false, nil
	}
	replay, err := neededByReplay(ctx, tx, upper)
	if err != nil || replay == 0 {
		delete(k.told, partition)
		return err == nil, err
	}
	if !k.told[partition] {
		k.told[partition] = true
		k.d.log.Info("partition is past retention and kept for a replay", "partition", partition, "replay", replay)
	}
	return false, nil
}

// always lets delivery records go by age alone.
func (k *retentionKeeper) always(context.Context, pgx.Tx, string, time.Time) (bool, error) {
	return true, nil
}

// concurrency is how many attempts run at once: what the configuration says, or the machine when it leaves that to it, and never
// more than the process may open connections for. Attempts mostly wait, so it is far above the number of cores.
func concurrency(c *Settings) int {
	n := c.Deliver.Concurrency
	if n == 0 {
		n = 128 * runtime.GOMAXPROCS(0)
	}
	return min(n, endpointConnections(openFiles(), c.Database.MaxConnections))
}
