package outbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// mostBuckets bounds what one pass makes for rows in the default partition, which may hold any date.
	mostBuckets = 100
	// lockAttempts is how often a step asks for a lock before it leaves it to a later pass.
	lockAttempts = 5
	// lockPause lets the writers through that queued behind an attempt.
	lockPause = 100 * time.Millisecond
	// liveMargin is how far ahead of our clock a writer's may be. A partition that begins later than that is made
	// without stopping the writers.
	liveMargin = 5 * time.Minute
)

// PartitionOptions says which partitions to make and which to drop. The zero value is that of outbox.events, daily,
// and drops nothing.
type PartitionOptions struct {
	// Table is the partitioned table, with its schema. Default outbox.events.
	Table string
	// Interval is the length of a partition, at least a minute. Bounds are multiples of it in UTC. Default 24h.
	Interval time.Duration
	// Ahead is how far into the future partitions are made. A relay that is away for longer leaves the writers to the
	// default partition. Default seven intervals, but at least a day.
	Ahead time.Duration
	// Retention is how long a partition is kept after its upper bound. Zero keeps everything.
	Retention time.Duration
	// LockTimeout is the longest that one wait for a lock lasts, and with it the longest that a writer queues behind
	// it. Default 500ms, which is below PostgreSQL's deadlock_timeout, so that in a conflict we give way, not a writer.
	LockTimeout time.Duration
	// Settled tells whether nothing in a partition (its name quoted, with the schema) is still needed. It is asked in
	// the transaction that drops the partition, while nobody can write to it. nil keeps everything.
	Settled func(ctx context.Context, tx pgx.Tx, partition string, upper time.Time) (bool, error)
}

// PartitionReport says what one pass did. Names of partitions come without the schema.
type PartitionReport struct {
	// Foreign: the table is not partitioned by range of one timestamptz column, and was left alone.
	Foreign bool
	// Keeper is the extension that looks after the partitions of the table, which is Foreign then; empty for none.
	Keeper string
	// Busy: another instance was at it, so the pass ended.
	Busy bool
	// Made, and the rows that were moved there out of the default partition.
	Made  []string
	Moved int64
	// Dropped, Unsettled: past retention, and gone, or kept because not settled.
	Dropped, Unsettled []string
	// Deferred to a later pass, because the writers were not to wait any longer for a lock.
	Deferred []string
}

// Partitions makes the partitions of a table ahead of time and drops those that are old and settled.
//
// Each step is a transaction of its own under an advisory lock, so any number of instances may do it at once, and a
// pass that is cut off leaves nothing half done. Writers go on: a step takes the locks that stop them last, holds them
// for moments, and gives up when it does not get them in time.
//
// Rows in the default partition are moved when the partition of their time is made: they are copied to a plain table,
// which becomes the partition only then. The stream shows nothing of it, since no published table gained a row; an
// insert through the root would be published a second time. Every column is kept as it was, xid too. Rows whose time
// lies beyond the partitions made ahead stay where they are until it comes.
//
// A partition ends up with the bounds that its neighbours leave it, so the interval may be changed at any time.
// Only partitions with names that Partitions gives are dropped.
type Partitions struct {
	pool *pgxpool.Pool
	opts PartitionOptions
}

// NewPartitions takes the pool of a role that owns the table. It asks the database nothing.
func NewPartitions(pool *pgxpool.Pool, opts PartitionOptions) *Partitions {
	if opts.Table == "" {
		opts.Table = "outbox.events"
	}
	if opts.Interval <= 0 {
		opts.Interval = 24 * time.Hour
	}
	opts.Interval = max(opts.Interval.Truncate(time.Second), time.Minute)
	if opts.Ahead <= 0 {
		opts.Ahead = max(7*opts.Interval, 24*time.Hour)
	}
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = 500 * time.Millisecond
	}
	return &Partitions{pool: pool, opts: opts}
}

// errBusy ends a pass: another instance holds the advisory lock.
var errBusy = errors.New("another instance maintains the partitions")

// Maintain does one pass at the time now, and is to be called at the start and every hour or so. The report is right
// also when there is an error: what it lists as done is committed. What is deferred or busy is no error.
func (p *Partitions) Maintain(ctx context.Context, now time.Time) (PartitionReport, error) {
	var report PartitionReport
	err := p.maintain(ctx, now.UTC(), &report)
	if errors.Is(err, errBusy) {
		report.Busy, err = true, nil
	}
	return report, err
}

func (p *Partitions) maintain(ctx context.Context, now time.Time, report *PartitionReport) error {
	var wanted []span
	var columns partitionColumns
	err := p.step(ctx, func(tx pgx.Tx) error {
		table, err := readPartitioned(ctx, tx, p.opts.Table)
		if err != nil || table.key == "" {
			report.Foreign = err == nil
			return err
		}
		if report.Keeper, err = keeperOf(ctx, tx, p.opts.Table); err != nil || report.Keeper != "" {
			report.Foreign = err == nil
			return err
		}
		columns, err = readColumns(ctx, tx, table)
		if err != nil {
			return err
		}
		wanted, err = p.wanted(ctx, tx, table, now)
		return err
	})
	if err != nil || report.Foreign {
		return err
	}
	// One partition that cannot be made, because its name is taken, say, must not keep the others from being made.
	var errs []error
	for _, s := range wanted {
		var moved int64
		name := ""
		err := p.step(ctx, func(tx pgx.Tx) (err error) {
			name, moved, err = p.create(ctx, tx, s, columns, now)
			return err
		})
		switch {
		case err == nil && name != "":
			report.Made = append(report.Made, name)
			report.Moved += moved
		case lockNotAvailable(err):
			report.Deferred = append(report.Deferred, name)
		case errors.Is(err, errBusy), ctx.Err() != nil:
			return errors.Join(append(errs, err)...)
		case err != nil:
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, p.retain(ctx, now, report))...)
}

// keeperOf returns pg_partman when its configuration names the table: it makes partitions, and drops them, by its own rules, and
// its names are like ours.
func keeperOf(ctx context.Context, tx pgx.Tx, table string) (string, error) {
	var config string
	err := tx.QueryRow(ctx, `
		SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'parent_table'
		WHERE c.relname = 'part_config' AND c.relkind = 'r' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') LIMIT 1`).Scan(&config)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	var kept bool
	if err == nil {
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+config+` WHERE parent_table = $1)`, table).Scan(&kept)
	}
	if err != nil || !kept {
		return "", err
	}
	return "pg_partman", nil
}

// step runs do in a transaction under the advisory lock.
func (p *Partitions) step(ctx context.Context, do func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		// Bounds are read and written as text. A long copy must not be cut off by a limit that is meant for queries.
		_, err := tx.Exec(ctx, `
			SELECT set_config('timezone', 'UTC', true), set_config('datestyle', 'ISO', true),
			       set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true)`,
			fmt.Sprintf("%dms", max(p.opts.LockTimeout.Milliseconds(), 1)))
		if err != nil {
			return fmt.Errorf("set up partition step: %w", err)
		}
		var locked bool
		err = tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(hashtextextended('relay partitions of ' || $1, 0))`,
			p.opts.Table).Scan(&locked)
		if err != nil {
			return fmt.Errorf("take partition lock: %w", err)
		}
		if !locked {
			return errBusy
		}
		return do(tx)
	})
}

// wanted lists what is to be made: first what writers use now and next, so that they leave the default partition, then
// the past that the default partition holds.
func (p *Partitions) wanted(ctx context.Context, tx pgx.Tx, table partitioned, now time.Time) ([]span, error) {
	var wanted []span
	first := now.Truncate(p.opts.Interval)
	end := now.Add(p.opts.Ahead)
	for lower := first; !lower.After(end); lower = lower.Add(p.opts.Interval) {
		wanted = append(wanted, table.gaps(span{lower, lower.Add(p.opts.Interval)})...)
	}
	if table.defaultLeaf == "" {
		return wanted, nil
	}
	// An empty default partition has no pages, so this costs nothing.
	rows, err := tx.Query(ctx, fmt.Sprintf(`
		SELECT DISTINCT date_bin($1::interval, %[1]s, '0001-01-01 00:00:00+00') AS bucket FROM ONLY %[2]s
		WHERE %[1]s >= '0001-01-01 00:00:00+00' AND %[1]s < $2 ORDER BY bucket LIMIT %[3]d`,
		quoted(table.key), table.defaultLeaf, mostBuckets), p.opts.Interval, first)
	if err != nil {
		return nil, fmt.Errorf("look into default partition: %w", err)
	}
	buckets, err := pgx.CollectRows(rows, pgx.RowTo[time.Time])
	if err != nil {
		return nil, fmt.Errorf("look into default partition: %w", err)
	}
	for _, lower := range buckets {
		lower = lower.UTC()
		wanted = append(wanted, table.gaps(span{lower, lower.Add(p.opts.Interval)})...)
	}
	return wanted, nil
}

// create makes the partition for s, which takes the rows of its time from the default partition. Another instance may
// have made it since it was wanted: then there is no name.
func (p *Partitions) create(
	ctx context.Context, tx pgx.Tx, s span, columns partitionColumns, now time.Time,
) (name string, moved int64, err error) {
	table, err := readPartitioned(ctx, tx, p.opts.Table)
	if err != nil {
		return "", 0, err
	}
	if left := table.gaps(s); len(left) != 1 || left[0] != s {
		return "", 0, nil
	}
	name = table.partitionName(s)
	root, leaf, key := quoted(table.schema, table.name), quoted(table.schema, name), quoted(table.key)
	// The check spares ATTACH from reading the whole partition under its locks.
	_, err = tx.Exec(ctx, fmt.Sprintf(`
		CREATE TABLE %[1]s (LIKE %[2]s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE
			INCLUDING COMPRESSION, CONSTRAINT relay_bounds CHECK (%[3]s IS NOT NULL AND %[3]s >= %[4]s AND %[3]s < %[5]s))`,
		leaf, root, key, literal(s.lower), literal(s.upper)))
	if err != nil {
		return name, 0, fmt.Errorf("create partition %s: %w", name, err)
	}

	// One statement, so that exactly the rows that are copied are deleted.
	move := ""
	if table.defaultLeaf != "" {
		move = fmt.Sprintf(`
			WITH moved AS (DELETE FROM ONLY %[1]s WHERE %[2]s >= %[3]s AND %[2]s < %[4]s RETURNING %[5]s)
			INSERT INTO %[6]s (%[5]s) OVERRIDING SYSTEM VALUE SELECT %[5]s FROM moved`,
			table.defaultLeaf, key, literal(s.lower), literal(s.upper), columns, leaf)
		tag, err := tx.Exec(ctx, move)
		if err != nil {
			return name, 0, fmt.Errorf("move rows to partition %s: %w", name, err)
		}
		moved = tag.RowsAffected()
	}

	// Up to here nobody waits for us. A writer that has chosen the default partition for its row, and finds after our
	// commit that it is no longer the right one, would fail: so where writers may be, they are stopped before they
	// choose, at the root, and the rows that came in meanwhile are moved too.
	live := moved > 0 || s.lower.Before(now.Add(liveMargin))
	var late int64
	err = retryLock(ctx, tx, func(tx pgx.Tx) error {
		late = 0
		if live {
			if _, err := tx.Exec(ctx, `LOCK TABLE ONLY `+root+` IN SHARE ROW EXCLUSIVE MODE`); err != nil {
				return fmt.Errorf("stop writers for partition %s: %w", name, err)
			}
			if move != "" {
				tag, err := tx.Exec(ctx, move)
				if err != nil {
					return fmt.Errorf("move late rows to partition %s: %w", name, err)
				}
				late = tag.RowsAffected()
			}
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%s) TO (%s)`,
			root, leaf, literal(s.lower), literal(s.upper)))
		if err != nil {
			return fmt.Errorf("attach partition %s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return name, 0, err
	}
	if _, err := tx.Exec(ctx, `ALTER TABLE `+leaf+` DROP CONSTRAINT relay_bounds`); err != nil {
		return name, 0, fmt.Errorf("finish partition %s: %w", name, err)
	}
	return name, moved + late, nil
}

// retain drops what is past retention and settled.
func (p *Partitions) retain(ctx context.Context, now time.Time, report *PartitionReport) error {
	if p.opts.Retention <= 0 || p.opts.Settled == nil {
		return nil
	}
	var old []partition
	err := p.step(ctx, func(tx pgx.Tx) error {
		table, err := readPartitioned(ctx, tx, p.opts.Table)
		if err != nil {
			return err
		}
		for _, part := range table.partitions {
			if part.ours && part.upper.Before(now.Add(-p.opts.Retention)) {
				old = append(old, part)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, part := range old {
		settled := false
		err := p.step(ctx, func(tx pgx.Tx) (err error) {
			settled, err = p.drop(ctx, tx, part)
			return err
		})
		switch {
		case err == nil && settled:
			report.Dropped = append(report.Dropped, part.name)
		case err == nil:
			report.Unsettled = append(report.Unsettled, part.name)
		case lockNotAvailable(err):
			report.Deferred = append(report.Deferred, part.name)
		case errors.Is(err, errBusy), ctx.Err() != nil:
			return errors.Join(append(errs, err)...)
		default:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// drop drops a partition if it is settled. From before the question until the end nobody can write to it: a row that
// came after the answer would be lost.
func (p *Partitions) drop(ctx context.Context, tx pgx.Tx, part partition) (bool, error) {
	leaf := quoted(part.schema, part.name)
	if _, err := tx.Exec(ctx, `LOCK TABLE `+leaf+` IN SHARE MODE`); err != nil {
		return false, fmt.Errorf("close partition %s: %w", part.name, err)
	}
	settled, err := p.opts.Settled(ctx, tx, leaf, part.upper)
	if err != nil {
		return false, fmt.Errorf("ask whether partition %s is settled: %w", part.name, err)
	}
	if !settled {
		return false, nil
	}
	err = retryLock(ctx, tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DROP TABLE `+leaf); err != nil {
			return fmt.Errorf("drop partition %s: %w", part.name, err)
		}
		return nil
	})
	return err == nil, err
}

// retryLock runs do in a savepoint until it gets its locks or has tried often enough. Each attempt lets go of what it
// got, so that writers come through in between.
func retryLock(ctx context.Context, tx pgx.Tx, do func(pgx.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := pgx.BeginFunc(ctx, tx, do)
		if !lockNotAvailable(err) || attempt == lockAttempts {
			return err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func lockNotAvailable(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "55P03"
}
