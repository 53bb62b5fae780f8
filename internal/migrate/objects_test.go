package migrate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/migrate"
)

// catalog is a picture of the schemas by what their objects are.
func catalog(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return mustString(t, conn, `SELECT string_agg(line, E'\n' ORDER BY line) FROM (
		SELECT format('%s %s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)) AS line
		  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		 WHERE c.relnamespace::regnamespace::text IN ('outbox', 'relay') AND NOT a.attisdropped AND a.attnum > 0
		UNION ALL SELECT conrelid::regclass || ' ' || conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace::regnamespace::text IN ('outbox', 'relay')
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname IN ('outbox', 'relay')
		UNION ALL SELECT pg_get_functiondef(oid) || (SELECT string_agg(grantee::text, ',') FROM aclexplode(proacl) WHERE grantee = 0)
		  FROM pg_proc WHERE pronamespace::regnamespace::text IN ('outbox', 'relay')
		UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
		UNION ALL SELECT viewname || definition FROM pg_views WHERE schemaname IN ('outbox', 'relay')) x`)
}

func TestUp_MakesAgainWhatIsGone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		damage   string
		restored []string // some of them
	}{
		"nothing":            {"SELECT 1", nil},
		"the schema outbox":  {"DROP SCHEMA outbox CASCADE", []string{"schema outbox", "table outbox.events", "default of relay.subscriptions.id"}},
		"the schema relay":   {"DROP SCHEMA relay CASCADE", nil}, // its migrations run again
		"a table":            {"DROP TABLE relay.incidents; DROP TABLE relay.cursor_key", []string{"table relay.incidents"}},
		"a column":           {"ALTER TABLE relay.replays DROP COLUMN public_id", []string{"column relay.replays.public_id", "index relay.replays_public"}},
		"a constraint":       {"ALTER TABLE relay.progress DROP CONSTRAINT progress_pkey", []string{"constraint progress_pkey of relay.progress"}},
		"an index":           {"DROP INDEX outbox.events_xid; DROP INDEX relay.parked_due", []string{"index outbox.events_xid", "index relay.parked_due"}},
		"a trigger":          {"DROP TRIGGER subscription_changed ON relay.subscriptions", []string{"trigger subscription_changed of relay.subscriptions"}},
		"a view":             {"DROP VIEW relay.rejected", []string{"view relay.rejected"}},
		"a function":         {"DROP FUNCTION relay.timeline CASCADE; DROP FUNCTION outbox.payment_received", []string{"function relay.timeline()"}},
		"a function's body":  {"CREATE OR REPLACE FUNCTION relay.timeline() RETURNS integer LANGUAGE sql AS 'SELECT 7'", []string{"function relay.timeline()"}},
		"a function's owner": {"DROP FUNCTION outbox.uuid_v7 CASCADE", []string{"function outbox.uuid_v7()", "default of relay.tokens.id"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, conn := mustMigrate(t)
			before := catalog(t, conn)
			mustExec(t, conn, tc.damage)
			report, err := migrate.Up(testContext(t), url)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.restored {
				if !slices.Contains(report.Restored, want) {
					t.Errorf("%q is not among what was restored: %q", want, report.Restored)
				}
			}
			if tc.restored == nil && len(report.Restored) > 0 {
				t.Errorf("restored %q", report.Restored)
			}
			after := strings.Split(catalog(t, conn), "\n")
			for _, line := range strings.Split(before, "\n") {
				if at := slices.Index(after, line); at >= 0 {
					after = slices.Delete(after, at, at+1)
				} else {
					t.Errorf("the schema has no longer: %s", line)
				}
			}
			if len(after) > 0 {
				t.Errorf("the schema has besides: %q", after)
			}
			if n := mustString(t, conn, "SELECT count(*)::text FROM relay.cursor_key"); n != "1" {
				t.Errorf("%s keys", n)
			}
			if report, err = migrate.Up(testContext(t), url); err != nil || len(report.Applied)+len(report.Functions)+len(report.Restored) > 0 {
				t.Errorf("a second time: %+v, %v", report, err)
			}
		})
	}
}

func TestUp_KeepsTheRowsOfTheSchemaThatIsLeft(t *testing.T) {
	t.Parallel()
	url, conn := mustMigrate(t)
	mustExec(t, conn, `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('t', 'a', 'b', 'c', '{}'); DROP SCHEMA relay CASCADE`)
	if _, err := migrate.Up(testContext(t), url); err != nil {
		t.Fatal(err)
	}
	if n := mustString(t, conn, "SELECT count(*)::text FROM outbox.events"); n != "1" {
		t.Errorf("%s rows", n)
	}
}
