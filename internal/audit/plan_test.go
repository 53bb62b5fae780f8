package audit

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/outbox"
)

// readPages is how many pages of the default partition have been read so far.
func (f *fixture) readPages() (n int) {
	f.t.Helper()
	for _, sql := range []string{"SELECT pg_stat_force_next_flush()", "SELECT pg_stat_clear_snapshot()"} {
		if _, err := f.conn.Exec(f.t.Context(), sql); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := f.conn.QueryRow(f.t.Context(), `SELECT heap_blks_read + heap_blks_hit FROM pg_statio_user_tables
		WHERE relid = 'outbox.events_default'::regclass`).Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.conn.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// fill writes so much into the table that a narrow window is a small part of it.
func (f *fixture) fill() (pages int) {
	f.t.Helper()
	for range 20 {
		f.write(5_000, 0)
	}
	f.exec("SELECT brin_summarize_new_values(indexrelid) FROM pg_stat_user_indexes WHERE relname = 'events_default'")
	if err := f.conn.QueryRow(f.t.Context(), "SELECT pg_relation_size('outbox.events_default') / 8192").Scan(&pages); err != nil {
		f.t.Fatal(err)
	}
	return pages
}

// readsInPart fills the table, and sees that a narrow window is compared by reading at most one page in so many.
func (f *fixture) readsInPart(oneIn int) {
	f.t.Helper()
	pages := f.fill()
	f.compare()
	f.write(10, 0)
	before := f.readPages()
	if res := f.compare(); res.Rows != 10 || len(res.Missing) != 0 {
		f.t.Fatalf("%+v; want 10 rows in order", res)
	}
	if read := f.readPages() - before; read > pages/oneIn {
		f.t.Errorf("a window of 10 rows reads %d of %d pages", read, pages)
	}
}

// A plan that PostgreSQL has kept from when the table was small knows one bound of the window
// alone, and reads everything below it.
func TestCompare_ReadsANarrowWindowInPartHoweverOftenItHasRun(t *testing.T) {
	t.Parallel()
	f := newLoneFixture(t)
	f.exec("ALTER TABLE outbox.events_default SET (autovacuum_enabled = false)")
	for range 20 {
		f.compare()
	}
	f.readsInPart(4)
}

// Somebody's transaction stays open for hours. Nothing that ended since may be read by each audit
// again: a snapshot's lower bound stands where that one began, and what it does not show are
// those that run, and those to come.
func TestCompare_ReadsANarrowWindowInPartWhileATransactionStaysOpen(t *testing.T) {
	t.Parallel()
	f := newLoneFixture(t)
	f.exec("ALTER TABLE outbox.events_default SET (autovacuum_enabled = false)")
	other := f.connect()
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), insert, 1); err != nil {
		t.Fatal(err)
	}
	f.readsInPart(2)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := f.compare(); res.Rows != 1 || len(res.Missing) != 1 {
		t.Errorf("%+v; want the row of the open transaction, which did not come", res)
	}
}

// What is on record of the transactions since a marker is compared with the table when the
// Journal had to forget them.
func TestCompareRecorded_FindsWhatDiffersFromTheRecord(t *testing.T) {
	t.Parallel()
	f := newLoneFixture(t)
	f.exec("ALTER TABLE outbox.events_default SET (autovacuum_enabled = false)")
	const slot = "s"
	record := func(list ...cdc.Tally) {
		f.exec("INSERT INTO relay.accounted (slot, max_lsn, entries) VALUES ($1, '0/1', $2)", slot, cdc.AppendTallies(nil, list))
	}
	tally := func(n, hidden int) cdc.Tally {
		xid, ids := f.write(n, hidden)
		s := cdc.Tally{Commit: f.lsn, XID: xid, Rows: uint32(n - hidden)}
		for _, id := range ids[hidden:] {
			s.Sum += cdc.Fingerprint(id)
		}
		return s
	}
	pages := f.fill()
	from := f.snapshot()
	whole, part, gone, turns := tally(3, 0), tally(4, 1), tally(2, 0), tally(5, 0)
	forgotten, _ := f.write(6, 0)
	record(whole, part)
	record(whole) // an entry may stand there twice
	half := turns
	half.Rows, half.Sum = 2, half.Sum-12345
	rest := cdc.Tally{Commit: turns.Commit, XID: turns.XID, Rows: 3, Sum: 12345}
	record(gone, half, rest) // several of one transaction
	record(cdc.Tally{Commit: 7, XID: 4_000_000_000, Rows: 1, Sum: ^uint64(0)})
	f.exec("INSERT INTO relay.accounted (slot, max_lsn, entries) VALUES ('other', '0/1', $1)", cdc.AppendTallies(nil, []cdc.Tally{{Commit: 1, XID: forgotten, Rows: 6}}))
	f.exec("DELETE FROM outbox.events WHERE xid = $1::text::xid8 AND id = (SELECT min(id::text)::uuid FROM outbox.events WHERE xid = $1::text::xid8)", strconv.FormatUint(gone.XID, 10))
	before := f.readPages()
	res, err := events.CompareRecorded(t.Context(), f.conn, slot, from, f.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	if read := f.readPages() - before; read > pages/2 {
		t.Errorf("it reads %d pages of %d", read, pages)
	}
	var got []uint64
	for _, g := range res.Missing {
		got = append(got, g.XID)
	}
	slices.Sort(got)
	if want := []uint64{part.XID, gone.XID, forgotten}; res.Rows != 19 || !slices.Equal(got, want) {
		t.Errorf("%d rows, transactions %v differ; want 19 and %v", res.Rows, got, want)
	}
}

// A report about a day reads the partitions of that day, and the deliveries from then on.
func TestMakeReport_FindsRecordsByIDsThatAreText(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const id = "01890000-0000-7000-8000-000000000001"
	f.exec("ALTER TABLE outbox.events ALTER id DROP DEFAULT, ALTER id TYPE text USING id::text")
	f.exec(`INSERT INTO outbox.events (id, tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES
		('` + id + `', 'acme', 'order', '1', 'payment.failed', '{"payment_id": "1", "invoice_id": "1", "amount": "1", "currency": "EUR"}')`)
	f.exec(`WITH s AS (INSERT INTO relay.subscriptions (tenant_id, url, events, secret, created_at)
			VALUES ('acme', 'https://a.test/', '{*}', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', now() - interval '1 day') RETURNING id)
		INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id,
			commit_lsn, row_index, status, attempts, ended_at)
		SELECT gen_random_uuid(), now(), 'acme', id, '` + id + `', 'payment.failed', 'order', '1', '0/1', 0, 'DELIVERED', 1, now() FROM s`)
	f.exec("INSERT INTO relay.progress (slot, system_id, timeline, end_lsn, marker) VALUES ('s', 'sys', 1, '0/1', pg_current_snapshot())")
	catalog, err := outbox.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	rep, err := MakeReport(t.Context(), f.conn, ReportOptions{Slot: "s", From: now.Add(-time.Hour), To: now.Add(time.Hour), Records: true,
		Mapping: outbox.MappingOptions{Table: "outbox.events", Columns: outbox.DefaultColumns()}, Catalog: catalog})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Committed != 1 || rep.Recorded != 1 || rep.Missing != 0 {
		t.Errorf("%+v; want one row whose delivery is recorded", rep)
	}
}

func TestMakeReport_ReadsThePartitionsOfItsWindowAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	day := func(n int) string { return time.Now().UTC().AddDate(0, 0, n).Format(time.DateOnly) }
	for i, name := range []string{"d0", "d1", "d2", "d3"} {
		for _, table := range []string{"outbox.events", "relay.deliveries"} {
			f.exec("CREATE TABLE " + table + "_" + name + " PARTITION OF " + table + " FOR VALUES FROM ('" + day(i-4) + "') TO ('" + day(i-3) + "')")
		}
		f.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, created_at)
			SELECT 'acme', 'a', 'b', 'c', '{}', $1::text::timestamptz + interval '1 hour' FROM generate_series(1, 100)`, day(i-4))
	}
	catalog, err := outbox.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	from, err := time.Parse(time.DateOnly, day(-2))
	if err != nil {
		t.Fatal(err)
	}
	read := func() []string {
		rows, err := f.conn.Query(t.Context(), "SELECT relname::text FROM pg_stat_user_tables WHERE seq_scan + coalesce(idx_scan, 0) > 0 ORDER BY 1")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var list []string
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name, "events_") || strings.HasPrefix(name, "deliveries_") {
				list = append(list, name)
			}
		}
		return list
	}
	reader := f.connect()
	if f.exec("SELECT pg_stat_reset()"); len(read()) != 0 {
		t.Fatalf("%v are read already", read())
	}
	rep, err := MakeReport(t.Context(), reader, ReportOptions{Slot: "s", From: from, To: from.Add(24 * time.Hour),
		Mapping: outbox.MappingOptions{Table: "outbox.events", Columns: outbox.DefaultColumns()}, Catalog: catalog})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Committed != 100 {
		t.Errorf("%d rows in the report, want the 100 of that day", rep.Committed)
	}
	_ = reader.Close(context.Background()) // and with it, what it has read is counted
	deadline := time.Now().Add(10 * time.Second)
	for !slices.Contains(read(), "events_d2") {
		if time.Now().After(deadline) {
			t.Fatalf("%v are read", read())
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, name := range []string{"events_d0", "events_d1", "events_d3", "deliveries_d0"} {
		if slices.Contains(read(), name) {
			t.Errorf("%s is read for a day that it has nothing of", name)
		}
	}
}
