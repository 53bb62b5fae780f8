package deliver

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Overview is what needs somebody's attention, over all tenants.
type Overview struct {
	Dead      int64             `json:"dead"`          // dead letters on record
	DeadToday int64             `json:"dead_last_24h"` // of these
	Failing   int64             `json:"failing"`       // active subscriptions whose endpoint has taken nothing since it first failed
	Disabled  int64             `json:"disabled"`      // that the relay has disabled
	Endpoints []EndpointTrouble `json:"endpoints"`     // the worst of both, disabled ones first, then those that have failed longest
}

// EndpointTrouble is an endpoint that fails or is disabled.
type EndpointTrouble struct {
	SubscriptionID uuid.UUID `json:"subscription_id"`
	TenantID       string    `json:"tenant_id"`
	Host           string    `json:"host"`
	State          string    `json:"state"` // failing, circuit_open or disabled
	Since          time.Time `json:"since"`
	Reason         *string   `json:"reason"` // of a disabled one
}

// Overview looks for what needs attention, and names so many endpoints of each state.
func (r Records) Overview(ctx context.Context, most int) (*Overview, error) {
	o := &Overview{Endpoints: []EndpointTrouble{}}
	if err := r.DB.QueryRow(ctx, sqlDeadCount).Scan(&o.Dead, &o.DeadToday); err != nil {
		return nil, fmt.Errorf("count dead letters: %w", err)
	}
	rows, err := r.DB.Query(ctx, sqlEndpointTrouble, most)
	if err != nil {
		return nil, fmt.Errorf("read failing endpoints: %w", err)
	}
	var t EndpointTrouble
	var raw string
	if _, err := pgx.ForEachRow(rows, []any{&t.SubscriptionID, &t.TenantID, &raw, &t.State, &t.Since, &t.Reason, &o.Failing, &o.Disabled}, func() error {
		t.Host = "-"
		if u, err := url.Parse(raw); err == nil && u.Host != "" {
			t.Host = u.Host
		}
		o.Endpoints = append(o.Endpoints, t)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read failing endpoints: %w", err)
	}
	return o, nil
}
