// Package erase removes all that the relay keeps of one tenant.
//
// Each package removes what its tables hold, a bounded number of rows with each statement, so an erasure stops nobody and may be
// cut off at any time: the next one goes on. Nothing is remembered between two. First go the tokens, so that nobody makes
// anything new with them, then the subscriptions; when no relay holds anything of these, all the rest.
//
// Each call leaves one row in the record of changes, which says who erased the tenant, when, and how much that was. Ids without any
// content stay in relay.settled and relay.accounted until progress has passed them, and what is in backups, replicas of other
// systems and logs is not reached from here.
package erase

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-relay/relay/internal/api"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/token"
)

// DB is what an erasure needs of a pool.
type DB interface {
	api.DB
	deliver.Execer
}

// Report counts what is kept of a tenant, or what of it is gone.
type Report struct {
	deliver.Kept
	Quarantined     int64  `json:"quarantined"`
	Changes         int64  `json:"changes"`
	IdempotencyKeys int64  `json:"idempotency_keys"`
	Tokens          int64  `json:"tokens"`
	Events          *int64 `json:"outbox_events"` // nil: they are not to be erased
}

// Rows is the sum of all.
func (r *Report) Rows() int64 {
	n := r.Subscriptions + r.Waiting + r.Bodies + r.Deliveries + r.Replays + r.Quarantined + r.Changes + r.IdempotencyKeys + r.Tokens
	if r.Events != nil {
		n += *r.Events
	}
	return n
}

func (r *Report) add(o Report) {
	r.Subscriptions += o.Subscriptions
	r.Waiting += o.Waiting
	r.Bodies += o.Bodies
	r.Deliveries += o.Deliveries
	r.Replays += o.Replays
	r.Quarantined += o.Quarantined
	r.Changes += o.Changes
	r.IdempotencyKeys += o.IdempotencyKeys
	r.Tokens += o.Tokens
	if r.Events != nil && o.Events != nil {
		*r.Events += *o.Events
	}
}

// Tenant is one tenant to erase.
type Tenant struct {
	DB     DB
	Name   string
	Outbox bool // its rows in outbox.EraseTable too
	// Wait is how long a relay has to answer, Patience how long it may take for each step of letting go, and Settle how long
	// after that it may still record an attempt that was on the wire.
	Wait, Patience, Settle time.Duration
}

// noteTimeout bounds the last step, which is not cut off.
const noteTimeout = 10 * time.Second

// mostRounds bounds how often an erasure begins again because something came meanwhile.
const mostRounds = 5

// ErrLeft is returned when things of the tenant kept coming.
var ErrLeft = errors.New("more of the tenant came meanwhile; call it again when nobody writes for it any more")

// Count counts without touching anything.
func (t Tenant) Count(ctx context.Context) (r Report, err error) {
	if r.Kept, err = (deliver.Erasure{DB: t.DB, Tenant: t.Name}).Count(ctx); err != nil {
		return r, err
	}
	rows := outbox.Erasure{DB: t.DB, Tenant: t.Name}
	if r.Quarantined, err = rows.Quarantined(ctx); err != nil {
		return r, err
	}
	traces, err := api.CountTraces(ctx, t.DB, t.Name)
	if err != nil {
		return r, err
	}
	r.Changes, r.IdempotencyKeys = traces.Changes, traces.IdempotencyKeys
	if r.Tokens, err = (token.Store{DB: t.DB}).CountOf(ctx, t.Name); err != nil || !t.Outbox {
		return r, err
	}
	n, err := rows.Events(ctx)
	r.Events = &n
	return r, err
}

// Erase erases, until nothing is left, and notes it. The report is right also when there is an error: what it counts is gone.
// When it was ErrLeft or deliver.ErrNotLetGo, another call goes on.
func (t Tenant) Erase(ctx context.Context) (gone Report, err error) {
	if t.Outbox {
		gone.Events = new(int64)
	}
	err = ErrLeft
	for round := 0; round < mostRounds && errors.Is(err, ErrLeft); round++ {
		var some Report
		some, err = t.round(ctx)
		gone.add(some)
		if err != nil {
			break
		}
		left, cerr := t.Count(ctx)
		if err = cerr; err == nil && left.Rows() > 0 {
			err = fmt.Errorf("%d rows: %w", left.Rows(), ErrLeft)
		}
	}
	if gone.Rows() > 0 {
		// Also when the caller has given up: what is gone is gone.
		noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
		defer cancel()
		err = errors.Join(err, api.NoteErasure(noting, t.DB, t.Name, gone))
	}
	return gone, err
}

// round erases all that is there once.
func (t Tenant) round(ctx context.Context) (r Report, err error) {
	if r.Tokens, err = (token.Store{DB: t.DB}).Erase(ctx, t.Name); err != nil {
		return r, err
	}
	if r.Kept, err = (deliver.Erasure{DB: t.DB, Tenant: t.Name}).Erase(ctx, t.Wait, t.Patience, t.Settle); err != nil {
		return r, err
	}
	rows := outbox.Erasure{DB: t.DB, Tenant: t.Name}
	if r.Quarantined, err = rows.EraseQuarantined(ctx); err != nil {
		return r, err
	}
	traces, err := api.EraseTraces(ctx, t.DB, t.Name)
	if r.Changes, r.IdempotencyKeys = traces.Changes, traces.IdempotencyKeys; err != nil || !t.Outbox {
		return r, err
	}
	n, err := rows.EraseEvents(ctx)
	r.Events = &n
	return r, err
}
