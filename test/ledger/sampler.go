package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// sampleEvery is how often PostgreSQL is asked for positions.
const sampleEvery = 100 * time.Millisecond

const (
	sqlSampleSlot = `SELECT (coalesce(confirmed_flush_lsn, '0/0') - '0/0')::bigint, (coalesce(restart_lsn, '0/0') - '0/0')::bigint, active,
		coalesce(wal_status, ''), (pg_current_wal_insert_lsn() - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1`
	sqlSampleProgress = `SELECT (end_lsn - '0/0')::bigint, epoch FROM relay.progress WHERE slot = $1`
)

// sample writes down positions, and remembers the most memory that a relay has had, until ctx ends. The slot is read before progress, in statements of their own: what is
// confirmed must have been recorded before.
func (r *runner) sample(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for tick := time.NewTicker(sampleEvery); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		for _, u := range r.units {
			r.peakMemory.Store(max(r.peakMemory.Load(), u.peakMemory())) // nobody else stores
		}
		if conn == nil {
			var err error
			if conn, err = pgx.Connect(ctx, r.url); err != nil {
				conn = nil
				continue
			}
		}
		s, err := takeSample(ctx, conn)
		if err != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
			conn = nil
			continue
		}
		r.note(r.samples.Add(s))
	}
}

func takeSample(ctx context.Context, conn *pgx.Conn) (history.Sample, error) {
	s := history.Sample{Began: history.Now()}
	err := conn.QueryRow(ctx, sqlSampleSlot, slot).Scan(&s.Confirmed, &s.Restart, &s.Active, &s.WALStatus, &s.Head)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return s, err
	}
	s.Slot = err == nil && s.Confirmed > 0
	err = conn.QueryRow(ctx, sqlSampleProgress, slot).Scan(&s.Progress, &s.Epoch)
	s.Ended = history.Now()
	return s, err
}
