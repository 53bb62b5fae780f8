package migrate_test

import (
	"database/sql"
	"io/fs"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
	relaysql "github.com/outbox-relay/relay/sql"
)

// What a relay of the first schema left waits, or is kept, under the newest one.
func TestUp_KeepsWhatADatabaseOfTheFirstSchemaHolds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	url := pgtest.NewDatabase(t)
	super := mustConnect(t, url)
	mustExec(t, super, "CREATE SCHEMA relay")
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	files, err := fs.Sub(relaysql.Files, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	old, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithTableName("relay.schema_version"),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.UpTo(ctx, 2); err != nil {
		t.Fatal(err)
	}
	mustExec(t, super, `
INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o1', 'sales_order.confirmed', '{}');
INSERT INTO relay.progress (slot, system_id, timeline, end_lsn) VALUES ('relay', '1', 1, '0/1');
INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES ('acme', 'https://a.example', '{*}', 's');
INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id, committed_at, body)
	VALUES ('0/1', gen_random_uuid(), 'acme', 't', 'a', 'i', now(), '{}');
INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, next_attempt_at, created_at)
	SELECT s.id, b.commit_lsn, 0, b.event_id, gen_random_uuid(), 7, now(), now() FROM relay.subscriptions s, relay.bodies b;
INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id, commit_lsn, row_index,
		status, attempts, ended_at)
	SELECT gen_random_uuid(), now(), 'acme', s.id, gen_random_uuid(), 't', 'a', 'i', '0/2', 0, 'DEAD', 11, now() FROM relay.subscriptions s;
INSERT INTO relay.settled (slot, max_lsn, entries) VALUES ('relay', '0/2', '');
INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, raw) VALUES ('0/3', 0, now(), 'unknown_type', '', '');
INSERT INTO relay.requests (kind, target) VALUES ('retry_delivery', gen_random_uuid()::text)`)
	if _, err := migrate.Up(ctx, url); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"outbox.events", "relay.progress", "relay.subscriptions", "relay.bodies", "relay.parked", "relay.deliveries",
		"relay.settled", "relay.quarantine", "relay.requests"} {
		if n := mustString(t, super, "SELECT count(*)::text FROM "+table); n != "1" {
			t.Errorf("%s has %s rows, want the one from before", table, n)
		}
	}
	if n := mustString(t, super, "SELECT count(*)::text FROM relay.parked WHERE replay_id IS NULL AND next_attempt_at IS NOT NULL"); n != "1" {
		t.Error("what waited is not due any more")
	}
}
