package outbox_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/outbox"
)

func TestQuarantine_ReadsCountsAndDiscardsRows(t *testing.T) {
	ctx := t.Context()
	url := migratetest.NewDatabase(t)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	q := outbox.Quarantine{DB: conn}
	for i := range 3 {
		if _, err := conn.Exec(ctx, `INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, tenant_id, raw)
			VALUES ('A/B', $1, now(), 'unknown_type', 'what', 'acme', '\x00ff')`, i); err != nil {
			t.Fatal(err)
		}
	}
	list, err := q.List(ctx, 2)
	if err != nil || len(list) != 2 || list[0].ID >= list[1].ID || list[0].Raw != nil || list[1].RowIndex != 1 {
		t.Fatalf("list: %+v, %v", list, err)
	}
	one, err := q.Get(ctx, list[0].ID)
	if err != nil || string(one.Raw) != "\x00\xff" || one.CommitLSN != "A/B" || *one.TenantID != "acme" || one.EventID != nil {
		t.Errorf("get: %+v, %v", one, err)
	}
	if err := q.Discard(ctx, one.ID); err != nil {
		t.Fatal(err)
	}
	if n, err := q.Count(ctx); err != nil || n != 2 {
		t.Errorf("%d rows are left, %v, want 2", n, err)
	}
	_, gone := q.Get(ctx, one.ID)
	for _, err := range []error{gone, q.Discard(ctx, one.ID)} {
		if !errors.Is(err, outbox.ErrNotQuarantined) {
			t.Errorf("got %v, want ErrNotQuarantined", err)
		}
	}
}
