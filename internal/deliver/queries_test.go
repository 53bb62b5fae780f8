package deliver

import (
	"testing"

	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestQueries_PrepareAgainstTheMigratedSchema(t *testing.T) {
	pgtest.Prepare(t, newWorld(t).pool, queryFiles)
}
