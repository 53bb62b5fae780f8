package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// switchOff disables a subscription for a while.
func switchOff(n *nemesis, ctx context.Context, a *history.Action) error {
	names := []string{"acme-confirmed", "globex-all", "mueller-all"}
	name := names[n.random.IntN(len(names))]
	d := n.between(300*time.Millisecond, 4*time.Second)
	a.Target, a.Detail = name, "off for "+d.Round(time.Millisecond).String()
	if !n.occupy("switch " + name) {
		a.Detail = "off already"
		return nil
	}
	defer n.leave("switch " + name)
	const set = "UPDATE relay.subscriptions SET active = $2, updated_at = now() WHERE id = $1"
	id := n.r.idOf(name)
	whole := context.WithoutCancel(ctx)
	if err := n.r.untilDone(whole, set, id, false); err != nil {
		return err
	}
	wait(ctx, d)
	return n.r.untilDone(whole, set, id, true)
}

func (r *runner) idOf(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.subs {
		if s.Name == name {
			return s.ID
		}
	}
	return ""
}

// mostMade is how many subscriptions that the nemesis made there are at most.
const mostMade = 4

// subscribe adds a subscription under load, and removes the oldest of those that it added when there are many.
func subscribe(n *nemesis, ctx context.Context, a *history.Action) error {
	n.made++
	tenant := tenants[n.random.IntN(3)].name
	events := [][]string{{"*"}, {"payment.received"}, {"sales_order.*"}}[n.random.IntN(3)]
	s := history.Subscription{Name: fmt.Sprintf("made-%d", n.made), Tenant: tenant, Events: events,
		Ordering: []string{"key", "key", "none"}[n.random.IntN(3)]}
	a.Target = s.Name
	whole := context.WithoutCancel(ctx)
	if err := n.r.subscribe(whole, s); err != nil {
		return err
	}
	if n.made <= mostMade {
		return nil
	}
	old := fmt.Sprintf("made-%d", n.made-mostMade)
	a.Detail = "removes " + old
	return n.r.unsubscribe(whole, old)
}

// unsubscribe removes a subscription, and notes when.
func (r *runner) unsubscribe(ctx context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.IndexFunc(r.subs, func(s history.Subscription) bool { return s.Name == name })
	s := &r.subs[at]
	s.Removing = history.Now()
	if err := r.untilDone(ctx, "DELETE FROM relay.subscriptions WHERE id = $1", s.ID); err != nil {
		return err
	}
	s.Removed = history.Now()
	return nil
}

// reload writes another configuration and sends SIGHUP.
func reload(n *nemesis, _ context.Context, _ *history.Action) error {
	n.generation++
	if err := n.r.writeConfig(n.generation); err != nil {
		return err
	}
	for _, u := range n.r.units {
		if u.serves() {
			u.signal(syscall.SIGHUP)
		}
	}
	return nil
}

// alter adds a column to the outbox under load.
func alter(n *nemesis, ctx context.Context, a *history.Action) error {
	n.columns++
	a.Detail = fmt.Sprintf("ledger_%d", n.columns)
	for try := 0; ; try++ {
		_, err := n.r.pool.Exec(ctx, fmt.Sprintf("SET lock_timeout = '500ms'; ALTER TABLE outbox.events ADD COLUMN IF NOT EXISTS ledger_%d int DEFAULT 7", n.columns))
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "55P03" && try < 20 {
			wait(ctx, 100*time.Millisecond) // a writer pauses; others wait behind us meanwhile
			continue
		}
		n.r.pool.Reset() // the setting stays in the session
		if pg != nil && pg.Code == "55P03" {
			a.Detail += " not added: writers pause too long"
			err = nil
		}
		return n.unlessEnding(ctx, err)
	}
}
