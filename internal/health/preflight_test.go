package health_test

import (
	"context"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/health"
)

func TestPreflight_SaysWhatAServerLacks(t *testing.T) {
	conn := mustMigrate(t)
	database := conn.Config().Database
	role := "plain_" + database
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	facts := health.Facts{Role: role, Database: database, Table: "outbox.events", Slot: "none_" + database, Publication: "relay"}
	check := func() string {
		t.Helper()
		list, err := health.Preflight(t.Context(), conn, facts)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, f := range list {
			text = append(text, f.String())
		}
		return strings.Join(text, "\n")
	}
	exec("CREATE ROLE " + role)
	t.Cleanup(func() { exec("RESET ROLE; DROP OWNED BY " + role + "; DROP ROLE " + role) })
	exec("SET ROLE " + role)
	got := check()
	for _, want := range []string{"ALTER ROLE " + role + " REPLICATION", "GRANT CREATE ON DATABASE " + database + " TO " + role,
		"ALTER TABLE outbox.events OWNER TO " + role} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %q", got, want)
		}
	}
	exec("RESET ROLE")
	facts.Role = conn.Config().User
	if got := check(); got != "" {
		t.Errorf("a server that has everything: %s", got)
	}
	exec("SET default_transaction_read_only = on")
	if got := check(); !strings.Contains(got, "takes no writes") {
		t.Errorf("read only: %s", got)
	}
	exec("SET default_transaction_read_only = off")
}
