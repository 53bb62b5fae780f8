package daemon

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/progress"
)

// firstBackfillIndex is the index of the first row from before the slot. The first
// transaction of the stream may commit exactly where the stream begins, so it may
// share its commit position with these rows: theirs are below all of its indexes.
const firstBackfillIndex = math.MinInt32

// direct opens an ordinary connection on the way of the stream, past any pooler,
// with settings under which values print as they do in the stream.
func (d *Daemon) direct(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(d.cfg().Database.ReplicationURL)
	if err != nil {
		return nil, fmt.Errorf("parse replication url: %w", err)
	}
	for k, v := range map[string]string{"client_encoding": "UTF8", "DateStyle": "ISO, YMD", "TimeZone": "UTC",
		"bytea_output": "hex", "extra_float_digits": "3", "application_name": d.appName()} {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn, nil
}

// backfill delivers the rows that were committed before the slot existed. They
// are ordered by the time in their id (its default is a UUID of version 7), which
// is when they were inserted: commit order for the rows of one key whose writers
// lock what the key stands for. Transaction ids are not: one is taken before the
// lock is waited for. They order rows with other ids, and rows of one instant.
func (l *leader) backfill(ctx context.Context) error {
	l.log.Info("reading rows from before the slot")
	for {
		n, err := l.tryBackfill(ctx)
		if err == nil {
			l.log.Info("rows from before the slot are delivered or parked", "rows", n)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if n > 0 {
			// Rows are in memory under tickets of an open pseudo transaction: a
			// new term begins it again, and skips what was recorded.
			return fmt.Errorf("read rows from before the slot: %w", err)
		}
		l.databaseError(fmt.Errorf("read rows from before the slot: %w", err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (l *leader) tryBackfill(ctx context.Context) (int, error) {
	conn, err := l.d.direct(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := awaitSnapshot(ctx, conn, l.state.Backfill); err != nil {
		return 0, err
	}
	table := pgx.Identifier(strings.Split(l.d.cfg().Outbox.Table, ".")).Sanitize()
	id := pgx.Identifier{mappingOptions(l.d.cfg()).Columns.ID}.Sanitize()
	rows, err := conn.Query(ctx, "SELECT * FROM "+table+
		" WHERE pg_visible_in_snapshot(xid, $1::text::pg_snapshot)"+
		" ORDER BY CASE WHEN substr("+id+"::text, 15, 1) = '7' THEN substr("+id+"::text, 1, 18) END COLLATE \"C\", xid, tableoid, ctid",
		pgx.QueryExecModeSimpleProtocol, l.state.Backfill)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	start := l.state.Position.End
	var rel *cdc.Relation
	n := 0
	for rows.Next() {
		if rel == nil {
			rel = l.d.relation(rows)
			if err := l.watermark.BeginBackfill(start); err != nil {
				return 0, err
			}
		}
		row := cdc.Row{Relation: rel, Values: make([]cdc.Value, len(rel.Columns))}
		for i, raw := range rows.RawValues() {
			if raw == nil {
				row.Values[i] = cdc.Value{Kind: cdc.KindNull}
				continue
			}
			row.Values[i] = cdc.Value{Kind: cdc.KindText, Data: append(make([]byte, 0, len(raw)), raw...)}
		}
		ticket, err := l.watermark.Row()
		if err != nil {
			return n, err
		}
		if err := l.intake.admit(ctx, row, place{commit: uint64(start), index: firstBackfillIndex + n}, settle{l.watermark, ticket}); err != nil {
			return n, err
		}
		n++
	}
	if err := rows.Err(); err != nil {
		return n, err
	}
	if rel != nil {
		if err := l.watermark.Commit(start); err != nil {
			return n, err
		}
	}
	return n, l.endBackfill(ctx)
}

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

func (d *Daemon) relation(rows pgx.Rows) *cdc.Relation {
	schema, table, _ := strings.Cut(d.cfg().Outbox.Table, ".")
	rel := &cdc.Relation{Schema: schema, Name: table}
	for _, f := range rows.FieldDescriptions() {
		rel.Columns = append(rel.Columns, cdc.Column{Name: f.Name, TypeOID: f.DataTypeOID, TypeMod: f.TypeModifier})
	}
	return rel
}

// endBackfill waits until all rows are recorded, which takes no longer than the
// hand-over, and notes it.
func (l *leader) endBackfill(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for l.watermark.Outstanding() > 0 || !l.recorder.Idle() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	for {
		err := progress.EndBackfill(ctx, l.d.pool, l.state.Slot, l.state.Epoch)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		l.databaseError(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
