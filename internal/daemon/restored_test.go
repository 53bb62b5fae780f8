package daemon_test

import (
	"strings"
	"testing"
)

// A dump was loaded into a cluster that had given out fewer transaction ids than the
// marker in it knows of. Rows that got ids of the new cluster lie below the marker, also
// when the cluster has passed it since.
func TestRescue_OfADumpReadsRowsBelowItsMarker(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 5)
	r.eventually("rows arrive", func() bool { return len(rec.arrivals()) == 5 })
	r.audited(d)
	d.stop()
	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.exec(`UPDATE relay.progress SET system_id = '1', marker = (SELECT ((x::text)::bigint + 500)::text || ':' || ((x::text)::bigint + 500)::text || ':' FROM pg_current_xact_id() x)::pg_snapshot`)
	r.orders(5, 10)
	for r.number("SELECT (pg_snapshot_xmax(pg_current_snapshot()) > pg_snapshot_xmax(marker))::int FROM relay.progress") == 0 {
		r.exec("SELECT pg_current_xact_id()")
	}
	d = r.launch()
	r.eventually("it refuses the server", func() bool { return d.Status().State == "wrong_server" })
	r.exec("INSERT INTO relay.requests (kind, target) VALUES ('rescue', $1)", r.slot())
	r.eventually("all arrive", func() bool { return len(rec.orderNumbers(t)) == 10 })
	d.stop()
}

// Nobody can tell whether rows with transaction ids that are still to come are new. No
// snapshot shows them, so they would be passed over.
func TestFirstStart_RefusesRowsOfAnotherCluster(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	r.orders(0, 5)
	r.exec("UPDATE outbox.events SET xid = '4000000000' WHERE payload ->> 'order_number' IN ('3', '4')")
	d := r.launch()
	r.eventually("it says what is to be done", func() bool {
		s := d.Status()
		return s.State == "misconfigured" && strings.Contains(s.Detail, "2 rows") && strings.Contains(s.Detail, "SET xid = DEFAULT")
	})
	_, statement, _ := strings.Cut(d.Status().Detail, "UPDATE ")
	r.exec("UPDATE " + statement)
	r.eventually("all arrive", func() bool { return len(rec.orderNumbers(t)) == 5 })
	r.audited(d)
	d.stop()
	if n := r.mustHaveEach(rec, 5); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
}
