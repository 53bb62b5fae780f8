package daemon

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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

// recordsAtOnce is how many old records are deleted one by one in a step.
const recordsAtOnce = 20_000

// recordKeeper lets records of deliveries go by the time of their end. Their partitions are by the time of the commit, which
// may lie far back: after a long outage, in a key that was halted, for a dead letter that was retried, or because a replication
// origin gave its transactions no time. One goroutine uses it.
type recordKeeper struct {
	keep time.Duration
	more bool // there are more old records than were deleted
}

// ended reports whether all records of a partition ended long enough ago. Where some did not, the others are deleted.
func (k *recordKeeper) ended(ctx context.Context, tx pgx.Tx, partition string, _ time.Time) (bool, error) {
	before := time.Now().Add(-k.keep)
	var later bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+partition+" WHERE ended_at >= $1)", before).Scan(&later); err != nil {
		return false, fmt.Errorf("look for records that ended later: %w", err)
	}
	if !later {
		return true, nil
	}
	return false, k.delete(ctx, tx, partition, before)
}

// deleteUndated deletes old records of the default partition, which has those whose commit lies in the future.
func (k *recordKeeper) deleteUndated(ctx context.Context, db *pgxpool.Pool) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		return k.delete(ctx, tx, "relay.deliveries_default", time.Now().Add(-k.keep))
	})
}

func (k *recordKeeper) delete(ctx context.Context, tx pgx.Tx, partition string, before time.Time) error {
	tag, err := tx.Exec(ctx, "DELETE FROM "+partition+" WHERE ctid = ANY (ARRAY(SELECT ctid FROM "+partition+" WHERE ended_at < $1 LIMIT $2))", before, recordsAtOnce)
	if err != nil {
		return fmt.Errorf("delete old records: %w", err)
	}
	k.more = k.more || tag.RowsAffected() == recordsAtOnce
	return nil
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
