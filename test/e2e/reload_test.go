package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// configFile writes a configuration and returns its path.
func configFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "relay.yaml")
	rewrite(t, path, text)
	return path
}

func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRelay_KeepsItsConfigurationWhenANewOneIsFaulty(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 2)
	path := configFile(t, "version: 1\nlog:\n  level: info\n")
	r := s.start("RELAY_CONFIG=" + path)
	const shown = `"level":"DEBUG"`

	rewrite(t, path, "version: 1\nlog:\n  level: debug\ndeliver:\n  timeout: 3 parsecs\n  handover_afer: 1s\n")
	r.signal(syscall.SIGHUP)
	eventually(t, "the fault is told", func() bool { return r.log.Count("configuration not reloaded") == 1 })
	for _, want := range []string{path + ":5", "deliver.timeout", path + ":6", "deliver.handover_afer", "handover_after"} {
		if r.log.Count(want) == 0 {
			t.Errorf("the log does not name %s", want)
		}
	}
	l.add(0, 1)
	l.settle(patience, all)
	if r.log.Count(shown) > 0 {
		t.Error("a part of the faulty configuration is in force")
	}

	rewrite(t, path, "version: 1\nlog:\n  level: debug\n")
	r.signal(syscall.SIGHUP)
	eventually(t, "the good one is in force", func() bool { return r.log.Count("configuration reloaded") == 1 })
	if !strings.Contains(r.log.String(), `"changed":["log.level"]`) {
		t.Error("the log does not name what has changed")
	}
	l.add(1, 1)
	l.settle(patience, all)
	// The loss of this connection is told at debug level.
	if n := s.number(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE application_name = 'relay:' || $1 AND backend_type = 'client backend'`, s.slot); n != 1 {
		t.Fatalf("%d listening connections, want 1", n)
	}
	eventually(t, "debug lines appear", func() bool { return r.log.Count(shown) > 0 })
	l.check(nil, all)
	r.terminate()
}

func TestRelay_RefusesToStartWithAFaultyConfiguration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		env  []string
		want []string
	}{
		"unknown key":  {text: "version: 1\ncdc:\n  slott: relay\n", want: []string{":3", "cdc.slott", "did you mean cdc.slot"}},
		"bad value":    {text: "version: 1\n\nlog:\n  level: loud\n", want: []string{":4", "log.level", "loud"}},
		"environment":  {text: "version: 1\n", env: []string{"RELAY_DELIVER_WINDOW_EVENTS=many"}, want: []string{"RELAY_DELIVER_WINDOW_EVENTS", "many"}},
		"no database":  {text: "version: 1\n", want: []string{"database.url"}},
		"no such file": {want: []string{"absent.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "absent.yaml")
			if c.text != "" {
				path = configFile(t, c.text)
			}
			env := append([]string{"RELAY_CONFIG=" + path}, c.env...)
			if name != "no database" {
				env = append(env, "RELAY_DATABASE_URL=postgres://127.0.0.1:1/none")
			}
			r := spawn(t, relayBinary, env, "run")
			r.awaitExit(3)
			for _, want := range c.want {
				if !strings.Contains(r.log.String(), want) {
					t.Errorf("the output does not say %q:\n%s", want, r.log)
				}
			}
			if strings.Contains(r.log.String(), "relay starts") {
				t.Error("it has started all the same")
			}
		})
	}
}
