package health_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, pgtest.NoLeaks()) }

func mustMigrate(t *testing.T) *pgx.Conn {
	t.Helper()
	url := migratetest.NewDatabase(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// The list, the schema that `relay migrate` makes, and the GRANTs of docs/operations.md say the same.
func TestRights_AreThoseOfTheSchemaAndOfTheDocs(t *testing.T) {
	conn := mustMigrate(t)
	rows, err := conn.Query(t.Context(), `
SELECT 'table', relname FROM pg_class WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
UNION ALL SELECT 'trigger', tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE relnamespace = 'relay'::regnamespace AND NOT tgisinternal
UNION ALL SELECT 'sequence', relname FROM pg_class c WHERE relnamespace = 'relay'::regnamespace AND relkind = 'S'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass)
UNION ALL SELECT 'function', proname FROM pg_proc WHERE pronamespace = 'relay'::regnamespace AND prorettype <> 'trigger'::regtype
   AND proname <> 'picture' -- a trigger with its owner's rights calls it
ORDER BY 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	var has []string
	var kind, name string
	if _, err := pgx.ForEachRow(rows, []any{&kind, &name}, func() error {
		has = append(has, kind+" "+name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, r := range health.Rights("") {
		if r.Kind != "schema" {
			listed = append(listed, r.Kind+" "+r.Name)
		}
	}
	slices.Sort(listed)
	if !slices.Equal(has, listed) {
		t.Errorf("the schema relay has\n%s\nand rights are listed of\n%s", strings.Join(has, "\n"), strings.Join(listed, "\n"))
	}

	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(page), "<!-- rights -->\n```sql\n")
	block, _, closed := strings.Cut(block, "```")
	if !ok || !closed {
		t.Fatal("docs/operations.md has no block of SQL behind <!-- rights -->")
	}
	conn2 := mustMigrate(t)
	role := "granted_" + conn2.Config().Database
	block = strings.ReplaceAll(block, "TO relay;", "TO "+role+";")
	if _, err := conn2.Exec(t.Context(), "CREATE ROLE "+role+" LOGIN REPLICATION; "+block); err != nil {
		t.Fatalf("%v\n%s", err, block)
	}
	t.Cleanup(func() {
		if _, err := conn2.Exec(context.Background(), "RESET ROLE; DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	if _, err := conn2.Exec(t.Context(), "SET ROLE "+role); err != nil {
		t.Fatal(err)
	}
	c, fine, err := health.CheckRights(t.Context(), conn2, health.Facts{Table: "outbox.events"})
	if err != nil || !fine {
		t.Errorf("with the GRANTs of the docs: %s (%v)", c, err)
	}
}

func TestCheckRights_NamesWhatIsMissingAndTheGrants(t *testing.T) {
	conn := mustMigrate(t)
	role := "bare_" + conn.Config().Database
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	check := func() (health.Condition, bool) {
		t.Helper()
		c, ok, err := health.CheckRights(t.Context(), conn, health.Facts{Table: "outbox.events"})
		if err != nil {
			t.Fatal(err)
		}
		return c, ok
	}
	if c, ok := check(); !ok {
		t.Fatalf("a superuser lacks something: %s", c)
	}
	exec("CREATE ROLE " + role)
	t.Cleanup(func() { exec("RESET ROLE; DROP OWNED BY " + role + "; DROP ROLE " + role) })
	for range 3 { // what is granted may show what else lacks
		exec("SET ROLE " + role)
		c, ok := check()
		exec("RESET ROLE")
		if ok {
			break
		}
		if c.State != health.Misconfigured || !strings.Contains(c.Sentence, "role "+role+" lacks") || !strings.Contains(c.Remedy, " TO "+role) {
			t.Fatalf("%+v", c)
		}
		exec(c.Remedy) // it is SQL as it stands
	}
	exec("SET ROLE " + role)
	if c, ok := check(); !ok {
		t.Errorf("after the remedy: %s", c)
	}
	exec("RESET ROLE")
	exec("SET default_transaction_read_only = on")
	if c, ok := check(); ok || c.State != health.ReadOnly || !strings.Contains(c.Remedy, "target_session_attrs") {
		t.Errorf("read only: %+v", c)
	}
	exec("SET default_transaction_read_only = off")
	exec("DROP TABLE relay.incidents; DROP FUNCTION relay.timeline CASCADE; ALTER TABLE outbox.events RENAME TO away")
	if c, ok := check(); ok || !strings.Contains(c.Sentence, "table relay.incidents, function relay.timeline, table outbox.events are missing") ||
		!strings.Contains(c.Remedy, "`relay migrate`") || !strings.Contains(c.Remedy, "outbox.table") {
		t.Errorf("missing: %+v", c)
	}
	exec("DROP TRIGGER subscription_changed ON relay.subscriptions")
	if c, ok := check(); ok || !strings.Contains(c.Sentence, "trigger relay.subscription_changed") {
		t.Errorf("missing: %+v", c)
	}
	exec("DROP SCHEMA relay CASCADE")
	if c, ok := check(); ok || !strings.Contains(c.Sentence, "schema relay") || strings.Contains(c.Sentence, "relay.progress") {
		t.Errorf("no schema: %+v", c)
	}
}
