package deliver

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Kinds of requests to the leader.
const (
	RequestRetryDelivery   = "retry_delivery"
	RequestDiscardDelivery = "discard_delivery"
	RequestRetryQuarantine = "retry_quarantine"
	RequestRescue          = "rescue"        // target: the slot
	RequestLetTenantGo     = "let_tenant_go" // target: the tenant, whose subscriptions are removed
)

var (
	sqlAsk   = query("ask")
	sqlAsked = query("asked")
)

// awaitEvery is how often Await looks.
const awaitEvery = 50 * time.Millisecond

// Ask leaves requests for the leader, all or none, and returns their numbers by
// target. A target that is named twice is asked for twice and returned once.
func Ask(ctx context.Context, db querier, kind string, targets []string) (map[string]int64, error) {
	rows, err := db.Query(ctx, sqlAsk, kind, targets)
	if err != nil {
		return nil, fmt.Errorf("ask the relay to %s: %w", kind, err)
	}
	asked := make(map[string]int64, len(targets))
	var id int64
	var target string
	if _, err := pgx.ForEachRow(rows, []any{&id, &target}, func() error {
		asked[target] = id
		return nil
	}); err != nil {
		return nil, fmt.Errorf("ask the relay to %s: %w", kind, err)
	}
	return asked, nil
}

// Await waits until the leader has carried out requests, or ctx ends, and
// returns the numbers of those that still wait then.
func Await(ctx context.Context, db querier, requests []int64) ([]int64, error) {
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	for {
		rows, err := db.Query(ctx, sqlAsked, requests)
		var waiting []int64
		if err == nil {
			waiting, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return requests, nil
		case err != nil:
			return nil, fmt.Errorf("wait for the relay: %w", err)
		case len(waiting) == 0:
			return nil, nil
		}
		requests = waiting
		select {
		case <-ctx.Done():
			return requests, nil
		case <-tick.C:
		}
	}
}
