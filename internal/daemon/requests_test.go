package daemon_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Two commands at once: the one whose request has the lower number commits last.
func TestListen_CarriesOutARequestThatIsCommittedLate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start()
	defer d.stop()
	ctx := context.Background()
	late, err := pgx.Connect(ctx, r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Close(ctx) }()
	tx, err := late.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const ask = "INSERT INTO relay.requests (kind, target) VALUES ('retry_delivery', gen_random_uuid())"
	if _, err := tx.Exec(ctx, ask); err != nil {
		t.Fatal(err)
	}
	r.exec(ask)
	r.eventually("the second is carried out", func() bool { return r.number("SELECT count(*) FROM relay.requests") == 0 })
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	r.eventually("the first is carried out too", func() bool { return r.number("SELECT count(*) FROM relay.requests") == 0 })
}
