package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/progress"
)

// errNoTable is returned when there is no outbox table.
var errNoTable = errors.New("the outbox table does not exist")

// findTable makes sure that the table is there. was is what progress belongs to: a table that was renamed is found by its
// oid.
func findTable(ctx context.Context, db cdc.Queryer, have, was progress.Binding) error {
	if have.TableOID != 0 {
		return nil
	}
	var now string
	if err := db.QueryRow(ctx, `SELECT coalesce((SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = $1), '')`, was.TableOID).Scan(&now); err != nil {
		return fmt.Errorf("look for table %s: %w", have.Table, err)
	}
	remedy := "create it, or correct outbox.table"
	switch {
	case now != "" && was.Table == have.Table:
		remedy = fmt.Sprintf("it is called %s now: set outbox.table to that name, or rename it back", now)
	case have.Table == outbox.DefaultTable:
		remedy = "`relay migrate` makes it"
	}
	return health.Errorf(health.Misconfigured, remedy, "%w: %s", errNoTable, have.Table)
}
