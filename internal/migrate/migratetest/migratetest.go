// Package migratetest gives each test a database with the relay's schemas.
package migratetest

import (
	"context"
	"testing"

	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// NewDatabase is pgtest.NewDatabase with all migrations in it. They run once a test binary.
func NewDatabase(t testing.TB) string {
	t.Helper()
	return pgtest.NewCopy(t, func(ctx context.Context, url string) error {
		_, err := migrate.Up(ctx, url)
		return err
	})
}
