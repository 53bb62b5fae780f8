package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/outbox"
)

func TestRetention_KeepsAPartitionThatAReplayHasStillToRead(t *testing.T) {
	t.Parallel()
	url := migratetest.NewDatabase(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	var log bytes.Buffer
	l := &leader{}
	l.audited.Store(math.MaxUint64) // the stream is past everything, and proved
	d := &Daemon{log: slog.New(slog.NewTextHandler(&log, nil))}
	d.current.Store(l)
	keeper := &retentionKeeper{d: d, seen: make(map[string]cdc.LSN), told: make(map[string]bool)}
	p := outbox.NewPartitions(pool, outbox.PartitionOptions{Interval: 24 * time.Hour, Retention: 24 * time.Hour, Settled: keeper.settled})
	maintain := func() outbox.PartitionReport {
		t.Helper()
		report, err := p.Maintain(t.Context(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	day := time.Now().UTC().Truncate(24 * time.Hour)
	ten, five := day.Add(-10*24*time.Hour), day.Add(-5*24*time.Hour)
	for _, at := range []time.Time{ten, five} {
		exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, created_at)
			VALUES ('acme', 'sales_order', 'o1', 'sales_order.confirmed', '{}', $1)`, at.Add(time.Hour))
	}
	exec(`INSERT INTO relay.replays (subscription_id, tenant_id, events, spec, from_at, to_at, rate, total)
		VALUES (gen_random_uuid(), 'acme', '{}', '6 days', $1, now(), 1, 1)`, five.Add(-24*time.Hour))
	name := func(at time.Time) string { return fmt.Sprintf("events_p%s", at.Format("20060102")) }
	maintain()
	report := maintain()
	if !slices.Equal(report.Dropped, []string{name(ten)}) || !slices.Equal(report.Unsettled, []string{name(five)}) {
		t.Fatalf("%+v: want the older one dropped and the other one kept", report)
	}
	if report = maintain(); len(report.Dropped) > 0 {
		t.Fatalf("%+v: dropped under a replay", report)
	}
	if n := strings.Count(log.String(), "kept for a replay"); n != 1 {
		t.Errorf("it was said %d times, want once:\n%s", n, log.String())
	}
	exec("UPDATE relay.replays SET read_all = true")
	if report = maintain(); !slices.Equal(report.Dropped, []string{name(five)}) {
		t.Errorf("%+v: want it dropped when all is read", report)
	}
}

// Records go by the time of their end, one by one where a partition has others.
func TestRetention_RecordsGoByTheTimeOfTheirEnd(t *testing.T) {
	t.Parallel()
	url := migratetest.NewDatabase(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const day = 24 * time.Hour
	keeper := &recordKeeper{keep: 30 * day}
	p := outbox.NewPartitions(pool, outbox.PartitionOptions{Table: "relay.deliveries", Interval: day, Ahead: 3 * day, Retention: 30 * day, Settled: keeper.ended})
	now := time.Now()
	add := func(name string, committed, ended time.Time) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), `INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type,
			aggregate_id, commit_lsn, row_index, status, attempts, ended_at) VALUES (gen_random_uuid(), $2, 'acme', gen_random_uuid(), gen_random_uuid(),
			'e', 'a', $1, '0/1', 0, 'DEAD', 1, $3)`, name, committed, ended); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	add("old, ended now", old, now)
	add("old, ended then", old, now.Add(-40*day))
	add("long ago, ended then", now.Add(-50*day), now.Add(-49*day))
	add("long ago, ended now", now.Add(-60*day), now)
	add("future, ended now", now.Add(5000*day), now)
	add("future, ended then", now.Add(5000*day), now.Add(-40*day))
	for range 2 {
		if _, err := p.Maintain(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if err := keeper.deleteUndated(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
	}
	var left string
	if err := pool.QueryRow(t.Context(), "SELECT string_agg(aggregate_id, '; ' ORDER BY aggregate_id) FROM relay.deliveries").Scan(&left); err != nil {
		t.Fatal(err)
	}
	if want := "future, ended now; long ago, ended now; old, ended now"; left != want {
		t.Errorf("left: %s; want: %s", left, want)
	}
}
