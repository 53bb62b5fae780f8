package migrate_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/migrate"
)

// grantLine is a GRANT as a page has it, with the role that it names.
var grantLine = regexp.MustCompile(`^(GRANT .* TO )(\w+);`)

func TestGrants_OfTheDocsWork(t *testing.T) {
	t.Parallel()
	dbURL, super := mustMigrate(t)
	role, _ := mustRole(t, super, dbURL, "pasted_")
	database := mustString(t, super, `SELECT current_database()`)
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/*/README.md"} {
		found, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	pasted := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			m := grantLine.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			sql := strings.Replace(m[1], "ON DATABASE app ", "ON DATABASE "+database+" ", 1) + role
			if _, err := super.Exec(testContext(t), sql); err != nil {
				t.Errorf("%s: %s: %v", page, m[0], err)
			}
			pasted++
		}
	}
	if pasted < 8 {
		t.Errorf("only %d GRANTs are found in %d pages", pasted, len(pages))
	}
}

func TestFunctions_HaveUniqueNames(t *testing.T) {
	t.Parallel()
	_, conn := mustMigrate(t)
	const repeated = `SELECT coalesce(string_agg(name, ', '), '') FROM (
		SELECT pronamespace::regnamespace || '.' || proname AS name FROM pg_proc
		WHERE pronamespace IN ('outbox'::regnamespace, 'relay'::regnamespace) GROUP BY 1 HAVING count(*) > 1) f`
	if names := mustString(t, conn, repeated); names != "" {
		t.Errorf("a GRANT on these needs the types of their parameters: %s", names)
	}
	if n := mustString(t, conn, `SELECT count(*)::text FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace`); n == "0" {
		t.Error("there is no function at all")
	}
}

// oldEmit makes the functions emit as they were when there was one for each type of the payload.
func oldEmit(t *testing.T, exec func(sql string)) {
	t.Helper()
	exec(`DROP FUNCTION outbox.emit`)
	for _, payload := range []string{"json", "jsonb", "text"} {
		exec(`CREATE FUNCTION outbox.emit(tenant_id text, event_type text, aggregate_id text, payload ` + payload + `, headers jsonb DEFAULT NULL)
			RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
			BEGIN
				INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
				VALUES (emit.tenant_id, 'stock', emit.aggregate_id, emit.event_type, emit.payload::json);
				RETURN NULL;
			END $$`)
		exec(`REVOKE ALL ON FUNCTION outbox.emit(text, text, text, ` + payload + `, jsonb) FROM PUBLIC`)
	}
	exec(`DELETE FROM relay.schema_functions WHERE name = 'emit.sql'`)
}

func TestUp_CarriesTheRightsOfTheOldFunctionsOver(t *testing.T) {
	t.Parallel()
	dbURL, super := mustMigrate(t)
	one, oneURL := mustRole(t, super, dbURL, "one_")
	two, twoURL := mustRole(t, super, dbURL, "two_")
	none, noneURL := mustRole(t, super, dbURL, "none_")
	oldEmit(t, func(sql string) { mustExec(t, super, sql) })
	mustExec(t, super, `GRANT USAGE ON SCHEMA outbox TO `+one+`, `+two+`, `+none)
	mustExec(t, super, `GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, json, jsonb) TO `+one)
	mustExec(t, super, `GRANT EXECUTE ON FUNCTION outbox.emit(text, text, text, jsonb, jsonb) TO `+two+` WITH GRANT OPTION`)
	// A view is bound to a function by more than its name.
	mustExec(t, super, `CREATE VIEW bound AS SELECT outbox.emit('t1', 'stock.bound', 'a1', '{"n":1}'::jsonb) AS id`)

	for range 2 { // applied twice it does no harm
		if _, err := migrate.Up(testContext(t), dbURL); err != nil {
			t.Fatal(err)
		}
		mustExec(t, super, `DELETE FROM relay.schema_functions WHERE name = 'emit.sql'`)
	}
	const call = `SELECT outbox.emit('t1', 'stock.moved', 'a1', '{}')`
	for _, url := range []string{oneURL, twoURL} {
		mustExec(t, mustConnect(t, url), call)
	}
	if _, err := mustConnect(t, noneURL).Exec(testContext(t), call); code(err) != "42501" {
		t.Errorf("a role that never might: %v, want insufficient_privilege", err)
	}
	for role, want := range map[string]string{one: "false", two: "true"} {
		const hands = `SELECT has_function_privilege($1, 'outbox.emit'::regproc, 'EXECUTE WITH GRANT OPTION')::text`
		if got := mustString(t, super, hands, role); got != want {
			t.Errorf("%s may hand the right on: %s, want %s", role, got, want)
		}
	}
	if id := mustString(t, super, `SELECT id::text FROM bound`); id == "" {
		t.Error("the view that calls the function has no id")
	}
	const events = `SELECT string_agg(event_type || ' ' || payload::text, ', ' ORDER BY event_type) FROM outbox.events`
	if got, want := mustString(t, super, events), `stock.bound {"n": 1}, stock.moved {}, stock.moved {}`; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}
