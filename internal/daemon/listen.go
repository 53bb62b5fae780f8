package daemon

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/health"
)

// listen waits for changes of subscriptions and for requests. Its connection is
// also the first to hear that PostgreSQL is shutting down: a backend that waits
// is told at once. It goes past any pooler, because LISTEN belongs to a session.
func (l *leader) listen(ctx context.Context) error {
	for {
		err := l.listenOnce(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.trouble(health.PartListening, health.During(health.Direct, err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (l *leader) listenOnce(ctx context.Context) error {
	conn, err := l.d.direct(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// Its role may be another one than that of the pool.
	if c, ok, err := health.CheckRights(ctx, conn, Facts(l.d.cfg())); err != nil {
		return err
	} else if !ok {
		return health.NewFault(c)
	}
	if _, err := conn.Exec(ctx, "LISTEN relay_subscription; LISTEN relay_request"); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	// What happened while nobody listened.
	changed, removed, err := l.dir.Load(ctx, conn)
	if err != nil {
		return err
	}
	for _, ep := range changed {
		l.dispatcher.Changed(ep)
	}
	for _, ep := range removed {
		l.dispatcher.Removed(ep)
	}
	l.replayer.poke()
	if err := l.carryOut(ctx, conn); err != nil {
		return err
	}
	l.works(health.PartListening)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for notification: %w", err)
		}
		if n.Channel == "relay_request" {
			l.replayer.poke()
			if err := l.carryOut(ctx, conn); err != nil {
				return err
			}
			continue
		}
		id, err := uuid.Parse(n.Payload)
		if err != nil {
			continue // somebody else's notification
		}
		if err := l.refresh(ctx, id); err != nil {
			return err
		}
	}
}

// request is a row of relay.requests.
type request struct {
	id     int64
	kind   string
	target string
}

// carryOut does what the command line or the API asked for.
func (l *leader) carryOut(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT id, kind, target FROM relay.requests ORDER BY id")
	if err != nil {
		return fmt.Errorf("read requests: %w", err)
	}
	todo, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (request, error) {
		var r request
		err := row.Scan(&r.id, &r.kind, &r.target)
		return r, err
	})
	if err != nil {
		return fmt.Errorf("read requests: %w", err)
	}
	// A request may be committed after one with a higher number. Those that were carried
	// out stand here until the Recorder has deleted them.
	there := make(map[int64]bool, len(todo))
	under := make(map[[2]string]bool) // way
	for _, r := range todo {
		there[r.id] = true
		if l.requests[r.id] {
			under[[2]string{r.kind, r.target}] = true
		}
	}
	maps.DeleteFunc(l.requests, func(id int64, _ bool) bool { return !there[id] })
	for _, r := range todo {
		if l.requests[r.id] {
			continue
		}
		if same := [2]string{r.kind, r.target}; under[same] { // its effect is not in the tables yet
			l.dispatcher.Dismiss(r.id)
		} else if err := l.carryOutOne(ctx, conn, r); err != nil {
			return err
		} else {
			under[same] = true
		}
		l.requests[r.id] = true
	}
	return nil
}

func (l *leader) carryOutOne(ctx context.Context, conn *pgx.Conn, r request) error {
	switch r.kind {
	case deliver.RequestRetryDelivery, deliver.RequestDiscardDelivery:
		id, err := uuid.Parse(r.target)
		if err != nil {
			l.dispatcher.Dismiss(r.id)
			return nil
		}
		if r.kind == deliver.RequestDiscardDelivery {
			return l.dispatcher.Discard(ctx, l.d.pool, l.dir, id, r.id)
		}
		return l.dispatcher.Retry(ctx, l.d.pool, l.dir, id, r.id)
	case deliver.RequestRetryQuarantine:
		return l.retryQuarantine(ctx, conn, r)
	case deliver.RequestLetTenantGo:
		// The notifications of what was removed may still be to come.
		for _, ep := range l.dir.All() {
			if sub := ep.Subscription(); sub.TenantID == r.target {
				if err := l.refresh(ctx, sub.ID); err != nil {
					return err
				}
			}
		}
		l.dispatcher.Dismiss(r.id) // recorded behind all that was cancelled
		return nil
	default:
		l.dispatcher.Dismiss(r.id)
		return nil
	}
}
