package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/examples/backoffice"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, pgtest.NoLeaks()) }

func none(string) string { return "" }

func TestParse_FlagsWinOverEnvironment(t *testing.T) {
	env := map[string]string{
		"BACKOFFICE_DATABASE_URL": "postgres://env", "BACKOFFICE_TOKENS": "acme=a,globex=g",
		"BACKOFFICE_PROVIDER_SECRET": "s", "BACKOFFICE_LISTEN": "127.0.0.1:1", "BACKOFFICE_DEMO_FAULTS": "true",
	}
	s, err := parse([]string{"--database-url", "postgres://flag", "--token", "acme=b=="},
		func(name string) string { return env[name] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.databaseURL != "postgres://flag" || s.listen != "127.0.0.1:1" || s.providerSecret != "s" || !s.demoFaults {
		t.Errorf("settings %+v", s)
	}
	if len(s.tokens) != 3 || s.tokens["a"] != "acme" || s.tokens["b=="] != "acme" || s.tokens["g"] != "globex" {
		t.Errorf("tokens %v", s.tokens)
	}
	if s, err := parse([]string{"--database-url", "x"}, none, io.Discard); err != nil || s.listen != "127.0.0.1:8080" {
		t.Errorf("default address %q, %v", s.listen, err)
	}
}

func TestParse_RefusesWrongUsageWithoutRepeatingSecrets(t *testing.T) {
	for name, args := range map[string][]string{
		"no database":                 {},
		"a token without tenant":      {"--database-url", "x", "--token", "sesame"},
		"a token of two tenants":      {"--database-url", "x", "--token", "a=sesame", "--token", "b=sesame"},
		"an argument behind":          {"--database-url", "x", "serve"},
		"a flag that does not exist":  {"--database-url", "x", "--port", "1"},
		"an empty token":              {"--database-url", "x", "--token", "a="},
		"a database behind no equals": {"--database-url"},
	} {
		if _, err := parse(args, none, io.Discard); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	env := func(name string) string {
		if name == "BACKOFFICE_TOKENS" {
			return "a=one,sesame"
		}
		return ""
	}
	if _, err := parse([]string{"--database-url", "x"}, env, io.Discard); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("BACKOFFICE_TOKENS without tenant: %v", err)
	}
}

func TestRun_SaysThatTheOutboxIsMissing(t *testing.T) {
	s := settings{databaseURL: pgtest.NewDatabase(t), listen: "127.0.0.1:0"}
	if err := run(t.Context(), s, slog.New(slog.DiscardHandler)); !errors.Is(err, backoffice.ErrNoOutbox) {
		t.Fatalf("run ended with %v", err)
	}
}

// addresses catches the address that run logs.
type addresses struct {
	slog.Handler
	found chan string
}

func (a addresses) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(at slog.Attr) bool {
		if at.Key == "address" {
			a.found <- at.Value.String()
		}
		return true
	})
	return nil
}

func (a addresses) Enabled(context.Context, slog.Level) bool { return true }

func TestRun_ServesUntilItIsStopped(t *testing.T) {
	url := migratetest.NewDatabase(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := addresses{slog.DiscardHandler, make(chan string, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, settings{databaseURL: url, listen: "127.0.0.1:0", tokens: map[string]string{"T": "acme"}}, slog.New(log))
	}()
	var base string
	select {
	case base = <-log.found:
	case err := <-ended:
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, "POST", base+"/api/v1/tenant/crm/leads", strings.NewReader(`{"name":"Ada"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer T")
	r.Header.Set("Content-Type", "application/json")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("answered %s", answer.Status)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestServe_FinishesRequestsInProgress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	// The request itself asks the server to stop, and is answered all the same.
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop()
		for {
			c, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				break // the listener is closed: Shutdown is at work
			}
			c.Close()
		}
		w.WriteHeader(http.StatusNoContent)
	})
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, listener, handler) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		t.Fatalf("answered %s", answer.Status)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
