package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestAudit_FindsNothingMissingUnderLoadAndRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "sales_order.*")
	var writers sync.WaitGroup
	const each = 400
	for w := range 4 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			conn, err := pgx.Connect(context.Background(), r.url)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.Background())
			for i := range each {
				// Long and short transactions, savepoints, rollbacks, a type nobody wants, and one that is no event.
				sql := fmt.Sprintf(`BEGIN;
					INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'w%d', 'sales_order.confirmed',
						json_build_object('order_id', 'w%[1]d', 'order_number', '%[2]d', 'amount', '1', 'currency', 'EUR'));
					SAVEPOINT a;
					INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'x', 'y', 'z', '{}');
					%[3]s;
					SELECT pg_sleep(%[4]f);
					%[5]s`, w, i, []string{"ROLLBACK TO a", "RELEASE a"}[i%2], float64(i%20)/1000, []string{"COMMIT", "COMMIT", "ROLLBACK"}[i%3])
				if _, err := conn.Exec(context.Background(), sql); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	d := r.start()
	for range 4 {
		n := len(rec.arrivals())
		r.eventually("some arrive", func() bool { return len(rec.arrivals()) >= min(n+150, 4*each*2/3-50) })
		if n := d.metric(t, "relay_audit_missing_total"); n != 0 {
			t.Errorf("the audit missed %d rows", n)
		}
		d.stop()
		d = r.start()
	}
	writers.Wait()
	r.audited(d)
	if n := d.metric(t, "relay_audit_missing_total") + d.metric(t, "relay_audit_vanished_total"); n != 0 {
		t.Errorf("%d rows are missing or vanished", n)
	}
	if n := r.number(`SELECT count(*) FROM outbox.events, relay.progress WHERE NOT pg_visible_in_snapshot(xid, marker)`); n != 0 {
		t.Errorf("%d rows are not shown by the last marker", n)
	}
	if n := r.number("SELECT count(*) FROM relay.incidents"); n != 0 {
		t.Errorf("%d incidents: %s", n, r.text("SELECT string_agg(detail, '; ') FROM relay.incidents"))
	}
}

func TestAudit_DeliversWhatThePublicationHidWhileRunning(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 10)
	// The relay, which looks as it begins and every ten seconds, may put the table back too soon. Then once more.
	next, mended := 10, true
	for mended {
		r.exec("ALTER PUBLICATION relay DROP TABLE outbox.events")
		r.orders(next, next+5)
		next += 5
		_, err := r.conn.Exec(t.Context(), "ALTER PUBLICATION relay ADD TABLE outbox.events")
		var pg *pgconn.PgError
		mended = errors.As(err, &pg) && pg.Code == "42710" // is a member
		if err != nil && !mended {
			t.Fatal(err)
		}
	}
	hidden := strings.Fields(r.text("SELECT string_agg(id::text, ' ') FROM outbox.events WHERE (payload ->> 'order_number')::int >= $1", next-5))
	r.orders(next, next+10)
	next += 10
	defer func() {
		t.Log(r.text("SELECT marker::text || ' ' || marker_lsn || ' ' || marker_at FROM relay.progress"), r.text("SELECT string_agg(xid::text, ' ') FROM outbox.events"), len(rec.arrivals()))
	}()
	r.eventually("all arrive", func() bool { return len(rec.arrivals()) >= next })
	r.audited(d)
	if n := d.metric(t, "relay_audit_missing_total"); n < 5 || n > next-20 {
		t.Errorf("the audit missed %d rows, want 5 to %d", n, next-20)
	}
	if len(hidden) != 5 {
		t.Errorf("%d rows were hidden at last, want 5", len(hidden))
	}
	for _, id := range hidden {
		if !strings.Contains(d.log.String(), id) {
			t.Errorf("the log does not name %s", id)
		}
	}
	d.stop()
	if n := r.mustHaveEach(rec, next); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
}

func TestAudit_TakesNoMarkerOfOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 5)
	for range 5 {
		r.exec("SELECT pg_logical_emit_message(true, 'relay.marker', 'forged')")
		r.exec("SELECT pg_logical_emit_message(true, 'relay.marker', '')")
	}
	r.orders(5, 10)
	r.audited(d)
	if n := d.metric(t, "relay_audit_missing_total"); n != 0 || d.metric(t, "relay_audit_rows_total") < 10 {
		t.Errorf("%d rows missing, %d compared", n, d.metric(t, "relay_audit_rows_total"))
	}
	r.eventually("all arrive", func() bool { return len(rec.arrivals()) == 10 })
	d.stop()
}

// A relay that was away for long has more to read than the audit keeps, before its first marker
// comes. What somebody has hidden from the stream meanwhile is missed all the same, by what
// is on record.
func TestAudit_MissesWhatWasHiddenAlsoWhenMoreCameThanItKeeps(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	r.keep = 50
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 20)
	r.eventually("the first rows arrive", func() bool { return len(rec.arrivals()) == 20 })
	r.audited(d)
	d.stop()
	r.orders(20, 25)
	r.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", r.slot())
	r.orders(25, 225)
	d = r.start()
	r.eventually("all arrive", func() bool { return len(rec.orderNumbers(t)) == 225 })
	r.audited(d)
	if n := d.metric(t, "relay_audit_missing_total"); n != 5 {
		t.Errorf("the audit missed %d rows, want 5", n)
	}
	d.stop()
	if n := r.mustHaveEach(rec, 225); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
}

// accounted is how many transactions are on record since the last marker.
func (r *rig) accounted() int {
	r.t.Helper()
	return r.number("SELECT coalesce(sum(length(entries)), 0) / 28 FROM relay.accounted")
}

// While the rows cannot be audited no marker trims the record of transactions.
func TestAudit_BoundsTheRecordOfTransactionsThatItCannotProve(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	r.keep = 50
	r.exec("ALTER TABLE outbox.events ALTER xid DROP NOT NULL")
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, xid) VALUES ('acme', 'x', 'y', 'z', '{}', NULL)`)
	r.eventually("it says that there is no audit", func() bool { return strings.Contains(d.log.String(), "no audit and no rescue") })
	r.orders(0, 200)
	r.eventually("all arrive", func() bool { return len(rec.orderNumbers(t)) == 200 })
	r.eventually("it is an incident", func() bool {
		return strings.Contains(r.text("SELECT coalesce(string_agg(kind || ': ' || detail, '; '), 'nothing') FROM relay.incidents"), "more came")
	})
	r.eventually("the record is trimmed", func() bool { return r.accounted() < 100 })
	d.stop()
}

// Rows with ids that the server has not given out are shown by no snapshot for a long time, and
// would stand in the record of transactions as long, written anew with each marker.
func TestAudit_KeepsFewTransactionsThatNoSnapshotShows(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "sales_order.*")
	d := r.start()
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload, xid)
		SELECT 'acme', 'x', 'y', 'z', '{}', (4000000000 + n)::text::xid8 FROM generate_series(1, 3000) n`)
	r.orders(0, 10)
	for range 3 {
		r.orders(10, 11)
		r.audited(d)
	}
	if n := r.accounted(); n > 1100 {
		t.Errorf("%d transactions stay on record", n)
	}
	if !strings.Contains(d.log.String(), "transaction ids that this server has not given out") {
		t.Error("the log does not tell of them")
	}
	if n := d.metric(t, "relay_audit_missing_total") + d.metric(t, "relay_audit_vanished_total"); n != 0 {
		t.Errorf("%d rows are missing or vanished", n)
	}
	d.stop()
}
