package deliver

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Record is a delivery as tenants and operators see it.
type Record struct {
	ID             uuid.UUID  `json:"id"`
	EventID        uuid.UUID  `json:"event_id"`
	SubscriptionID uuid.UUID  `json:"subscription_id"`
	TenantID       string     `json:"tenant_id"`
	Event          string     `json:"event"`
	AggregateType  string     `json:"aggregate_type"`
	AggregateID    string     `json:"aggregate_id"`
	Status         Status     `json:"status"`
	Attempts       int        `json:"attempts"`
	LastError      *string    `json:"last_error"`
	LastStatusCode *int       `json:"last_status_code"`
	CreatedAt      time.Time  `json:"created_at"` // commit time of the event's transaction
	EndedAt        *time.Time `json:"ended_at"`
	DeliveredAt    *time.Time `json:"delivered_at"`
	NextAttemptAt  *time.Time `json:"next_attempt_at"`
	// Waits tells that an earlier event of the same key is ahead of it.
	Waits bool `json:"waits_for_earlier"`
	// DurationMicros is how long the last attempt took.
	DurationMicros *int            `json:"duration_us"`
	History        json.RawMessage `json:"failed_attempts"`
}

// Filter narrows a list of deliveries; zero fields match everything.
type Filter struct {
	Status       Status
	TenantID     string
	Event        string
	Subscription uuid.UUID
	Before       uuid.UUID // the id after which a page goes on
	Limit        int
}

// Records reads deliveries.
type Records struct{ DB Pool }

func idOrNil(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

// List returns deliveries, newest first. What is in memory only, for at most the
// hand-over time and one recording interval, is not among them yet.
func (r Records) List(ctx context.Context, f Filter) ([]Record, error) {
	return r.read(ctx, f, uuid.Nil)
}

// Get returns one delivery, or ErrNotFound.
func (r Records) Get(ctx context.Context, id uuid.UUID) (*Record, error) {
	list, err := r.read(ctx, Filter{Limit: 1}, id)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("delivery %s: %w", id, ErrNotFound)
	}
	return &list[0], nil
}

func (r Records) read(ctx context.Context, f Filter, id uuid.UUID) ([]Record, error) {
	rows, err := r.DB.Query(ctx, sqlDeliveries, string(f.Status), f.TenantID, f.Event, idOrNil(f.Subscription),
		idOrNil(f.Before), idOrNil(id), f.Limit)
	if err != nil {
		return nil, fmt.Errorf("read deliveries: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Record, error) {
		var d Record
		err := row.Scan(&d.ID, &d.EventID, &d.SubscriptionID, &d.TenantID, &d.Event, &d.AggregateType, &d.AggregateID,
			&d.Status, &d.Attempts, &d.LastError, &d.LastStatusCode, &d.CreatedAt, &d.EndedAt, &d.NextAttemptAt,
			&d.Waits, &d.DurationMicros, &d.History)
		if d.Status == StatusDelivered {
			d.DeliveredAt = d.EndedAt
		}
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("read deliveries: %w", err)
	}
	return list, nil
}

// Kinds of requests to the leader.
const (
	RequestRetryDelivery   = "retry_delivery"
	RequestRetryQuarantine = "retry_quarantine"
)

// Ask leaves a request for the leader and returns its number.
func Ask(ctx context.Context, db Pool, kind, target string) (int64, error) {
	var id int64
	if err := db.QueryRow(ctx, "INSERT INTO relay.requests (kind, target) VALUES ($1, $2) RETURNING id", kind, target).Scan(&id); err != nil {
		return 0, fmt.Errorf("ask the relay to %s %s: %w", kind, target, err)
	}
	return id, nil
}

// Await waits until the leader has carried out a request, and tells whether it
// has before ctx ended.
func Await(ctx context.Context, db Pool, request int64) (bool, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var waits bool
		if err := db.QueryRow(ctx, "SELECT EXISTS (SELECT FROM relay.requests WHERE id = $1)", request).Scan(&waits); err != nil {
			if ctx.Err() != nil {
				return false, nil
			}
			return false, fmt.Errorf("wait for the relay: %w", err)
		}
		if !waits {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
	}
}
