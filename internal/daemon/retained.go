package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/filter"
	"github.com/outbox-relay/relay/internal/outbox"
)

// ReplayCount is how many rows of one type a replay would send.
type ReplayCount struct {
	Event string `json:"event"`
	Rows  int64  `json:"rows"`
}

// Retained reads what the outbox still has.
type Retained struct {
	Settings *Settings
	Catalog  *outbox.Catalog
	DB       audit.Beginner
	Within   time.Duration // a query that takes longer is given up; 0: it takes as long as it takes
}

// Count counts what a replay would send, by event type. Rows that are no valid events
// are among them. For a subscription with a filter it reads all payloads.
func (r Retained) Count(ctx context.Context, sub *deliver.Subscription, events []string, from, to time.Time) ([]ReplayCount, error) {
	t := newReplayTable(r.Settings, r.Catalog)
	t.outbox.StatementTimeout = r.Within
	tx, err := t.outbox.BeginReading(ctx, r.DB)
	if err != nil {
		return nil, fmt.Errorf("count rows: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	count, group := "count(*), NULL::text", "GROUP BY 1, 2"
	if sub.Filter != nil {
		count, group = "1::bigint, "+pgx.Identifier{t.columns.Payload}.Sanitize()+"::text", ""
	}
	rows, err := tx.Query(ctx, fmt.Sprintf("SELECT %[1]s, %[2]s, %[5]s FROM %[3]s WHERE %[4]s %[6]s",
		pgx.Identifier{t.columns.AggregateType}.Sanitize(), pgx.Identifier{t.columns.EventType}.Sanitize(), t.table, t.span(), count, group),
		from, to, sub.TenantID)
	if err != nil {
		return nil, fmt.Errorf("count rows: %w", err)
	}
	counts := make(map[string]int64)
	var aggregate, typ string
	var n int64
	var payload []byte
	if _, err := pgx.ForEachRow(rows, []any{&aggregate, &typ, &n, &payload}, func() error {
		name := t.types.of(aggregate, typ)
		if name != "" && sub.MatchesReplay(events, name) && sub.Filter.Match(filter.NewPayload(payload)) {
			counts[name] += n
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("count rows: %w", err)
	}
	out := make([]ReplayCount, 0, len(counts))
	for name, n := range counts {
		out = append(out, ReplayCount{Event: name, Rows: n})
	}
	slices.SortFunc(out, func(a, b ReplayCount) int { return strings.Compare(a.Event, b.Event) })
	return out, nil
}

// Latest returns the events of a tenant that were written last, newest first, up to a number. Rows that are no events, and
// those that say nothing, are not among them.
func (r Retained) Latest(ctx context.Context, tenant string, number int) ([]outbox.Event, error) {
	mapper, err := outbox.NewMapper(mappingOptions(r.Settings), r.Catalog)
	if err != nil {
		return nil, err
	}
	table := AuditTable(r.Settings)
	table.StatementTimeout = r.Within
	tx, err := table.BeginReading(ctx, r.DB)
	if err != nil {
		return nil, fmt.Errorf("read the latest rows: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var list []outbox.Event
	err = outbox.ReadLatest(ctx, tx, r.Settings.Outbox.Table, mappingOptions(r.Settings).Columns, tenant, number, func(row cdc.Row) {
		if event, err := mapper.Map(row); err == nil {
			list = append(list, event)
		}
	})
	slices.SortStableFunc(list, func(a, b outbox.Event) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return list, err
}

// Bodies returns what receivers got of some deliveries, by the id of the delivery, as far as the outbox still has the rows.
// It is what they got unless the catalog was changed since, which decides about types, not about data.
func (r Retained) Bodies(ctx context.Context, of []deliver.Record) (map[uuid.UUID][]byte, error) {
	mapper, err := outbox.NewMapper(mappingOptions(r.Settings), r.Catalog)
	if err != nil {
		return nil, err
	}
	var places []outbox.Place
	for i := range of {
		if of[i].XID != nil {
			places = append(places, outbox.Place{ID: of[i].EventID.String(), XID: uint64(*of[i].XID)}) // #nosec G115 -- the bits, as PostgreSQL casts it
		}
	}
	if len(places) == 0 {
		return nil, nil
	}
	table := AuditTable(r.Settings)
	table.StatementTimeout = r.Within
	tx, err := table.BeginNarrow(ctx, r.DB)
	if err != nil {
		return nil, fmt.Errorf("read bodies: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	events := make(map[uuid.UUID]outbox.Event, len(places))
	if err := outbox.ReadPlaces(ctx, tx, r.Settings.Outbox.Table, mappingOptions(r.Settings).Columns, places, func(row cdc.Row) {
		if e, err := mapper.Map(row); err == nil {
			events[e.ID] = e
		}
	}); err != nil {
		return nil, err
	}
	out := make(map[uuid.UUID][]byte, len(events))
	for i := range of {
		e, ok := events[of[i].EventID]
		if !ok || e.TenantID != of[i].TenantID {
			continue
		}
		if e.CreatedAt.IsZero() {
			e.CreatedAt = of[i].CreatedAt
		}
		out[of[i].ID] = e.Body()
	}
	return out, nil
}
