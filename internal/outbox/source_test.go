package outbox_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// columnsOfEvents are those of an outbox that all is well with, but for their types.
const columnsOfEvents = `id uuid, tenant_id text, aggregate_type varchar(20), aggregate_id bigint, event_type text, payload jsonb, headers jsonb,
	created_at timestamptz, xid xid8`

func TestSource_RefusesWhatHidesRowsAndWhatCannotBeMapped(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), pgtest.NewDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	plain := "CREATE TABLE o.t (" + columnsOfEvents + "); "
	with := func(old, replacement string) string { return strings.Replace(plain, old, replacement, 1) }
	for name, tc := range map[string]struct{ ddl, sentence, remedy string }{
		"a plain table":         {plain, "", ""},
		"no table at all":       {"", "", ""},
		"domains and enums":     {"CREATE DOMAIN o.key AS uuid; CREATE DOMAIN o.k2 AS o.key; CREATE TYPE o.kind AS ENUM ('a'); " + strings.Replace(with("id uuid", "id o.k2"), "event_type text", "event_type o.kind", 1), "", ""},
		"partitioned":           {with("xid xid8);", "xid xid8) PARTITION BY RANGE (created_at); CREATE TABLE o.p PARTITION OF o.t DEFAULT"), "", ""},
		"no xid":                {with(", xid xid8", ""), "", ""},
		"a rule beside":         {plain + "CREATE TABLE o.log (id uuid); CREATE RULE r AS ON INSERT TO o.t DO ALSO INSERT INTO o.log VALUES (new.id)", "", ""},
		"a view":                {with("o.t", "o.u") + "CREATE VIEW o.t AS SELECT * FROM o.u", "is a view", "table beneath"},
		"a materialized view":   {with("o.t", "o.u") + "CREATE MATERIALIZED VIEW o.t AS SELECT * FROM o.u", "is a view", "table beneath"},
		"unlogged":              {with("TABLE", "UNLOGGED TABLE"), "is unlogged", "ALTER TABLE o.t SET LOGGED"},
		"an unlogged partition": {with("xid xid8);", "xid xid8) PARTITION BY RANGE (created_at); CREATE UNLOGGED TABLE o.p PARTITION OF o.t DEFAULT"), "o.p", "ALTER TABLE o.p SET LOGGED"},
		"a foreign partition": {with("xid xid8);", "xid xid8) PARTITION BY RANGE (created_at); CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE o.p PARTITION OF o.t DEFAULT SERVER s"),
			"foreign tables", "ALTER TABLE o.t DETACH PARTITION o.p"},
		"children":       {plain + "CREATE TABLE o.child () INHERITS (o.t)", "o.child", "ALTER TABLE o.child NO INHERIT o.t"},
		"a rule instead": {plain + "CREATE RULE r AS ON INSERT TO o.t DO INSTEAD NOTHING", "rule r", "DROP RULE r ON o.t"},

		"a missing column":         {with("event_type", "eventtype"), `no column "event_type" (outbox.columns.event_type)`, `set outbox.columns.event_type to eventtype`},
		"a missing column, no way": {with(", headers jsonb", ""), `no column "headers" (outbox.columns.headers)`, "ALTER TABLE o.t ADD COLUMN headers"},
		"a bigint id":              {with("id uuid", "id bigint"), `column "id" (outbox.columns.id) is bigint, and must be uuid`, "ADD COLUMN event_id uuid NOT NULL DEFAULT gen_random_uuid()"},
		"a payload of numbers":     {with("payload jsonb", "payload numeric(5, 2)"), `column "payload" (outbox.columns.payload) is numeric(5,2)`, "outbox.columns.payload"},
		"names in an array":        {with("tenant_id text", "tenant_id text[]"), `"tenant_id" (outbox.columns.tenant_id) is text[]`, "outbox.columns.tenant_id"},
		"a foreign xid":            {with("xid xid8", "xid uuid"), `"xid" (outbox.columns.xid) is uuid, and must be xid8`, ""},
		"two at once":              {strings.Replace(with("id uuid", "id bigint"), "payload jsonb", "payload date", 1), `is bigint, and must be uuid, or text that holds a UUID, and column "payload"`, ""},
		"a generated column": {with("event_type text", "event_type text GENERATED ALWAYS AS ('order.' || tenant_id) STORED"),
			`column "event_type" (outbox.columns.event_type) is a generated column, which the stream leaves out`, "ALTER PUBLICATION relay SET (publish_generated_columns = stored)"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := conn.Exec(t.Context(), "DROP SCHEMA IF EXISTS o CASCADE; DROP FOREIGN DATA WRAPPER IF EXISTS w CASCADE; CREATE SCHEMA o; "+tc.ddl); err != nil {
				t.Fatal(err)
			}
			c, ok, err := outbox.Source{Mapping: outbox.MappingOptions{Table: "o.t"}, Publication: "relay"}.Check(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			if ok != (tc.sentence == "") || !strings.Contains(c.Sentence, tc.sentence) || !strings.Contains(c.Remedy, tc.remedy) {
				t.Errorf("fine %v\n%s\n%s", ok, c.Sentence, c.Remedy)
			}
			if !ok && c.State != health.Misconfigured {
				t.Errorf("state %s", c.State)
			}
		})
	}
}
