package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/progress"
)

// Gap is what a rescue would read from the table now.
type Gap struct {
	Fault    string           `json:"fault"`     // empty: the database shows none
	Marker   string           `json:"marker"`    // snapshot up to which all is proved, empty for none
	MarkerAt *time.Time       `json:"marker_at"` // when that was found out
	Rows     int              `json:"rows"`      // that the marker does not show
	Recorded int              `json:"recorded"`  // of them, those on record as settled
	Events   []outbox.Counted `json:"events"`    // the others, by type as the writers gave it
}

// ReadGap tells what a rescue would read from the table, and changes nothing.
func ReadGap(ctx context.Context, db *pgxpool.Pool, c *Settings) (*Gap, error) {
	state, err := progress.Load(ctx, db, c.CDC.Slot)
	if errors.Is(err, progress.ErrNone) {
		return nil, fmt.Errorf("%w: no relay has ever led with slot %s; the first one reads all of the table", err, c.CDC.Slot)
	}
	if err != nil {
		return nil, err
	}
	g := &Gap{Marker: state.Marker, Events: []outbox.Counted{}}
	var database, snapshot string
	if err := db.QueryRow(ctx, `SELECT current_database(), pg_current_snapshot()::text,
		(SELECT marker_at FROM relay.progress WHERE slot = $1)`, c.CDC.Slot).Scan(&database, &snapshot, &g.MarkerAt); err != nil {
		return nil, fmt.Errorf("read gap: %w", err)
	}
	switch fault := findHole(ctx, db, c, database, state); {
	case errors.Is(fault, ErrSlotGap), errors.Is(fault, errForeignSlot), errors.Is(fault, cdc.ErrPublicationMissing),
		errors.Is(fault, cdc.ErrPublicationIncomplete):
		g.Fault = fault.Error()
	case fault != nil:
		return nil, fault
	}
	recorded, err := progress.Accounted(ctx, db, c.CDC.Slot)
	if err != nil {
		return nil, err
	}
	known := make(map[uint64]bool, len(recorded))
	for _, t := range recorded {
		known[t.XID] = true
	}
	return g, g.count(ctx, db, c, snapshot, known)
}

func (g *Gap) count(ctx context.Context, db *pgxpool.Pool, c *Settings, snapshot string, known map[uint64]bool) error {
	table := AuditTable(c)
	tx, err := table.BeginReading(ctx, db)
	if err != nil {
		return fmt.Errorf("read gap: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if g.Marker != "" {
		if err := audit.ByIndex(ctx, tx); err != nil {
			return fmt.Errorf("read gap: %w", err)
		}
	}
	quote := func(name string) string { return pgx.Identifier{name}.Sanitize() }
	rows, err := tx.Query(ctx, "SELECT "+quote(table.Columns.XID)+"::text::bigint, "+quote(mappingOptions(c).Columns.EventType)+"::text, count(*) FROM "+
		table.Quoted()+" WHERE "+table.Between()+" GROUP BY 1, 2", snapshot, g.Marker)
	if err != nil {
		return fmt.Errorf("read gap: %w", err)
	}
	var xid int64
	var name string
	var n int
	byName := make(map[string]int)
	if _, err := pgx.ForEachRow(rows, []any{&xid, &name, &n}, func() error {
		g.Rows += n
		if known[uint64(xid)] { // #nosec G115 -- not negative
			g.Recorded += n
			return nil
		}
		byName[name] += n
		return nil
	}); err != nil {
		return fmt.Errorf("read gap: %w", err)
	}
	g.Events = outbox.SortCounts(byName)
	return nil
}

// AuditOptions are what a configuration says about audit.MakeReport.
func AuditOptions(c *Settings) (audit.ReportOptions, error) {
	catalog, err := outbox.NewCatalog(c.Catalog.Files...)
	if err != nil {
		return audit.ReportOptions{}, err
	}
	return audit.ReportOptions{Slot: c.CDC.Slot, Mapping: mappingOptions(c), Catalog: catalog,
		Records: c.Deliver.Log == config.LogAll}, nil
}
