package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/test/output"
)

func mustConfig(t *testing.T, env ...string) *config.Config {
	t.Helper()
	c, err := config.Load(config.LoadOptions{Environ: env})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEgressOptions_NameWhatTheRelayAndItsDatabaseListenOn(t *testing.T) {
	for _, tc := range []struct {
		env  []string
		want []string
	}{
		{[]string{"RELAY_DATABASE_URL=postgres://u@db.internal/a"}, []string{"127.0.0.1:8000", "db.internal:5432"}},
		{[]string{"RELAY_DATABASE_URL=host=/run/postgresql dbname=a"}, []string{"127.0.0.1:8000"}},
		{[]string{"RELAY_DATABASE_URL=postgres://u@pooler:6432/a", "RELAY_DATABASE_REPLICATION_URL=postgres://u@[fd00::5]:5433,10.0.0.6:5434/a",
			"RELAY_HTTP_LISTEN=:8000", "RELAY_HTTP_OPS_LISTEN=127.0.0.1:9000"},
			[]string{"127.0.0.1:9000", ":8000", "pooler:6432", "[fd00::5]:5433", "10.0.0.6:5434"}},
	} {
		o := daemon.EgressOptions(mustConfig(t, tc.env...))
		if !slices.Equal(o.Own, tc.want) {
			t.Errorf("%v: got %v, want %v", tc.env, o.Own, tc.want)
		}
		if _, err := egress.New(o); err != nil {
			t.Error(err)
		}
	}
}

// A timeout that somebody makes shorter than the default for headers is no mistake: it holds for them as well.
func TestEgressOptions_TheHeadersHaveNoMoreTimeThanTheAttempt(t *testing.T) {
	for _, tc := range []struct {
		env  []string
		want time.Duration
	}{
		{nil, 10 * time.Second},
		{[]string{"RELAY_DELIVER_TIMEOUT=30s"}, 10 * time.Second},
		{[]string{"RELAY_DELIVER_TIMEOUT=4s"}, 4 * time.Second},
		{[]string{"RELAY_DELIVER_HEADER_TIMEOUT=14s"}, 14 * time.Second},
		{[]string{"RELAY_DELIVER_HEADER_TIMEOUT=3s", "RELAY_DELIVER_TIMEOUT=4s"}, 3 * time.Second},
	} {
		if got := daemon.EgressOptions(mustConfig(t, tc.env...)).HeaderTimeout; got != tc.want {
			t.Errorf("%v: got %s, want %s", tc.env, got, tc.want)
		}
	}
}

// An entry for one address is for receivers: it does not open the database beside them.
func TestEgressOptions_AllowingAnAddressDoesNotOpenTheDatabaseOnIt(t *testing.T) {
	p, err := egress.New(daemon.EgressOptions(mustConfig(t, "RELAY_DATABASE_URL=postgres://u@127.0.0.1:5432/a", "RELAY_EGRESS_ALLOW=127.0.0.1,localhost",
		"RELAY_EGRESS_REQUIRE_HTTPS=false")))
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]bool{"http://127.0.0.1:9000/": true, "http://127.0.0.1:5432/": false, "http://127.0.0.1:8000/status": false,
		"http://localhost:8000/": false, "http://localhost:9000/": true} {
		_, err := p.CheckURL(url)
		var blocked *egress.BlockedError
		if (err == nil) != want || err != nil && (!errors.As(err, &blocked) || blocked.Rule != egress.RuleOwn) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestDaemon_TellsItsEgressRulesAtTheStart(t *testing.T) {
	out := output.New(t, "the daemon")
	output.Secret(t, "hunter2")
	cfg := mustConfig(t, "RELAY_DATABASE_URL=postgres://u:hunter2@127.0.0.1:1/a", "RELAY_HTTP_LISTEN=127.0.0.1:0", "RELAY_EGRESS_ALLOW=10.1.0.0/16,receiver.internal",
		"RELAY_EGRESS_DENY=10.1.9.0/24", "RELAY_EGRESS_PROXY=http://user:hunter2@proxy.internal:3128")
	d, err := daemon.New(daemon.Options{Config: cfg, Log: slog.New(slog.NewJSONHandler(out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Run(stopped); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"allow":["10.1.0.0/16","receiver.internal"]`, `"deny":["10.1.9.0/24"]`, `"require_https":true`, `"proxy":"http://proxy.internal:3128"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log does not have %s", want)
		}
	}
	if t.Failed() {
		t.Logf("the log is\n%s", out.String())
	}
}
