package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/daemon"
)

func TestIdentity_IsMovedOnPurposeAndReadsWhatIsNotOnRecord(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	recv := newReceiver(t, http.StatusOK)
	s.subscribe("acme", recv.URL)
	s.relay("identity", "move", "--yes").exits(exitFailed).complains("no relay has led on this database")
	s.start()
	s.commit("acme", "inv_1")
	s.proved()
	s.relay("identity", "show").exits(0).quiet().says("recorded", "outbox.events")
	s.relay("identity", "move", "--yes").exits(exitFailed).complains("nothing to move")

	// The new table has a copy of what is delivered, and a row that nobody has seen.
	s.exec("CREATE TABLE public.messages (LIKE outbox.events INCLUDING ALL)")
	s.exec("INSERT INTO public.messages SELECT * FROM outbox.events")
	s.exec("INSERT INTO public.messages (tenant_id, aggregate_type, aggregate_id, event_type, payload) SELECT tenant_id, aggregate_type, aggregate_id, event_type, payload FROM outbox.events")
	settings := s.set
	s.set = append(append([]string(nil), settings...), "--set", "outbox.table=public.messages")
	r := s.relay("identity", "show", "-o", "json").exits(exitUnhealthy).complains("outbox.events", "public.messages", "relay identity move")
	var report daemon.IdentityReport
	r.decode(&report)
	if report.Matches || report.Recorded == nil || report.Recorded.Table != "outbox.events" || report.Configured.Table != "public.messages" {
		t.Errorf("got %+v", report)
	}
	for _, words := range [][]string{{"rescue", "--dry-run"}, {"rescue"}, {"audit"}} {
		s.relay(words...).exits(exitConfig).complains("the relay's identity has changed", "outbox.events", "public.messages")
	}
	s.relay("identity", "move", "--dry-run").exits(exitFailed).complains("stop every relay")
	s.halt()

	// A row of the old table that no relay has read keeps it.
	s.set = settings
	s.commit("acme", "inv_2")
	s.set = append(append([]string(nil), settings...), "--set", "outbox.table=public.messages")
	s.relay("identity", "move").exits(exitUsage).complains("--yes")
	s.relay("identity", "move", "--dry-run").exits(0).quiet().says("rows left", "1", "rows to read", "1")
	s.relay("identity", "move", "--yes").exits(exitUnhealthy).complains("1 rows of outbox.events", "--leave-rows")
	s.relay("identity", "move", "--yes", "--leave-rows").exits(0).quiet().says("public.messages", "moved")
	s.relay("identity", "show").exits(0)

	s.start()
	s.eventually("the row of the new table arrives", func() bool { types, _ := recv.got(); return len(types) == 2 })
	s.exec("INSERT INTO public.messages (tenant_id, aggregate_type, aggregate_id, event_type, payload) SELECT tenant_id, aggregate_type, aggregate_id, event_type, payload FROM public.messages LIMIT 1")
	s.eventually("the stream shows the new table", func() bool { types, _ := recv.got(); return len(types) == 3 })
	s.eventually("each is recorded once", func() bool { return s.text("SELECT count(*)::text FROM relay.deliveries") == "3" })
}

func TestIdentity_MovesToAnotherSlotAndDropsTheOldOne(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	recv := newReceiver(t, http.StatusOK)
	s.subscribe("acme", recv.URL)
	s.start()
	s.commit("acme", "inv_1")
	s.proved()
	s.halt()
	s.commit("acme", "inv_2")
	old := s.text("SELECT slot FROM relay.progress")
	s.set = append(s.set, "--set", "cdc.slot="+old+"_new", "--set", "cdc.publication=other", "--set", "cdc.recovery=manual")
	s.relay("identity", "show").exits(exitUnhealthy).complains("slot "+old, "publication other")
	s.relay("identity", "move", "--yes").exits(0).quiet().says("dropped slot", old)
	s.start()
	s.eventually("the row of meanwhile arrives", func() bool { types, _ := recv.got(); return len(types) == 2 })
	s.commit("acme", "inv_3")
	s.eventually("the stream goes on", func() bool { types, _ := recv.got(); return len(types) == 3 })
	if slots := s.text("SELECT string_agg(slot_name, ' ') FROM pg_replication_slots WHERE database = current_database()"); strings.Contains(slots+" ", old+" ") {
		t.Errorf("the old slot keeps WAL: %s", slots)
	}
}
