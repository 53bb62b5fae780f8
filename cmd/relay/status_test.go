package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/test/output"
)

func TestStatus_IsUnhealthyWithoutARelay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.quarantined(2)
	f.set = append(f.set, "--set", "http.listen=127.0.0.1:1")
	f.relay("status").exits(exitUnhealthy).says("no relay answers at 127.0.0.1:1", "missing", "parked acme", "quarantined").
		complains("no relay answers at 127.0.0.1:1", "relay run", "http.listen")
	var got report
	f.relay("status", "-o", "json").exits(exitUnhealthy).decode(&got)
	if got.Daemon != nil || got.Unreachable == "" || got.Slot.Exists || len(got.Parked) != 1 || got.Parked[0].Count != 2 || got.Quarantined != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestStatus_IsFineWhileARelayStreams(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.relay("status").exits(0).quiet().says("streaming since", "ready", "yes", "slot c_", "of WAL kept", "quarantined")
	var got report
	s.relay("status", "-o", "json").exits(0).quiet().decode(&got)
	if got.Daemon == nil || !got.Daemon.Ready || !got.Slot.Exists || !got.Slot.Active || got.Database != "" {
		t.Errorf("got %+v", got)
	}
}

// fakeRelay answers /status with a text.
func fakeRelay(t *testing.T, answer string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestStatus_IsUnhealthyWhileTheRelayIsNotReady(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set = append(s.set, "--set", "http.ops_listen="+fakeRelay(t, `{"state": "standby", "ready": false, "not_ready_because": "standby: slot is taken"}`))
	s.relay("status").exits(exitUnhealthy).says("standby", "no: standby: slot is taken").complains("the relay is not ready: standby: slot is taken")
	other := newStage(t)
	other.set = append(other.set, "--set", "http.listen="+fakeRelay(t, "<html>"))
	other.relay("status").exits(exitUnhealthy).complains("is no relay")
}

func TestStatus_ShowsTheRelayWhenTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	listen := "http.listen=" + fakeRelay(t, `{"state": "streaming", "ready": true}`)
	args := []string{"status", "--database-url", "postgres://me:hunter2@127.0.0.1:1/none", "--set", listen}
	for _, form := range []string{"text", "json"} {
		r := call(t, append(args, "-o", form)...).exits(exitUnhealthy).says("streaming", "database").complains("connect", "look at database.url")
		if strings.Contains(r.out+r.err, "hunter2") {
			t.Errorf("-o %s shows the password:\n%s%s", form, r.out, r.err)
		}
	}
}

func TestStatus_WatchesUntilItIsInterrupted(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set = append(s.set, "--set", "http.listen=127.0.0.1:1")
	for _, form := range []string{"text", "json"} {
		ctx, cancel := context.WithCancel(t.Context())
		out, errs := output.New(t, "stdout"), output.New(t, "stderr")
		code := make(chan int, 1)
		go func() {
			code <- callWith(ctx, out, errs, append([]string{"status", "--watch", "-o", form}, s.set...)...)
		}()
		s.eventually("it is shown twice", func() bool { return strings.Count(out.String(), "quarantined") >= 2 })
		cancel()
		if c := <-code; c != 0 || errs.String() != "" {
			t.Errorf("-o %s: exit code %d, stderr %q", form, c, errs.String())
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Errorf("-o %s: what is no terminal gets control sequences: %q", form, out.String())
		}
		if line, _, _ := strings.Cut(out.String(), "\n"); form == "json" && !json.Valid([]byte(line)) {
			t.Errorf("not a line of JSON: %s", line)
		}
	}
}

func TestStatus_ShowsWhatNeedsAttentionFirst(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	failing, gone := s.subscribe("acme", "https://hooks.acme.example/in?key=k"), s.subscribe("globex", "https://gone.example/")
	s.exec("INSERT INTO relay.failing (subscription_id, since, circuit_open) VALUES ($1::text::uuid, now() - interval '3 hours', true)", failing)
	s.exec("UPDATE relay.subscriptions SET active = false, disabled_reason = 'gone: the endpoint answered 410', disabled_at = now() WHERE id::text = $1", gone)
	for _, age := range []string{"1 hour", "2 days", "3 days"} {
		s.exec(`INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id, commit_lsn,
			row_index, status, attempts, ended_at) VALUES (gen_random_uuid(), now(), 'acme', $1::text::uuid, gen_random_uuid(), 'payment.received', 'payment',
			'p1', '0/1', 0, 'DEAD', 11, now() - $2::text::interval)`, failing, age)
	}
	s.exec("INSERT INTO relay.incidents (slot, kind, detail, began_at) VALUES ('relay', 'rescue', 'the slot is gone', now() - interval '9 days')")
	s.set = append(s.set, "--set", "cdc.slot=relay", "--set", "http.ops_listen="+fakeRelay(t, `{"state": "streaming", "ready": true, "version": "1.2.3",
		"needs_restart": ["outbox.retention"], "wal": {"held_bytes": 3221225472, "budget_bytes": 6442450944, "level": 1, "seconds_to_loss": 90}}`))
	s.exec("INSERT INTO relay.incidents (slot, kind, detail, ended_at, rows_sent) SELECT 'relay', 'rescue', 'many words', now(), 7 FROM generate_series(1, 5)")
	s.relay("status").exits(0).says("1.2.3", "outbox.retention", "3.0 GiB of 6.0 GiB used (50 %), the slot may be lost in 1m30s",
		"3, 1 of them in the last 24 h", "1 failing, 1 disabled", failing, "circuit open since", "tenant acme, hooks.acme.example",
		gone, "disabled since", "gone.example: gone: the endpoint answered 410", "rescue since", "the slot is gone", "ended, 7 rows sent")
	r := s.relay("status")
	if strings.Contains(r.out, "many words") || strings.Contains(r.out, "key=k") || strings.Index(r.out, "the slot is gone") > strings.Index(r.out, "ended, 7 rows") {
		t.Errorf("the status says\n%s", r.out)
	}
	var got report
	s.relay("status", "-o", "json").exits(0).decode(&got)
	if got.Overview == nil || got.Overview.Dead != 3 || got.Overview.DeadToday != 1 || got.Overview.Failing != 1 || got.Overview.Disabled != 1 ||
		len(got.Overview.Endpoints) != 2 || got.Daemon.WAL == nil || got.Version == "" {
		t.Errorf("got %+v", got)
	}
}
