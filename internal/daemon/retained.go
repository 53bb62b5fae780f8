package daemon

import (
	"context"
	"errors"
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

// Retained reads what the outbox still has.
type Retained struct {
	Settings *Settings
	Catalog  *outbox.Catalog
	DB       audit.Beginner
	Within   time.Duration // a query that takes longer is given up; 0: it takes as long as it takes
}

// Count counts what a replay would send, by event type, and names what it would skip. It reads the payloads that decide about
// that: all of them for a subscription with a filter, otherwise those of types of which some events say nothing.
func (r Retained) Count(ctx context.Context, sub *deliver.Subscription, events []string, from, to time.Time) (deliver.ReplayFound, error) {
	found := deliver.ReplayFound{Events: []deliver.ReplayCount{}, Skips: []deliver.ReplaySkip{}}
	t := newReplayTable(r.Settings, r.Catalog)
	t.outbox.StatementTimeout = r.Within
	tx, err := t.outbox.BeginReading(ctx, r.DB)
	if err != nil {
		return found, fmt.Errorf("count rows: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	suppressing := slices.DeleteFunc(r.Catalog.Suppressing(), func(name string) bool { return !sub.MatchesReplay(events, name) })
	rows, err := tx.Query(ctx, t.countQuery(sub.Filter != nil), from, to, sub.TenantID, suppressing)
	if err != nil {
		return found, fmt.Errorf("count rows: %w", err)
	}
	counts := make(map[string]int64)
	var aggregate, typ string
	var n int64
	var id, status, why *string
	var payload []byte
	if _, err := pgx.ForEachRow(rows, []any{&aggregate, &typ, &n, &id, &status, &why, &payload}, func() error {
		name := r.Catalog.NameOf(aggregate, typ)
		if !sub.MatchesReplay(events, name) {
			return nil
		}
		var skip *deliver.ReplaySkip
		switch {
		case status != nil:
			skip = &deliver.ReplaySkip{EventID: *id, Reason: *status, Detail: *why}
		case id != nil && !sub.Filter.Match(filter.NewPayload(payload)):
			return nil
		case id != nil && r.Catalog.Suppressed(name, payload):
			skip = skipSuppressed(*id)
		}
		counts[name] += n
		if skip != nil {
			found.Skipped++
			if len(found.Skips) < deliver.MaxReplaySkips {
				found.Skips = append(found.Skips, *skip)
			}
		}
		return nil
	}); err != nil {
		return found, fmt.Errorf("count rows: %w", err)
	}
	for name, n := range counts {
		found.Rows += n
		found.Events = append(found.Events, deliver.ReplayCount{Event: name, Rows: n})
	}
	slices.SortFunc(found.Events, func(a, b deliver.ReplayCount) int { return strings.Compare(a.Event, b.Event) })
	return found, nil
}

// Latest returns the events of a tenant that were written last, newest first, up to a number. Rows that are no events, and
// those that say nothing, are not among them.
func (r Retained) Latest(ctx context.Context, tenant string, number int) ([]outbox.Event, error) {
	mapper, err := r.mapper()
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
	if err != nil || len(list) == 0 {
		return nil, err
	}
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].ID.String()
	}
	rejected, err := outbox.ReadRejected(ctx, tx, ids)
	list = slices.DeleteFunc(list, func(e outbox.Event) bool {
		_, no := rejected[e.ID.String()]
		return no
	})
	slices.SortStableFunc(list, func(a, b outbox.Event) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return list, err
}

// mapper maps rows that were taken in before.
func (r Retained) mapper() (*outbox.Mapper, error) {
	o := mappingOptions(r.Settings)
	o.Retained = true
	return outbox.NewMapper(o, r.Catalog)
}

// Bodies returns what receivers got of some deliveries, by the id of the delivery, as far as the outbox still has the rows.
// It is what they got, whatever the catalog says by now.
func (r Retained) Bodies(ctx context.Context, of []deliver.Record) (map[uuid.UUID][]byte, error) {
	mapper, err := r.mapper()
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
		if e, err := mapper.Map(row); err == nil || errors.Is(err, outbox.ErrSuppressed) {
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
		e.Type = of[i].Event
		out[of[i].ID] = e.Body()
	}
	return out, nil
}
