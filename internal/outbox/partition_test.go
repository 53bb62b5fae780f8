package outbox_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/outbox"
)

// noon is the time of most passes here.
var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func partitionContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(partitionContext(t), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// mustOutbox makes a database with the outbox, and says in which time zone its sessions live: none of this may depend
// on it.
func mustOutbox(t *testing.T) *pgxpool.Pool {
	t.Helper()
	url := migratetest.NewDatabase(t)
	admin := mustPool(t, url)
	name := pgx.Identifier{admin.Config().ConnConfig.Database}.Sanitize()
	mustRun(t, admin, `ALTER DATABASE `+name+` SET timezone = 'Asia/Tokyo'`)
	mustRun(t, admin, `ALTER DATABASE `+name+` SET datestyle = 'German'`)
	admin.Close()
	return mustPool(t, url)
}

func mustRun(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(partitionContext(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func mustList(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) []string {
	t.Helper()
	rows, err := pool.Query(partitionContext(t), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return list
}

const insertAt = `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, created_at)
	VALUES ('t1', 'payment', $1, 'payment.received', '{"amount": 1500.00}', $2)`

// leaves lists where each row lies, by its aggregate id.
const leaves = `SELECT aggregate_id || ' ' || tableoid::regclass::text FROM outbox.events ORDER BY aggregate_id`

func mustMaintain(t *testing.T, p *outbox.Partitions, now time.Time) outbox.PartitionReport {
	t.Helper()
	report, err := p.Maintain(partitionContext(t), now)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func settled(context.Context, pgx.Tx, string, time.Time) (bool, error) { return true, nil }

func TestPartitions_AreMadeAhead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		opts  outbox.PartitionOptions
		now   time.Time
		want  []string
		bound string // of the last
	}{
		{"daily", outbox.PartitionOptions{Ahead: 48 * time.Hour}, noon,
			[]string{"events_p20260310", "events_p20260311", "events_p20260312"},
			"12.03.2026 00:00:00 to 13.03.2026 00:00:00"},
		{"daily, from another zone", outbox.PartitionOptions{Ahead: time.Hour}, noon.In(time.FixedZone("", -13*3600)),
			[]string{"events_p20260310"},
			"10.03.2026 00:00:00 to 11.03.2026 00:00:00"},
		{"hourly", outbox.PartitionOptions{Interval: time.Hour, Ahead: time.Hour}, noon.Add(11 * time.Hour),
			[]string{"events_p2026031023", "events_p2026031100"},
			"11.03.2026 00:00:00 to 11.03.2026 01:00:00"},
		{"every quarter of an hour", outbox.PartitionOptions{Interval: 15 * time.Minute, Ahead: 15 * time.Minute}, noon,
			[]string{"events_p2026031012", "events_p202603101215"},
			"10.03.2026 12:15:00 to 10.03.2026 12:30:00"},
		{"weekly, from Monday", outbox.PartitionOptions{Interval: 7 * 24 * time.Hour, Ahead: time.Hour}, noon,
			[]string{"events_p20260309"},
			"09.03.2026 00:00:00 to 16.03.2026 00:00:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := mustOutbox(t)
			p := outbox.NewPartitions(pool, c.opts)
			report := mustMaintain(t, p, c.now)
			if !slices.Equal(report.Made, c.want) || report.Moved != 0 || report.Foreign || report.Busy {
				t.Errorf("first pass %+v, want %v made", report, c.want)
			}
			got := mustList(t, pool, `
				SELECT (regexp_match(bound, 'FROM \(''(.*)''\) TO'))[1]::timestamptz AT TIME ZONE 'UTC' || ' to ' ||
				       (regexp_match(bound, 'TO \(''(.*)''\)'))[1]::timestamptz AT TIME ZONE 'UTC'
				FROM (SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = $1) AS p(bound)`,
				c.want[len(c.want)-1])
			if len(got) != 1 || got[0] != c.bound {
				t.Errorf("bounds %q, want %q", got, c.bound)
			}
			if again := mustMaintain(t, p, c.now); len(again.Made) != 0 {
				t.Errorf("second pass made %v", again.Made)
			}
		})
	}
}

func TestPartitions_FillWhatAnotherIntervalLeft(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	mustMaintain(t, outbox.NewPartitions(pool, outbox.PartitionOptions{Interval: time.Hour, Ahead: time.Hour}), noon)
	report := mustMaintain(t, outbox.NewPartitions(pool, outbox.PartitionOptions{Ahead: 24 * time.Hour}), noon)
	want := []string{"events_p2026031000", "events_p2026031014", "events_p20260311"}
	if !slices.Equal(report.Made, want) {
		t.Errorf("made %v, want %v", report.Made, want)
	}
	report = mustMaintain(t, outbox.NewPartitions(pool, outbox.PartitionOptions{Interval: time.Hour, Ahead: 36 * time.Hour}), noon)
	if want := []string{"events_p2026031200"}; !slices.Equal(report.Made, want) {
		t.Errorf("back to hours made %v, want %v", report.Made, want)
	}
}

func TestPartitions_TakeTheirRowsFromTheDefault(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	times := map[string]time.Time{
		"past": noon.AddDate(0, 0, -40), "yesterday": noon.AddDate(0, 0, -1), "midnight": noon.Truncate(24 * time.Hour),
		"now": noon, "tomorrow": noon.AddDate(0, 0, 1), "next year": noon.AddDate(1, 0, 0),
	}
	for id, at := range times {
		mustRun(t, pool, insertAt, id, at)
	}
	mustRun(t, pool, insertAt, "never", "infinity")
	mustRun(t, pool, insertAt, "before all", "-infinity")
	const content = `SELECT e::text || xid::text FROM outbox.events e ORDER BY id`
	before := mustList(t, pool, content)

	report := mustMaintain(t, outbox.NewPartitions(pool, outbox.PartitionOptions{Ahead: 24 * time.Hour}), noon)
	want := []string{"events_p20260310", "events_p20260311", "events_p20260129", "events_p20260309"}
	if !slices.Equal(report.Made, want) || report.Moved != 5 {
		t.Errorf("made %v and moved %d, want %v and 5", report.Made, report.Moved, want)
	}
	wantLeaves := []string{"before all outbox.events_default", "midnight outbox.events_p20260310",
		"never outbox.events_default", "next year outbox.events_default", "now outbox.events_p20260310",
		"past outbox.events_p20260129", "tomorrow outbox.events_p20260311", "yesterday outbox.events_p20260309"}
	if got := mustList(t, pool, leaves); !slices.Equal(got, wantLeaves) {
		t.Errorf("rows lie in\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(wantLeaves, "\n"))
	}
	if after := mustList(t, pool, content); !slices.Equal(before, after) {
		t.Errorf("rows were\n%s\nand are\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	// A partition is like what the root makes itself: defaults, and no constraint of ours left.
	if left := mustList(t, pool, `SELECT conname::text FROM pg_constraint WHERE conname = 'relay_bounds'`); len(left) > 0 {
		t.Errorf("constraints left: %v", left)
	}
	mustRun(t, pool, `INSERT INTO outbox.events_p20260310 (tenant_id, aggregate_type, aggregate_id, event_type, payload, created_at)
		VALUES ('t1', 'payment', 'direct', 'payment.received', '{}', $1)`, noon)
}

func TestPartitions_MovedRowsAreNotPublishedAgain(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	mustRun(t, pool, `CREATE PUBLICATION p FOR TABLE outbox.events WITH (publish = 'insert', publish_via_partition_root)`)
	slot := "s_" + pool.Config().ConnConfig.Database
	mustRun(t, pool, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	for i := range 50 {
		mustRun(t, pool, insertAt, fmt.Sprintf("default %d", i), noon.Add(-time.Duration(i)*time.Hour))
	}
	if got := len(published(t, pool, slot)); got != 50 {
		t.Fatalf("%d inserts published before the move, want 50", got)
	}
	report := mustMaintain(t, outbox.NewPartitions(pool, outbox.PartitionOptions{}), noon)
	if report.Moved != 50 || len(report.Made) < 9 {
		t.Fatalf("report %+v, want 50 moved", report)
	}
	if again := published(t, pool, slot); len(again) != 0 {
		t.Errorf("the move published %q", again)
	}
	// The new partitions are published as the root, today's and one made ahead.
	mustRun(t, pool, insertAt, "today", noon)
	mustRun(t, pool, insertAt, "ahead", noon.AddDate(0, 0, 2))
	if got := published(t, pool, slot); len(got) != 2 {
		t.Errorf("%d inserts published after the move, want 2: %q", len(got), got)
	}
	// Dropping publishes nothing either.
	drop := outbox.NewPartitions(pool, outbox.PartitionOptions{Retention: time.Hour, Settled: settled})
	if report := mustMaintain(t, drop, noon); len(report.Dropped) == 0 {
		t.Errorf("report %+v, want some dropped", report)
	}
	if got := published(t, pool, slot); len(got) != 0 {
		t.Errorf("the drop published %q", got)
	}
}

// published takes the Insert messages from the slot, and fails for any that is not of the root.
func published(t *testing.T, pool *pgxpool.Pool, slot string) [][]byte {
	t.Helper()
	rows, err := pool.Query(partitionContext(t), `
		SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'p')`, slot)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	var inserts [][]byte
	roots := map[uint32]bool{}
	for _, m := range messages {
		switch m[0] {
		case 'R':
			roots[binary.BigEndian.Uint32(m[1:])] = bytes.HasPrefix(m[5:], []byte("outbox\x00events\x00"))
		case 'I':
			inserts = append(inserts, m)
			if !roots[binary.BigEndian.Uint32(m[1:])] {
				t.Errorf("published under another name than the root's: %q", m)
			}
		case 'U', 'D', 'T':
			t.Errorf("published %q", m)
		}
	}
	return inserts
}

func TestPartitions_WritersNeverFailWhileTheirRowsAreMoved(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	const writers, each = 6, 120
	var group sync.WaitGroup
	errs := make([]error, writers)
	started := make(chan struct{}, writers*each)
	for w := range writers {
		group.Go(func() {
			for i := range each {
				// In and beside the days that partitions are made for, all in the default at first.
				at := noon.AddDate(0, 0, -(i % 6)).Add(time.Duration(i) * time.Second)
				if _, err := pool.Exec(context.Background(), insertAt, fmt.Sprintf("%d/%d", w, i), at); err != nil {
					errs[w] = errors.Join(errs[w], err)
				}
				started <- struct{}{}
			}
		})
	}
	for range writers * 5 {
		<-started
	}
	p := outbox.NewPartitions(pool, outbox.PartitionOptions{Ahead: time.Hour})
	report := mustMaintain(t, p, noon)
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("writers failed: %v", err)
	}
	if report.Moved == 0 || len(report.Deferred) > 0 {
		t.Errorf("report %+v, want rows moved and nothing deferred", report)
	}
	mustMaintain(t, p, noon)
	if n := mustList(t, pool, `SELECT count(*)::text FROM outbox.events`); n[0] != fmt.Sprint(writers*each) {
		t.Errorf("%s rows, want %d", n[0], writers*each)
	}
	if n := mustList(t, pool, `SELECT count(*)::text FROM outbox.events_default`); n[0] != "0" {
		t.Errorf("%s rows left in the default partition", n[0])
	}
}

func TestPartitions_GiveWayToAWriterThatStaysOpen(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	ctx := partitionContext(t)
	writer, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback(context.Background())
	if _, err := writer.Exec(ctx, insertAt, "open", noon); err != nil {
		t.Fatal(err)
	}
	p := outbox.NewPartitions(pool, outbox.PartitionOptions{Ahead: time.Hour, LockTimeout: 20 * time.Millisecond})
	report := mustMaintain(t, p, noon)
	if !slices.Equal(report.Deferred, []string{"events_p20260310"}) || len(report.Made) != 0 {
		t.Errorf("report %+v, want today's deferred", report)
	}
	mustRun(t, pool, insertAt, "beside it", noon)
	if err := writer.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	report = mustMaintain(t, p, noon)
	if !slices.Equal(report.Made, []string{"events_p20260310"}) || report.Moved != 2 {
		t.Errorf("report %+v, want today's made with 2 rows", report)
	}
}

func TestPartitions_DropWhatIsOldAndSettled(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	for n := -10; n <= 0; n++ {
		mustRun(t, pool, insertAt, fmt.Sprintf("day %d", n), day(n))
	}
	mustRun(t, pool, `CREATE TABLE outbox.archive PARTITION OF outbox.events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')`)
	keep := outbox.PartitionOptions{Ahead: time.Hour, Retention: 7 * 24 * time.Hour}
	report := mustMaintain(t, outbox.NewPartitions(pool, keep), noon)
	if len(report.Made) != 11 || len(report.Dropped) != 0 {
		t.Errorf("without a predicate: %+v, want 11 made and nothing dropped", report)
	}

	asked := map[string]time.Time{}
	keep.Settled = func(ctx context.Context, tx pgx.Tx, partition string, upper time.Time) (bool, error) {
		asked[partition] = upper
		var rows int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM `+partition).Scan(&rows); err != nil || rows != 1 {
			return false, fmt.Errorf("%d rows, %w", rows, err)
		}
		return partition != `"outbox"."events_p20260301"`, nil
	}
	report = mustMaintain(t, outbox.NewPartitions(pool, keep), noon)
	// The 3rd of March has ended on the 4th, seven days before are the 3rd at noon.
	if want := []string{"events_p20260228", "events_p20260302"}; !slices.Equal(report.Dropped, want) {
		t.Errorf("dropped %v, want %v", report.Dropped, want)
	}
	if want := []string{"events_p20260301"}; !slices.Equal(report.Unsettled, want) {
		t.Errorf("unsettled %v, want %v", report.Unsettled, want)
	}
	if upper := asked[`"outbox"."events_p20260302"`]; !upper.Equal(time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC)) || len(asked) != 3 {
		t.Errorf("asked about %v", asked)
	}
	if n := mustList(t, pool, `SELECT count(*)::text FROM outbox.events`); n[0] != "9" {
		t.Errorf("%s rows left, want 9", n[0])
	}

	broken := errors.New("no answer")
	keep.Settled = func(context.Context, pgx.Tx, string, time.Time) (bool, error) { return false, broken }
	report, err := outbox.NewPartitions(pool, keep).Maintain(partitionContext(t), noon)
	if !errors.Is(err, broken) || len(report.Dropped) != 0 {
		t.Errorf("predicate fails: %+v, %v", report, err)
	}
	keep.Settled, keep.Retention = settled, 0
	if report := mustMaintain(t, outbox.NewPartitions(pool, keep), noon); len(report.Dropped) != 0 {
		t.Errorf("without retention dropped %v", report.Dropped)
	}
}

func TestPartitions_RowsThatCameLateAreMovedAndThenDropped(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	mustRun(t, pool, insertAt, "old", noon.AddDate(0, -1, 0))
	p := outbox.NewPartitions(pool, outbox.PartitionOptions{Ahead: time.Hour, Retention: time.Hour, Settled: settled})
	report := mustMaintain(t, p, noon)
	if !slices.Equal(report.Dropped, []string{"events_p20260210"}) || report.Moved != 1 {
		t.Errorf("report %+v, want the old row moved and its partition dropped", report)
	}
}

func TestPartitions_InstancesDoNotGetInEachOthersWay(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	for i := range 30 {
		mustRun(t, pool, insertAt, fmt.Sprint(i), noon.AddDate(0, 0, -i%5))
	}
	var group sync.WaitGroup
	reports, errs := make([]outbox.PartitionReport, 4), make([]error, 4)
	for i := range reports {
		group.Go(func() {
			reports[i], errs[i] = outbox.NewPartitions(pool, outbox.PartitionOptions{}).Maintain(context.Background(), noon)
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	// Whoever was busy leaves it to a later pass.
	reports = append(reports, mustMaintain(t, outbox.NewPartitions(pool, outbox.PartitionOptions{}), noon))
	var made []string
	moved := int64(0)
	for _, r := range reports {
		made = append(made, r.Made...)
		moved += r.Moved
	}
	slices.Sort(made)
	if len(made) != 12 || len(slices.Compact(made)) != 12 || moved != 30 {
		t.Errorf("made %v and moved %d, want 12 partitions once and 30 rows", made, moved)
	}
}

func TestPartitions_ReportBusyWhileAnotherIsAtIt(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	tx, err := pool.Begin(partitionContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	_, err = tx.Exec(partitionContext(t), `SELECT pg_advisory_xact_lock(hashtextextended('relay partitions of outbox.events', 0))`)
	if err != nil {
		t.Fatal(err)
	}
	if report := mustMaintain(t, outbox.NewPartitions(pool, outbox.PartitionOptions{}), noon); !report.Busy || len(report.Made) > 0 {
		t.Errorf("report %+v, want busy", report)
	}
}

func TestPartitions_LeaveATableAloneThatIsNotPartitionedByTime(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	for table, ddl := range map[string]string{
		"public.plain":     `CREATE TABLE plain (created_at timestamptz)`,
		"public.by_list":   `CREATE TABLE by_list (created_at timestamptz) PARTITION BY LIST (created_at)`,
		"public.by_number": `CREATE TABLE by_number (id bigint) PARTITION BY RANGE (id)`,
		"public.by_two":    `CREATE TABLE by_two (created_at timestamptz, id int) PARTITION BY RANGE (created_at, id)`,
	} {
		mustRun(t, pool, ddl)
		p := outbox.NewPartitions(pool, outbox.PartitionOptions{Table: table, Retention: time.Nanosecond, Settled: settled})
		if report := mustMaintain(t, p, noon); !report.Foreign || len(report.Made) > 0 {
			t.Errorf("%s: report %+v, want foreign", table, report)
		}
	}
	p := outbox.NewPartitions(pool, outbox.PartitionOptions{Table: "outbox.nothing"})
	if _, err := p.Maintain(partitionContext(t), noon); err == nil || !strings.Contains(err.Error(), "outbox.nothing does not exist") {
		t.Errorf("missing table: %v", err)
	}
}

func TestPartitions_ServeOtherTablesToo(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	mustRun(t, pool, `CREATE SCHEMA "Odd"`)
	mustRun(t, pool, `CREATE TABLE "Odd"."My Log" (
		gone text, n bigint GENERATED ALWAYS AS IDENTITY, "At" timestamptz, twice bigint GENERATED ALWAYS AS (w * 2) STORED,
		w bigint CHECK (w > 0), PRIMARY KEY (n, "At")) PARTITION BY RANGE ("At")`)
	mustRun(t, pool, `ALTER TABLE "Odd"."My Log" DROP COLUMN gone`)
	mustRun(t, pool, `CREATE TABLE "Odd".rest PARTITION OF "Odd"."My Log" DEFAULT`)
	mustRun(t, pool, `INSERT INTO "Odd"."My Log" ("At", w) VALUES ($1, 21)`, noon)
	p := outbox.NewPartitions(pool, outbox.PartitionOptions{Table: `"Odd"."My Log"`, Ahead: time.Hour})
	report := mustMaintain(t, p, noon)
	if !slices.Equal(report.Made, []string{"My Log_p20260310"}) || report.Moved != 1 {
		t.Errorf("report %+v", report)
	}
	got := mustList(t, pool, `SELECT n || ' ' || twice FROM ONLY "Odd"."My Log_p20260310"`)
	if !slices.Equal(got, []string{"1 42"}) {
		t.Errorf("row is %q, want 1 42", got)
	}
}

func TestPartitions_OneThatCannotBeMadeKeepsNoOtherBack(t *testing.T) {
	t.Parallel()
	pool := mustOutbox(t)
	mustRun(t, pool, `CREATE TABLE outbox.events_p20260311 (mine int)`)
	mustRun(t, pool, insertAt, "today", noon)
	report, err := outbox.NewPartitions(pool, outbox.PartitionOptions{Ahead: 48 * time.Hour}).Maintain(partitionContext(t), noon)
	if err == nil || !strings.Contains(err.Error(), "events_p20260311") {
		t.Errorf("error %v, want one that names the partition", err)
	}
	if want := []string{"events_p20260310", "events_p20260312"}; !slices.Equal(report.Made, want) || report.Moved != 1 {
		t.Errorf("report %+v, want %v made", report, want)
	}
}
