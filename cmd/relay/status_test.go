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
	s.relay("status").exits(0).quiet().says("streaming since", "ready", "yes", "slot c_", "bytes of WAL kept", "quarantined")
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
