package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// drain waits until the relay says, by its tables and its position, that nothing is left to do, and stops it. Everything
// that was hurt is whole by now.
func (r *runner) drain(ctx context.Context) history.End {
	began := time.Now()
	end := history.End{}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Drain)
	defer cancel()
	var head int64
	for end.Waiting = "the database"; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if r.pool.QueryRow(ctx, sqlWAL).Scan(&head) == nil {
			break
		}
	}
	for ctx.Err() == nil && !end.Drained {
		end.Drained, end.Waiting = r.drained(ctx, head)
		time.Sleep(50 * time.Millisecond)
	}
	end.DrainTook = time.Since(began)
	for _, u := range r.units {
		end.AuditMissing += u.metric(context.WithoutCancel(ctx), "relay_audit_missing_total")
		end.AuditRows += u.metric(context.WithoutCancel(ctx), "relay_audit_rows_total")
	}
	for _, u := range r.units {
		r.note(u.end(syscall.SIGTERM, "end of the run", false))
	}
	return end
}

func (r *runner) drained(ctx context.Context, head int64) (bool, string) {
	var parked, requests int
	var confirmed, progress, marker int64
	err := r.pool.QueryRow(ctx, `SELECT (SELECT count(*) FROM relay.parked), (SELECT count(*) FROM relay.requests),
		coalesce((SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1), 0),
		coalesce((SELECT (end_lsn - '0/0')::bigint FROM relay.progress WHERE slot = $1), 0),
		coalesce((SELECT (marker_lsn - '0/0')::bigint FROM relay.progress WHERE slot = $1), 0)`, slot).Scan(&parked, &requests, &confirmed, &progress, &marker)
	switch {
	case err != nil:
		return false, err.Error()
	case confirmed < head:
		return false, fmt.Sprintf("the slot is confirmed up to %X, the last event stands at %X", confirmed, head)
	case progress < head:
		return false, fmt.Sprintf("progress stands at %X, the last event at %X", progress, head)
	case marker < r.lastCommit.Load():
		return false, fmt.Sprintf("the audit has come to %X, the last event stands at %X", marker, r.lastCommit.Load())
	case parked > 0 || requests > 0:
		return false, fmt.Sprintf("%d deliveries are parked, %d requests not carried out", parked, requests)
	}
	return true, ""
}

// dump writes the tables of the relay and of the ledger into the report.
func (r *runner) dump(ctx context.Context, end history.End) error {
	if err := dumpQuery[history.Row](ctx, r, history.FileRows, `SELECT event_id::text AS "Event", writer AS "Writer", number AS "Number" FROM ledger.shadow`); err != nil {
		return err
	}
	const at = `(extract(epoch FROM %s) * 1000000)::bigint`
	if err := dumpQuery[history.Transition](ctx, r, history.FileTransitions, `SELECT `+fmt.Sprintf(at, "at")+
		` AS "At", op AS "Op", subscription_id::text AS "Sub", event_id::text AS "Event" FROM ledger.transitions ORDER BY at`); err != nil {
		return err
	}
	if err := dumpQuery[history.Delivery](ctx, r, history.FileDeliveries, `
		SELECT id::text AS "ID", subscription_id::text AS "Sub", event_id::text AS "Event", status AS "Status", attempts AS "Attempts", coalesce(sequence, 0) AS "Sequence",
		       coalesce(last_error, '') AS "LastError", `+fmt.Sprintf(at, "ended_at")+` AS "Ended", history AS "Failed" FROM relay.deliveries
		UNION ALL
		SELECT id::text, subscription_id::text, event_id::text, 'PENDING', attempts, coalesce(sequence, 0), coalesce(last_error, ''), 0, history FROM relay.parked`); err != nil {
		return err
	}
	if err := dumpQuery[history.Quarantined](ctx, r, history.FileQuarantine, `
		SELECT coalesce(event_id, '') AS "Event", reason AS "Reason", detail AS "Detail" FROM relay.quarantine`); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	end.Bad, end.Faults, end.PeakMemory = r.bad, r.faults, r.peakMemory.Load()
	run := history.Run{Seed: r.opts.Seed, Profile: r.opts.Profile.Name, PostgreSQL: r.cluster.Version(), Began: r.began, For: r.opts.For,
		Defect: r.opts.Defect, Window: repeatWindow, AttemptFor: attemptFor}
	for _, write := range []func() error{
		func() error { return history.Write(r.dir, history.FileSubscriptions, r.subs) },
		func() error { return history.Write(r.dir, history.FileRun, []history.Run{run}) },
		func() error { return history.Write(r.dir, history.FileEnd, []history.End{end}) },
	} {
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

func dumpQuery[T any](ctx context.Context, r *runner, name, sql string) error {
	rows, err := r.pool.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("dump %s: %w", name, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[T])
	if err != nil {
		return fmt.Errorf("dump %s: %w", name, err)
	}
	return history.Write(r.dir, name, all)
}
