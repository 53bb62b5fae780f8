package api

import (
	"testing"

	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestQueries_PrepareAgainstTheMigratedSchema(t *testing.T) {
	t.Parallel()
	pgtest.Prepare(t, newWorld(t).db, queryFiles)
}
