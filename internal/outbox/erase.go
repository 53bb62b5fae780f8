package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// EraseTable is the table whose rows Erasure can erase: the relay's own. Whoever has another one knows what else needs its rows.
const EraseTable = "outbox.events"

// eraseRows is how many rows one statement of an erasure deletes, eraseBlocks how many pages of a partition it looks at:
// 16 MiB, because there is no index by tenant.
const (
	eraseRows   = 1000
	eraseBlocks = 2048
)

// Erasure removes what this package keeps of one tenant, a bounded part with each statement. It can be repeated.
type Erasure struct {
	DB     quarantineDB
	Tenant string
}

// Quarantined counts the tenant's rows in quarantine. One whose tenant could not be read is nobody's.
func (e Erasure) Quarantined(ctx context.Context) (n int64, err error) {
	if err := e.DB.QueryRow(ctx, "SELECT count(*) FROM relay.quarantine WHERE tenant_id = $1", e.Tenant).Scan(&n); err != nil {
		return 0, fmt.Errorf("count quarantined rows: %w", err)
	}
	return n, nil
}

// EraseQuarantined removes them and returns how many there were, and what is on record of those that were discarded.
func (e Erasure) EraseQuarantined(ctx context.Context) (all int64, err error) {
	if _, err := e.DB.Exec(ctx, "DELETE FROM relay.discarded WHERE tenant_id = $1", e.Tenant); err != nil {
		return 0, fmt.Errorf("erase discarded rows: %w", err)
	}
	for {
		tag, err := e.DB.Exec(ctx, `DELETE FROM relay.quarantine WHERE id IN
			(SELECT id FROM relay.quarantine WHERE tenant_id = $1 ORDER BY id LIMIT $2)`, e.Tenant, eraseRows)
		if err != nil {
			return all, fmt.Errorf("erase quarantined rows: %w", err)
		}
		if all += tag.RowsAffected(); tag.RowsAffected() < eraseRows {
			return all, nil
		}
	}
}

// Events counts the tenant's rows in EraseTable.
func (e Erasure) Events(ctx context.Context) (n int64, err error) {
	if err := e.DB.QueryRow(ctx, "SELECT count(*) FROM "+EraseTable+" WHERE tenant_id = $1", e.Tenant).Scan(&n); err != nil {
		return 0, fmt.Errorf("count rows of the outbox: %w", err)
	}
	return n, nil
}

// EraseEvents removes them and returns how many there were. It walks through each partition, so a row that is moved to another
// one meanwhile may be left: Events tells. A relay that has not read a row yet gets it from the WAL all the same.
func (e Erasure) EraseEvents(ctx context.Context) (all int64, err error) {
	leaves, err := leavesOf(ctx, e.DB, EraseTable)
	if err != nil {
		return 0, fmt.Errorf("list partitions: %w", err)
	}
	for _, l := range leaves {
		for from := int64(0); from < l.pages; from += eraseBlocks {
			tag, err := e.DB.Exec(ctx, "DELETE FROM ONLY "+l.name+
				" WHERE ctid >= $2::text::tid AND ctid < $3::text::tid AND tenant_id = $1",
				e.Tenant, fmt.Sprintf("(%d,0)", from), fmt.Sprintf("(%d,0)", from+eraseBlocks))
			if gone, ok := errors.AsType[*pgconn.PgError](err); ok && gone.Code == "42P01" {
				break // retention has dropped the partition
			}
			if err != nil {
				return all, fmt.Errorf("erase rows of %s: %w", l.name, err)
			}
			all += tag.RowsAffected()
		}
	}
	return all, nil
}
