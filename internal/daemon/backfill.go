package daemon

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/postgres"
	"github.com/outbox-relay/relay/internal/progress"
)

// firstBackfillIndex is the index of the first row from before the slot. The first
// transaction of the stream may commit exactly where the stream begins, so it may
// share its commit position with these rows: theirs are below all of its indexes.
const firstBackfillIndex = math.MinInt32

// direct opens an ordinary connection on the way of the stream, past any pooler,
// with settings under which values print as they do in the stream.
func (d *Daemon) direct(ctx context.Context) (*pgx.Conn, error) {
	conn, err := postgres.Connect(ctx, d.cfg().Database.ReplicationURL, postgres.Options{Application: d.appName(), Direct: true,
		Settings: map[string]string{"TimeZone": "UTC"}})
	if err != nil {
		return nil, health.During(health.Direct, fmt.Errorf("connect: %w", err))
	}
	return conn, nil
}

// backfill delivers the rows that were committed before the slot existed and that no
// marker proves to be recorded: all of them at the first start, those of the gap
// when a lost slot was made anew.
func (l *leader) backfill(ctx context.Context) error {
	l.log.Info("reading rows from before the slot", "not_shown_by", l.state.Marker)
	for {
		if err := l.awaitSource(ctx); err != nil {
			return err
		}
		began, n, err := l.tryBackfill(ctx)
		if err == nil {
			l.works(health.PartBackfill)
			l.log.Info("rows from before the slot are delivered or parked", "rows", n)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if began {
			// Rows are in memory under tickets of an open pseudo transaction: a
			// new term begins it again, and skips what was recorded.
			return fmt.Errorf("read rows from before the slot: %w", err)
		}
		l.trouble(health.PartBackfill, health.During(health.Direct, fmt.Errorf("read rows from before the slot: %w", err)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// tryBackfill tells whether it has begun the pseudo transaction, and how many rows it
// has taken.
func (l *leader) tryBackfill(ctx context.Context) (began bool, n int, err error) {
	conn, err := l.d.direct(ctx)
	if err != nil {
		return false, 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := awaitSnapshot(ctx, conn, l.state.Backfill); err != nil {
		return false, 0, err
	}
	accounted, err := l.accounted(ctx, conn)
	if err != nil {
		return false, 0, err
	}
	reader := audit.NewRowReader(l.d.auditColumns())
	start := l.state.Position.End
	taken, err := takenPlaces(ctx, conn, start)
	if err != nil {
		return false, 0, err
	}
	q := outbox.TableQuery{Where: l.d.auditTable().Between(), Args: []any{l.state.Backfill, l.state.Marker}}
	if l.rescue.incident != 0 && l.state.Marker == "" {
		q.Join, q.Beside = audit.OnRecord(l.d.auditColumns().ID)
	}
	err = l.d.tableRows(ctx, conn, q, func(row cdc.Row, beside []byte) error {
		if !began {
			began = true
			if err := l.watermark.BeginBackfill(start); err != nil {
				return err
			}
		}
		l.rescue.read++
		if _, xid, ok := reader.Read(row); ok && accounted[xid] {
			return nil
		}
		known := strings.Fields(string(beside))
		if slices.Contains(known, audit.Quarantined) {
			return nil
		}
		ticket, err := l.watermark.Row()
		if err != nil {
			return err
		}
		// Rows that are passed over have places too: else the next one has that of one in quarantine, which it replaces.
		if err := l.intake.admit(ctx, row, known, place{commit: uint64(start), index: firstBackfillIndex + l.rescue.read - 1, behind: taken}, settle{l.watermark, ticket}); err != nil {
			return err
		}
		n++
		return nil
	})
	if err != nil {
		return began, n, err
	}
	if began {
		if err := l.watermark.Commit(start, nil); err != nil {
			return began, n, err
		}
	}
	return true, n, l.endBackfill(ctx, n)
}

// takenPlaces is how many indexes are taken by rows that a term before this one has read
// and parked, before it was cut off. The table may lack some of them by now: counted from
// the beginning again, another row would get the place of one that is parked, and not be
// parked itself.
func takenPlaces(ctx context.Context, conn *pgx.Conn, start cdc.LSN) (int, error) {
	const q = `SELECT coalesce(max(row_index)::bigint + 1 - $2::bigint, 0) FROM relay.parked WHERE commit_lsn = $1::text::pg_lsn AND row_index < 0`
	var n int
	if err := conn.QueryRow(ctx, q, start.String(), int64(firstBackfillIndex)).Scan(&n); err != nil {
		return 0, fmt.Errorf("look for rows that are parked already: %w", err)
	}
	return n, nil
}

// accounted are the transactions that were recorded before the slot was lost, with all
// the rows that the table has of them. The stream may have shown a part of one only,
// when somebody had changed the publication.
func (l *leader) accounted(ctx context.Context, conn *pgx.Conn) (map[uint64]bool, error) {
	to, err := cdc.ParseSnapshot(l.state.Backfill)
	if err != nil {
		return nil, err
	}
	var from cdc.Snapshot
	if l.state.Marker != "" {
		if from, err = cdc.ParseSnapshot(l.state.Marker); err != nil {
			return nil, err
		}
	}
	tx, err := l.d.auditTable().BeginReading(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	return l.d.auditTable().Whole(ctx, tx, from, to, l.rescue.recorded)
}

// tableRows reads rows of the outbox in a transaction of its own. Where of q is
// Table.Between, or begins with it.
func (d *Daemon) tableRows(ctx context.Context, conn *pgx.Conn, q outbox.TableQuery, take func(row cdc.Row, beside []byte) error) error {
	tx, err := d.auditTable().BeginReading(ctx, conn)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if q.Args[1] != "" { // a marker: what it does not show is a small part of the table
		if err := audit.ByIndex(ctx, tx); err != nil {
			return err
		}
	}
	m := mappingOptions(d.cfg())
	q.Table, q.Columns = m.Table, m.Columns
	return outbox.ReadRows(ctx, tx, q, take)
}

// auditTable is the outbox as the audit reads it.
func (d *Daemon) auditTable() audit.Table { return AuditTable(d.cfg()) }

// AuditTable is the outbox of a configuration as the audit reads it.
func AuditTable(c *Settings) audit.Table {
	m := mappingOptions(c)
	return audit.Table{Name: m.Table, Columns: audit.Columns{ID: m.Columns.ID, XID: m.Columns.XID}}
}

func (d *Daemon) auditColumns() audit.Columns { return d.auditTable().Columns }

// awaitSnapshot returns when queries see every transaction that a slot's snapshot
// shows: the snapshot follows the WAL, where a commit stands a moment earlier.
func awaitSnapshot(ctx context.Context, conn *pgx.Conn, snapshot string) error {
	// A transaction that is still running for queries is in the list of their
	// snapshot, or, when it is the latest of all, at or above its xmax.
	const q = `SELECT EXISTS (SELECT FROM pg_snapshot_xip(pg_current_snapshot()) AS x
                WHERE pg_visible_in_snapshot(x, $1::text::pg_snapshot))
    OR pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax($1::text::pg_snapshot)`
	for {
		var running bool
		if err := conn.QueryRow(ctx, q, snapshot).Scan(&running); err != nil {
			return fmt.Errorf("compare snapshots: %w", err)
		}
		if !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// endBackfill waits until all rows are recorded, which takes no longer than the
// hand-over, and notes it.
func (l *leader) endBackfill(ctx context.Context, sent int) error {
	for l.watermark.Outstanding() > 0 || !l.recorder.Idle() {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	shown, err := cdc.ParseSnapshot(l.state.Backfill)
	if err != nil {
		return err
	}
	if err := l.persist(ctx, func() error {
		return progress.Mark(ctx, l.d.pool, l.state, l.recorder.Written(), shown, l.state.Position.End, nil)
	}); err != nil {
		return err
	}
	l.journal.Reset(shown)
	l.audited.Store(uint64(l.state.Position.End))
	l.settled.Clear()
	l.settled.ForgetAnywhere()
	l.recorder.KeepSettled(false)
	return l.endRescue(ctx, sent)
}

// persist writes to the database until it gets through, or another leads, or write
// gives up.
func (l *leader) persist(ctx context.Context, write func() error) error {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 200*time.Millisecond, longestPause
	for {
		err := write()
		if err == nil {
			l.works(health.PartAudit)
		}
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "RL001" {
			return fmt.Errorf("%w: %s", deliver.ErrSuperseded, pg.Message)
		}
		if errors.Is(err, deliver.ErrSuperseded) || errors.Is(err, errGivenUp) {
			return err
		}
		l.trouble(health.PartAudit, err)
		if err := pause(ctx, retry.NextBackOff()); err != nil {
			return err
		}
	}
}

// pause waits, or returns the error of a context that ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
