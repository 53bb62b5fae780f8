package daemon_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
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
	r.exec("ALTER PUBLICATION relay DROP TABLE outbox.events")
	r.orders(10, 15)
	r.exec("ALTER PUBLICATION relay ADD TABLE outbox.events")
	r.orders(15, 25)
	defer func() {
		t.Log(r.text("SELECT marker::text || ' ' || marker_lsn || ' ' || marker_at FROM relay.progress"), r.text("SELECT string_agg(xid::text, ' ') FROM outbox.events"), len(rec.arrivals()))
	}()
	r.eventually("all arrive", func() bool { return len(rec.arrivals()) >= 25 })
	r.audited(d)
	if n := d.metric(t, "relay_audit_missing_total"); n != 5 {
		t.Errorf("the audit missed %d rows, want 5", n)
	}
	for _, id := range strings.Fields(r.text("SELECT string_agg(id::text, ' ') FROM outbox.events WHERE payload ->> 'order_number' IN ('10', '11', '12', '13', '14')")) {
		if !strings.Contains(d.log.String(), id) {
			t.Errorf("the log does not name %s", id)
		}
	}
	d.stop()
	if n := r.mustHaveEach(rec, 25); n != 0 {
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
