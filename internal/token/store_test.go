package token

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/migrate/migratetest"
)

func mustDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	url := migratetest.NewDatabase(t)
	db, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func mustCreate(t *testing.T, db DB, role Role, tenant string, expires time.Time) (*Token, string) {
	t.Helper()
	made, text, err := Store{db}.Create(t.Context(), role, tenant, "of a test", expires)
	if err != nil {
		t.Fatal(err)
	}
	return made, text.Reveal()
}

func TestStore_KeepsNoTokensText(t *testing.T) {
	t.Parallel()
	db := mustDatabase(t)
	_, text := mustCreate(t, db, RoleTenantWrite, "acme", time.Time{})
	var row string
	if err := db.QueryRow(t.Context(), "SELECT t::text || encode(hash, 'escape') FROM relay.tokens t").Scan(&row); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(row, text[len(prefix):lookupEnd]) {
		t.Error("the row does not have the lookup part: this test would find nothing")
	}
	if strings.Contains(row, text[lookupEnd:lookupEnd+8]) {
		t.Error("the row has a part of the secret text")
	}
}

func TestChecker_TellsWhoseATokenIs(t *testing.T) {
	t.Parallel()
	db := mustDatabase(t)
	for _, want := range []struct {
		role   Role
		tenant string
	}{{RoleTenantRead, "acme"}, {RoleTenantWrite, "globex"}, {RoleOperator, ""}} {
		made, text := mustCreate(t, db, want.role, want.tenant, time.Time{})
		got, err := NewChecker(db).Check(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != made.ID || got.Role != want.role || (got.TenantID == nil) != (want.tenant == "") ||
			got.TenantID != nil && *got.TenantID != want.tenant {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

func TestChecker_RefusesUnknownExpiredRevokedAndAltered(t *testing.T) {
	t.Parallel()
	db := mustDatabase(t)
	_, expired := mustCreate(t, db, RoleTenantWrite, "acme", time.Now().Add(-time.Second))
	gone, revoked := mustCreate(t, db, RoleTenantWrite, "acme", time.Time{})
	if err := (Store{db}).Revoke(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	_, good := mustCreate(t, db, RoleTenantWrite, "acme", time.Time{})
	// The right lookup part with another secret part and its right checksum: only the hash tells.
	other := generate().Reveal()
	altered := good[:lookupEnd] + other[lookupEnd:checksummed]
	altered += checksum(altered)
	c := NewChecker(db)
	if _, err := c.Check(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"unknown": other, "expired": expired, "revoked": revoked, "altered": altered} {
		if _, err := c.Check(t.Context(), text); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := c.Known(text); ok {
			t.Errorf("%s: known", name)
		}
	}
}

func TestChecker_HearsOfARevocationAndOfTheEndInTime(t *testing.T) {
	t.Parallel()
	db := mustDatabase(t)
	made, text := mustCreate(t, db, RoleTenantWrite, "acme", time.Time{})
	now := time.Now()
	c := NewChecker(db)
	c.now = func() time.Time { return now }
	if _, err := c.Check(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if err := (Store{db}).Revoke(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	now = now.Add(CacheFor)
	if _, err := c.Check(t.Context(), text); !errors.Is(err, ErrRefused) {
		t.Errorf("revoked %s ago: %v", CacheFor, err)
	}
	if CacheFor > 5*time.Second {
		t.Errorf("a revocation takes %s to hold", CacheFor)
	}
	// One that ends while it is in memory.
	_, short := mustCreate(t, db, RoleTenantWrite, "acme", now.Add(time.Hour))
	if _, err := c.Check(t.Context(), short); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	for lookup, k := range c.known {
		if k.ExpiresAt != nil {
			k.readAt = now.Add(2 * time.Hour)
			c.known[lookup] = k
		}
	}
	c.mu.Unlock()
	now = now.Add(2 * time.Hour)
	if _, ok := c.Known(short); ok {
		t.Error("a token in memory outlives its end")
	}
}

// A call must not cost a statement each, nor a write.
func TestChecker_AsksTheDatabaseOnceInAWhile(t *testing.T) {
	t.Parallel()
	db := mustDatabase(t)
	_, text := mustCreate(t, db, RoleTenantWrite, "acme", time.Time{})
	counted := &countingDB{DB: db}
	c := NewChecker(counted)
	now := time.Now()
	c.now = func() time.Time { return now }
	for range 100 {
		if _, err := c.Check(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	if counted.n != 1 {
		t.Errorf("%d statements for 100 checks", counted.n)
	}
	var first, second time.Time
	read := func(to *time.Time) {
		if err := db.QueryRow(t.Context(), "SELECT last_used_at FROM relay.tokens").Scan(to); err != nil {
			t.Fatal(err)
		}
	}
	read(&first)
	now = now.Add(CacheFor)
	if _, err := c.Check(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if read(&second); !second.Equal(first) {
		t.Error("use is written down more than once a minute")
	}
}

type countingDB struct {
	DB
	n int
}

func (c *countingDB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	c.n++
	return c.DB.QueryRow(ctx, sql, args...)
}

func TestStore_ListsAndRevokes(t *testing.T) {
	t.Parallel()
	db := mustDatabase(t)
	first, _ := mustCreate(t, db, RoleTenantRead, "acme", time.Time{})
	_, _ = mustCreate(t, db, RoleOperator, "", time.Time{})
	store := Store{db}
	if err := store.Revoke(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	list, err := store.List(t.Context(), "acme")
	if err != nil || len(list) != 1 || list[0].RevokedAt == nil {
		t.Fatalf("%+v, %v", list, err)
	}
	again := *list[0].RevokedAt
	if err := store.Revoke(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if list, err = store.List(t.Context(), ""); err != nil || len(list) != 2 || !list[0].RevokedAt.Equal(again) {
		t.Errorf("revoked twice: %+v, %v", list, err)
	}
	if err := store.Revoke(t.Context(), uuid.New()); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown id: %v", err)
	}
}

func TestToken_PrintsWithoutItsText(t *testing.T) {
	t.Parallel()
	text := generate()
	for _, verb := range []string{"%v", "%s", "%q", "%+v", "%#v", "%x"} {
		if got := fmt.Sprintf(verb, text); strings.Contains(got, text.Reveal()) {
			t.Errorf("%s prints it", verb)
		}
	}
}
