package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/daemon"
)

// proved waits until a marker proves all rows that are committed now.
func (s *stage) proved() {
	s.t.Helper()
	s.eventually("all rows are proved", func() bool {
		return s.text("SELECT count(*)::text FROM outbox.events, relay.progress WHERE NOT coalesce(pg_visible_in_snapshot(xid, marker), false)") == "0"
	})
}

func TestRescue_TellsWhatItWouldReadAndLeavesTheRequest(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.relay("rescue", "--dry-run").exits(exitFailed).complains("no relay has ever led with slot")
	recv := newReceiver(t, http.StatusOK)
	s.subscribe("acme", recv.URL)
	s.start()
	s.commit("acme", "inv_1")
	s.proved()
	s.relay("rescue", "--wait", "10s").exits(0).quiet().says("nothing to rescue: the relay streams")
	var g daemon.Gap
	s.relay("rescue", "--dry-run", "-o", "json").exits(0).quiet().decode(&g)
	if g.Fault != "" || g.Rows != 0 || g.MarkerAt == nil {
		t.Errorf("got %+v; want no fault and nothing to read", g)
	}
}

func TestRescue_IsAskedForAndWaitedFor(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set = append(s.set, "--set", "cdc.recovery=manual")
	recv := newReceiver(t, http.StatusOK)
	s.subscribe("acme", recv.URL)
	d := s.start()
	s.commit("acme", "inv_1")
	s.proved()
	slot := s.text("SELECT slot FROM relay.progress")
	s.eventually("the slot is dropped", func() bool {
		s.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active", slot)
		return s.text("SELECT count(pg_drop_replication_slot(slot_name))::text FROM pg_replication_slots WHERE slot_name = $1 AND NOT active", slot) == "1"
	})
	s.commit("acme", "inv_2")
	s.eventually("the relay says so", func() bool { return strings.Contains(d.Status().Detail, "relay rescue") })
	s.relay("rescue", "--dry-run").exits(0).quiet().says("fault", "does not exist", "would be read", "payment.received")
	s.relay("status").exits(exitUnhealthy).complains("relay rescue")
	s.relay("rescue", "--wait", "20s").exits(0).quiet().says("rescue", "does not exist", "1 delivered or parked")
	s.eventually("the row arrives", func() bool { types, _ := recv.got(); return len(types) == 2 })
	s.relay("status").exits(0).says("incident", "rescue of ", "ended, 1 rows sent")
}

func TestAudit_FindsADeliveryThatLeftNoTrace(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	recv := newReceiver(t, http.StatusOK)
	sub := s.subscribe("acme", recv.URL)
	s.exec("UPDATE relay.subscriptions SET created_at = now() - interval '1 hour'")
	s.start()
	s.commit("acme", "inv_1")
	s.commit("acme", "inv_2")
	s.commit("nobody", "inv_3")
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'x', 'y', 'x.y', '{}'),
		('acme', 'customer', 'c', 'customer.updated', '{"customer_id": "c", "customer_name": "n", "changes": {}}')`)
	s.eventually("two are recorded", func() bool { return s.text("SELECT count(*)::text FROM relay.deliveries") == "2" })
	s.proved()
	s.relay("audit").exits(0).quiet().says("committed")
	var r audit.Report
	s.relay("audit", "--from", "1h", "-o", "json").exits(0).quiet().decode(&r)
	if r.Committed != 5 || r.Deliveries != 2 || r.Recorded != 2 || r.Unmatched != 1 || r.Suppressed != 1 || r.NoEvents != 1 || r.Missing != 0 {
		t.Errorf("got %+v", r)
	}
	// Rules that are younger than the rows need not have met them.
	s.exec("UPDATE relay.subscriptions SET filter = '{\"a\": 1}'")
	s.exec("UPDATE relay.subscriptions SET filter = NULL")
	s.exec("DELETE FROM relay.deliveries WHERE aggregate_id = 'inv_1'")
	s.relay("audit", "--from", "1h", "-o", "json").exits(0).decode(&r)
	if r.Deliveries != 1 || r.Recorded != 1 || r.Missing != 0 {
		t.Errorf("got %+v after the rules changed", r)
	}
	s.exec("UPDATE relay.subscriptions SET rules_since = NULL")
	s.exec("DELETE FROM outbox.events WHERE aggregate_id = 'inv_1'")
	lost := s.text("DELETE FROM relay.deliveries WHERE aggregate_id = 'inv_2' RETURNING event_id::text")
	s.relay("audit", "--from", "1h").exits(exitUnhealthy).says(lost, sub).complains("1 deliveries are missing")
	s.relay("audit", "--from", "1h", "--set", "deliver.log=none").exits(0).says("proved without record")
	s.relay("audit", "--from", "2h", "--to", "1h", "-o", "json").exits(0).decode(&r)
	if r.Committed != 0 {
		t.Errorf("got %+v for a window before all rows", r)
	}
	for _, bad := range [][]string{{"--from", "yesterday"}, {"--from", "1h", "--to", "2h"}, {"--to", "-1h"}} {
		if got := s.relay(append([]string{"audit"}, bad...)...); got.code != exitUsage {
			t.Errorf("%s: exit code %d, want %d", strings.Join(bad, " "), got.code, exitUsage)
		}
	}
}
