package main

import (
	"context"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestMigrate_SaysWhatARelayWouldLack(t *testing.T) {
	t.Parallel()
	c := pgtest.NewCluster(t, pgcluster.Options{Settings: map[string]string{"wal_level": "replica", "max_replication_slots": "0", "max_wal_senders": "2"}})
	database, err := c.CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	var done struct {
		Version  int
		Warnings []health.Condition
	}
	call(t, "migrate", "--database-url", database, "-o", "json").exits(0).complains("ALTER SYSTEM SET wal_level = 'logical', then restart PostgreSQL",
		"ALTER SYSTEM SET max_replication_slots = 1").decode(&done)
	if done.Version == 0 || len(done.Warnings) != 2 || done.Warnings[0].State != health.Misconfigured || done.Warnings[1].State != health.OutOfResources {
		t.Errorf("%+v", done)
	}
}

func TestMigrate_NamesTheStatementThatItsRoleLacks(t *testing.T) {
	t.Parallel()
	c := pgtest.NewCluster(t)
	database, err := c.CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	super := connect(t, database)
	if _, err := super.Exec(t.Context(), `CREATE ROLE "Plain" LOGIN`); err != nil {
		t.Fatal(err)
	}
	plain := asUser(t, database, "Plain")
	call(t, "migrate", "--database-url", plain).exits(exitFailed).complains(`GRANT CREATE ON DATABASE app TO "Plain"`)
	if _, err := super.Exec(t.Context(), `GRANT CREATE ON DATABASE app TO "Plain"`); err != nil {
		t.Fatal(err)
	}
	call(t, "migrate", "--database-url", plain).exits(0).complains(`ALTER ROLE "Plain" REPLICATION`)
	if _, err := super.Exec(t.Context(), "ALTER DATABASE app SET default_transaction_read_only = on"); err != nil {
		t.Fatal(err)
	}
	call(t, "migrate", "--database-url", plain).exits(exitFailed).complains("takes no writes", "RESET default_transaction_read_only")
	call(t, "migrate", "--database-url", asUser(t, database, "nobody")).exits(exitFailed).complains("CREATE ROLE nobody LOGIN")
}

func connect(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func asUser(t *testing.T, database, user string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(user)
	return u.String()
}
