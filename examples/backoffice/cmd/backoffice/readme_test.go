package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/migrate/migratetest"
)

// The README's lines are run as they stand, but for the port, and twice.
func TestREADME_LinesDoWhatTheySay(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "openssl", "sed"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not in PATH; install it (Debian: apt-get install bash curl openssl sed) and run again", tool)
		}
	}
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```bash\n")
	script, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("README.md has no block of bash")
	}

	url := migratetest.NewDatabase(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	log := addresses{slog.DiscardHandler, make(chan string, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, settings{
			databaseURL: url, listen: "127.0.0.1:0", tokens: map[string]string{"TOKEN": "acme"},
			providerSecret: "provider-secret", demoFaults: true,
		}, slog.New(log))
	}()
	var base string
	select {
	case base = <-log.found:
	case err := <-ended:
		t.Fatal(err)
	}
	var out []byte
	for range 2 {
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c",
			strings.ReplaceAll(script, "http://127.0.0.1:8081", base))
		cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")
		if out, err = cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	rows, err := db.Query(t.Context(), `SELECT event_type FROM outbox.events ORDER BY xid`)
	if err != nil {
		t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	once := "payment.received customer.created customer.updated sales_order.created sales_order.confirmed " +
		"sales_order.created sales_order.cancelled"
	if got, want := fmt.Sprint(events), "["+once+" "+once+"]"; got != want {
		t.Errorf("events %s\nwant   %s", got, want)
	}
	for _, part := range []string{
		`"status":"paid"`, `"status":409`, `"cancel_reason":"customer changed their mind"`, "rolled back",
	} {
		if !strings.Contains(string(out), part) {
			t.Errorf("%s is missing in\n%s", part, out)
		}
	}
}
