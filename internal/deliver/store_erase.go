package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

var (
	sqlEraseOf            = query("erase_of")
	sqlEraseSubscriptions = query("erase_subscriptions")
	sqlEraseParked        = query("erase_parked")
	sqlEraseFailing       = query("erase_failing")
	sqlEraseReplays       = query("erase_replays")
	sqlEraseDeliveries    = query("erase_deliveries")
	sqlEraseBodies        = query("erase_bodies")
	sqlEraseCount         = query("erase_count")
	sqlEraseHeld          = query("erase_held")
	sqlLeads              = query("leads")
	sqlUnask              = query("unask")
)

// eraseRows is how many rows one statement of an erasure deletes, or looks at.
const eraseRows = 2000

// ErrNotLetGo is returned when a relay leads and has not let go of a tenant in time.
var ErrNotLetGo = errors.New("a relay leads and has not let go of the tenant's subscriptions yet; call it again")

// Erasure removes what this package keeps of one tenant, a bounded number of rows with each statement. All of it can be
// repeated, and goes on where it was cut off.
type Erasure struct {
	DB     Pool
	Tenant string
}

// Kept counts what is kept of a tenant.
type Kept struct {
	Subscriptions int64 `json:"subscriptions"`
	Waiting       int64 `json:"waiting"` // deliveries that wait, or halt their key
	Bodies        int64 `json:"bodies"`
	Deliveries    int64 `json:"deliveries"` // that ended
	Replays       int64 `json:"replays"`
}

// Count counts without touching anything.
func (e Erasure) Count(ctx context.Context) (k Kept, err error) {
	subs, err := e.subscriptions(ctx)
	if err != nil {
		return k, err
	}
	return e.count(ctx, subs)
}

func (e Erasure) count(ctx context.Context, subs []uuid.UUID) (k Kept, err error) {
	err = Reading(ctx, e.DB, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, sqlEraseCount, e.Tenant, subs).Scan(&k.Subscriptions, &k.Waiting, &k.Bodies, &k.Deliveries, &k.Replays)
	})
	if err != nil {
		return k, fmt.Errorf("count what is kept of the tenant: %w", err)
	}
	return k, nil
}

func (e Erasure) subscriptions(ctx context.Context) ([]uuid.UUID, error) {
	rows, err := e.DB.Query(ctx, sqlEraseOf, e.Tenant)
	if err == nil {
		var ids []uuid.UUID
		if ids, err = pgx.AppendRows(make([]uuid.UUID, 0, 8), rows, pgx.RowTo[uuid.UUID]); err == nil {
			return ids, nil
		}
	}
	return nil, fmt.Errorf("read subscriptions of tenant: %w", err)
}

// Erase removes the tenant's subscriptions, and when nobody holds anything of them any more all that was kept of them. A relay
// that leads has counts and deliveries of them in memory, and is the one that cancels what waits: it is asked to, has wait for
// an answer and patience for each further step, and settle to record attempts that were on the wire. While none leads, the rows
// are deleted here. The counts are right also when there is an error; with ErrNotLetGo the subscriptions are gone already. What
// waited and was cancelled is counted a second time, with the records of what ended.
func (e Erasure) Erase(ctx context.Context, wait, patience, settle time.Duration) (Kept, error) {
	var gone Kept
	subs, err := e.subscriptions(ctx)
	if err != nil {
		return gone, err
	}
	before, err := e.count(ctx, subs)
	if err != nil {
		return gone, err
	}
	if gone.Subscriptions, err = e.repeat(ctx, "subscriptions", sqlEraseSubscriptions, e.Tenant); err != nil {
		return gone, err
	}
	if err := e.letGo(ctx, subs, wait, patience, settle); err != nil {
		return gone, err
	}
	gone.Waiting = before.Waiting
	if _, err := e.DB.Exec(ctx, sqlEraseFailing, subs); err != nil {
		return gone, fmt.Errorf("erase what is failing: %w", err)
	}
	if gone.Replays, err = e.repeat(ctx, "replays", sqlEraseReplays, e.Tenant); err != nil {
		return gone, err
	}
	if gone.Deliveries, err = e.repeat(ctx, "deliveries", sqlEraseDeliveries, e.Tenant); err != nil {
		return gone, err
	}
	gone.Bodies, err = e.bodies(ctx)
	return gone, err
}

// letGo returns when no relay has anything of the subscriptions, which are removed, and no row waits for them.
func (e Erasure) letGo(ctx context.Context, subs []uuid.UUID, wait, patience, settle time.Duration) error {
	asked, err := Ask(ctx, e.DB, RequestLetTenantGo, []string{e.Tenant})
	if err != nil {
		return err
	}
	request := []int64{asked[e.Tenant]}
	limited, cancel := context.WithTimeout(ctx, wait)
	left, err := Await(limited, e.DB, request)
	cancel()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(left) == 0 {
		return e.letGoByLeader(ctx, subs, patience, settle)
	}
	var leads bool
	if err := e.DB.QueryRow(ctx, sqlLeads).Scan(&leads); err != nil {
		return fmt.Errorf("look for a relay: %w", err)
	}
	if leads {
		return ErrNotLetGo
	}
	if _, err := e.DB.Exec(ctx, sqlUnask, request); err != nil {
		return fmt.Errorf("take the request back: %w", err)
	}
	_, err = e.repeat(ctx, "what waits", sqlEraseParked, subs)
	return err
}

// letGoByLeader waits until the leader has cancelled all, as long as it gets on with it.
func (e Erasure) letGoByLeader(ctx context.Context, subs []uuid.UUID, patience, settle time.Duration) error {
	tick := time.NewTicker(4 * awaitEvery)
	defer tick.Stop()
	progress, before := time.Now(), int64(-1)
	for {
		var held int64
		if err := e.DB.QueryRow(ctx, sqlEraseHeld, e.Tenant, subs).Scan(&held); err != nil {
			return fmt.Errorf("look at what waits: %w", err)
		}
		if held == 0 {
			break
		}
		if held != before {
			progress, before = time.Now(), held
		} else if time.Since(progress) > patience {
			return ErrNotLetGo
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	// An attempt that was on the wire is recorded when it ends, or when it has lasted for so long.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
		return nil
	}
}

// repeat runs a statement that deletes up to so many rows until it finds fewer.
func (e Erasure) repeat(ctx context.Context, what, sql string, arg any) (all int64, err error) {
	for {
		var n int64
		if err := e.DB.QueryRow(ctx, sql, arg, eraseRows).Scan(&n); err != nil {
			return all, fmt.Errorf("erase %s: %w", what, err)
		}
		if all += n; n < eraseRows {
			return all, nil
		}
	}
}

func (e Erasure) bodies(ctx context.Context) (all int64, err error) {
	at, event := "0/0", uuid.Nil
	for {
		var looked, gone int64
		err := e.DB.QueryRow(ctx, sqlEraseBodies, e.Tenant, at, event, eraseRows).Scan(&at, &event, &looked, &gone)
		if errors.Is(err, pgx.ErrNoRows) {
			return all, nil
		}
		if err != nil {
			return all, fmt.Errorf("erase bodies: %w", err)
		}
		all += gone
	}
}
