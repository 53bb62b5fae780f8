package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/deliver"
)

func TestReplay_CountsAsksAndShowsItsProgress(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for i := range 5 {
		s.commit("acme", fmt.Sprint("i", i))
	}
	recv := newReceiver(t, http.StatusOK)
	sub := s.subscribe("acme", recv.URL)
	s.exec("UPDATE relay.subscriptions SET active = false, disabled_reason = 'on holiday'")

	var dry replayed
	s.relay("replay", "--subscription", sub, "--from", "1h", "--dry-run", "-o", "json").exits(0).quiet().decode(&dry)
	if dry.ID != nil || dry.Found != 5 || len(dry.Events) != 1 || dry.Events[0].Event != "payment.received" || dry.Rate != 100 {
		t.Errorf("%+v", dry)
	}
	s.relay("replay", "--subscription", sub, "--from", "1h", "--dry-run").exits(0).says("payment.received", "all", "5", "not asked for; at 100 a second it takes 0s")
	s.relay("replay", "--subscription", sub, "--from", "1h", "--event", "customer.*").exits(0).says("nothing is retained")
	s.relay("replay", "--subscription", sub, "--from", "1h", "--to", "2h").exits(exitUsage).complains("is not before --to")
	s.relay("replay", "--subscription", idAt(0, 9), "--from", "1h").exits(exitFailed).complains("not found")
	if n := s.text("SELECT count(*)::text FROM relay.replays"); n != "0" {
		t.Fatalf("%s replays were asked for", n)
	}

	s.relay("replay", "--subscription", sub, "--from", "1h").exits(0).says("replay 1: 100 a second").complains("is disabled (on holiday)", "24 h at most")
	s.relay("replay", "--subscription", sub, "--from", "1h").exits(0).says("replay 1 of this request is running already")
	s.relay("replay", "--subscription", sub, "--from", "2h").exits(exitFailed).complains("replay 1 of this subscription is running", "relay replay cancel 1")
	s.relay("replay", "list").exits(0).quiet().says("ID", sub, "running, 0 of 5 delivered; waits for its subscription to be enabled")
	s.relay("replay", "show", "2").exits(exitFailed).complains("replay 2: not found")

	s.start()
	s.relay("subscriptions", "enable", sub).exits(0)
	s.relay("replay", "show", "1", "--wait").exits(0).says("done, 5 of 5 delivered", "all of the subscription", "100/s").complains("replay 1: ")
	var shown deliver.ReplayRecord
	s.relay("replay", "show", "1", "-o", "json").exits(0).decode(&shown)
	if shown.State != deliver.ReplayDone || shown.Delivered != 5 || shown.EndedAt == nil {
		t.Errorf("%+v", shown)
	}
	if n := s.text("SELECT count(*)::text FROM relay.deliveries WHERE replay_id = 1"); n != "5" {
		t.Errorf("%s deliveries of the replay are recorded", n)
	}
	s.relay("deliveries", "show", s.text("SELECT id::text FROM relay.deliveries WHERE replay_id = 1 LIMIT 1")).exits(0).says("DELIVERED", "replay  1")
	s.relay("replay", "--subscription", sub, "--from", "1h", "--wait").exits(0).says("replay ").complains("done, 5 of 5 delivered")
}

func TestReplay_CancelIsCarriedOutByTheRelay(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for i := range 5 {
		s.commit("acme", fmt.Sprint("i", i))
	}
	sub := s.subscribe("acme", newReceiver(t, http.StatusServiceUnavailable).URL)
	s.exec("UPDATE relay.subscriptions SET active = false")
	s.relay("replay", "--subscription", sub, "--from", "1h").exits(0)
	s.relay("replay", "cancel", "1", "--yes", "--wait", "0s").exits(0).says("noted", "to be cancelled by the next relay that leads")
	s.start()
	s.relay("replay", "cancel", "1", "--yes", "--wait", "20s").exits(0).quiet().says("cancelled, 0 of 5 delivered")
	s.relay("replay", "show", "1", "--wait").exits(exitFailed).complains("replay 1 was cancelled: cancelled by an operator")
	s.relay("replay", "list").exits(0).quiet().says("cancelled, 0 of 5 delivered", "; cancelled by an operator")
	s.relay("replay", "cancel", "7", "--yes").exits(exitFailed).complains("not found")
}

func TestDeliveriesRetry_BringsBackAllThatMatch(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set = append(s.set, "--set", "deliver.retry.schedule=0s")
	s.start()
	recv := newReceiver(t, http.StatusInternalServerError)
	sub, other := s.subscribe("acme", recv.URL), s.subscribe("globex", recv.URL)
	for i := range 7 {
		s.commit("acme", fmt.Sprint("i", i))
	}
	s.commit("globex", "i1")
	s.eventually("all are dead", func() bool { return s.text("SELECT count(*)::text FROM relay.deliveries WHERE status = 'DEAD'") == "8" })
	recv.answer(http.StatusOK)
	retry := func(more ...string) result {
		return s.relay(append([]string{"deliveries", "retry", "--all", "--subscription", sub, "--event", "payment.received"}, more...)...)
	}
	retry().exits(0).quiet().says("7 deliveries are DEAD and would be tried again: add --yes")
	if n := s.text("SELECT count(*)::text FROM relay.requests"); n != "0" {
		t.Errorf("%s requests without --yes", n)
	}
	// The record may just be on its way to its partition, and in neither place.
	s.eventually("a body is gone", func() bool {
		return s.text(`WITH gone AS (DELETE FROM relay.bodies WHERE event_id = (SELECT event_id FROM relay.deliveries WHERE aggregate_id = 'i3') RETURNING 1)
			SELECT count(*)::text FROM gone`) == "1"
	})
	retry("--yes", "--rate", "3", "--wait", "20s").exits(exitFailed).says("6 of 7 tried again, 1 not, because").complains("1 of 7 were not tried again")
	s.eventually("they arrive", func() bool {
		return s.text("SELECT count(*)::text FROM relay.deliveries WHERE status = 'DELIVERED' AND subscription_id = $1::uuid", sub) == "6"
	})
	if n := s.text("SELECT count(*)::text FROM relay.deliveries WHERE status = 'DEAD' AND subscription_id = $1::uuid", other); n != "1" {
		t.Error("the other tenant's was tried again")
	}
	s.relay("deliveries", "retry", "--all", "--tenant", "nobody", "--yes").exits(0).quiet().says("0 of 0 tried again")
}

func TestDeliveriesRetry_OfAllStopsWhenNoRelayRuns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec("UPDATE relay.deliveries SET status = 'DEAD'")
	f.relay("deliveries", "retry", "--all", "--yes", "--rate", "1", "--wait", "0s").exits(exitFailed).says("1 of 2 tried again, 1 left: call it again").
		complains("1 noted; no relay has carried that out yet")
	if got := f.text("SELECT string_agg(target, ',') FROM relay.requests"); got != f.dead || strings.Contains(got, f.delivered) {
		t.Errorf("asked for %s, want the oldest one", got)
	}
}
