package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

var (
	sqlBodiesOf        = query("bodies_of")
	sqlSubscriptionsOf = query("subscriptions_of")
	sqlAfter           = query("after")
	sqlWatermark       = query("watermark")
	sqlMarks           = query("marks")
	sqlNothingUntil    = query("nothing_until")
)

// TenantRecords reads the deliveries of one tenant. What belongs to another is to it as if it did not exist.
type TenantRecords struct {
	all    Records
	tenant string
}

// Of returns the records of a tenant, which must not be "".
func (r Records) Of(tenant string) TenantRecords { return TenantRecords{r, tenant} }

// List returns deliveries, newest first; the filter's tenant is not looked at. See Records.List.
func (t TenantRecords) List(ctx context.Context, f Filter) ([]Record, error) {
	if t.tenant == "" {
		return nil, errNoTenant
	}
	f.TenantID = t.tenant
	// What waits has no tenant of its own, and must not be looked through for one that has little of it.
	rows, err := t.all.DB.Query(ctx, sqlSubscriptionsOf, t.tenant)
	if err == nil {
		f.among, err = pgx.AppendRows(make([]uuid.UUID, 0, 8), rows, pgx.RowTo[uuid.UUID])
	}
	if err != nil {
		return nil, fmt.Errorf("read subscriptions of tenant: %w", err)
	}
	return t.all.List(ctx, f)
}

// errNoTenant keeps a mistake of ours from showing all tenants' deliveries to one.
var errNoTenant = errors.New("records of no tenant")

// Get returns one delivery, or ErrNotFound.
func (t TenantRecords) Get(ctx context.Context, id uuid.UUID) (*Record, error) {
	if t.tenant == "" {
		return nil, errNoTenant
	}
	list, err := t.all.read(ctx, Filter{TenantID: t.tenant, Limit: 1}, interval{from: id, to: nextID(id)})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("delivery %s: %w", id, ErrNotFound)
	}
	return &list[0], nil
}

// Bodies returns what is sent of some deliveries, by their ids, as far as something waits that needs it.
func (t TenantRecords) Bodies(ctx context.Context, of []Record) (map[uuid.UUID][]byte, error) {
	if t.tenant == "" {
		return nil, errNoTenant
	}
	type key struct {
		lsn   string
		event uuid.UUID
	}
	var lsns []string
	var events []uuid.UUID
	for i := range of {
		lsns, events = append(lsns, of[i].commitLSN), append(events, of[i].EventID)
	}
	rows, err := t.all.DB.Query(ctx, sqlBodiesOf, t.tenant, lsns, events)
	if err != nil {
		return nil, fmt.Errorf("read bodies: %w", err)
	}
	found := make(map[key][]byte)
	var k key
	var body []byte
	if _, err := pgx.ForEachRow(rows, []any{&k.lsn, &k.event, &body}, func() error {
		found[k] = slices.Clone(body)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read bodies: %w", err)
	}
	out := make(map[uuid.UUID][]byte, len(found))
	for i := range of {
		if body, ok := found[key{of[i].commitLSN, of[i].EventID}]; ok {
			out[of[i].ID] = body
		}
	}
	return out, nil
}

// After returns those deliveries of one of the tenant's subscriptions, without their histories, that have numbers above one,
// and the last number that it has looked at, which is at least so many further on unless that is the watermark. What is not among
// them up to there is not on record, or not any more. The watermark is the number up to which that stays so.
func (t TenantRecords) After(ctx context.Context, sub uuid.UUID, number int64, many int) (list []Record, last, watermark int64, err error) {
	if t.tenant == "" {
		return nil, 0, 0, errNoTenant
	}
	err = Reading(ctx, t.all.DB, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, sqlWatermark, sub).Scan(&watermark)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // nothing was ever sent to it
		}
		if err != nil {
			return err
		}
		if last = watermark; last <= number {
			return nil
		}
		last = min(last, number+int64(many))
		var from, to *time.Time
		if err := tx.QueryRow(ctx, sqlMarks, sub, number, last).Scan(&from, &to); err != nil {
			return err
		}
		span := interval{to: uuid.Max}
		if from != nil {
			span.from = FirstID(from.Add(-markSlack))
		}
		if to != nil {
			span.to = FirstID(to.Add(markSlack + time.Millisecond))
		}
		begin, end := span.times()
		rows, err := tx.Query(ctx, sqlAfter, t.tenant, sub, number, last, span.from, span.to, begin, end)
		if err != nil {
			return err
		}
		if list, err = pgx.CollectRows(rows, scanRecord); err != nil || len(list) > 0 || last == watermark {
			return err
		}
		// Retention may have taken very many.
		var further int64
		err = tx.QueryRow(ctx, sqlNothingUntil, sub, last, watermark, markEvery).Scan(&further)
		last = max(last, further)
		return err
	})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read deliveries by number: %w", err)
	}
	return list, last, watermark, nil
}
