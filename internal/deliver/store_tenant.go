package deliver

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

var (
	sqlBodyOf          = query("body_of")
	sqlSubscriptionsOf = query("subscriptions_of")
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

// Body returns what is sent, or ErrNotFound when nothing waits any more that needs it.
func (t TenantRecords) Body(ctx context.Context, id uuid.UUID) ([]byte, error) {
	from, to := interval{from: id, to: nextID(id)}.times()
	var body []byte
	err := reading(ctx, t.all.DB, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, sqlBodyOf, t.tenant, id, from, to).Scan(&body)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("body of delivery %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read body of delivery %s: %w", id, err)
	}
	return body, nil
}
