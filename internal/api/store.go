package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
)

// store is the database as one tenant sees it. Only a caller has one.
type store struct {
	db     DB
	keys   *secret.Keyring
	caller *caller
}

func (s *server) store(c *caller) store { return store{db: s.DB, keys: s.Keys(), caller: c} }

// change is a transaction that changes what belongs to a tenant.
type change struct {
	pgx.Tx
	tenant string
	keys   *secret.Keyring
	caller *caller
}

// write runs f in a transaction. An error of f leaves everything as it was.
func (s store) write(ctx context.Context, f func(*change) error) error {
	return pgx.BeginTxFunc(ctx, s.db, pgx.TxOptions{}, func(tx pgx.Tx) error {
		// What f changes it notes itself, with its caller.
		if _, err := tx.Exec(ctx, sqlNoted); err != nil {
			return err
		}
		return f(&change{Tx: tx, tenant: s.caller.tenant, keys: s.keys, caller: s.caller})
	})
}

// subscriptions returns a page of the tenant's subscriptions behind an id, oldest first.
func (s store) subscriptions(ctx context.Context, after uuid.UUID, limit int) ([]deliver.Subscription, error) {
	rows, err := s.db.Query(ctx, sqlSubscriptions, s.caller.tenant, after, limit)
	if err != nil {
		return nil, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	list, err := s.list().Some(ctx, ids)
	return list, err
}

// list is the tenants' subscriptions. Ids that go into it must be known to be the tenant's.
func (s store) list() deliver.Subscriptions { return deliver.Subscriptions{DB: s.db, Keys: s.keys} }

// subscription returns one of the tenant's subscriptions, or a problem.
func (s store) subscription(ctx context.Context, id string) (*deliver.Subscription, error) {
	of, ok := parseID(id)
	if !ok {
		return nil, notFound("subscription")
	}
	sub, err := s.list().Get(ctx, of)
	if errors.Is(err, deliver.ErrNotFound) || err == nil && sub.TenantID != s.caller.tenant {
		return nil, notFound("subscription")
	}
	return sub, err
}

// records are the tenant's deliveries.
func (s store) records() deliver.TenantRecords {
	return deliver.Records{DB: s.db}.Of(s.caller.tenant)
}

// parseID reads an id in the one spelling that answers have.
func parseID(text string) (uuid.UUID, bool) {
	id, err := uuid.Parse(text)
	return id, err == nil && id.String() == text
}

// subscription locks one of the tenant's subscriptions until the change is made, and returns it, or a problem.
func (c *change) subscription(ctx context.Context, id string) (*deliver.Subscription, error) {
	of, ok := parseID(id)
	if !ok {
		return nil, notFound("subscription")
	}
	err := c.QueryRow(ctx, sqlLock, of, c.tenant).Scan(nil)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notFound("subscription")
	}
	if err != nil {
		return nil, fmt.Errorf("lock subscription %s: %w", of, err)
	}
	return c.list().Get(ctx, of)
}

func (c *change) list() deliver.Subscriptions { return deliver.Subscriptions{DB: c.Tx, Keys: c.keys} }

// lock waits for the tenant's other creations.
func (c *change) lock(ctx context.Context) error {
	if _, err := c.Exec(ctx, sqlLockTenant, c.tenant); err != nil {
		return fmt.Errorf("lock tenant: %w", err)
	}
	return nil
}

// count locks, and returns how many subscriptions there are then.
func (c *change) count(ctx context.Context) (int, error) {
	var n int
	if err := c.lock(ctx); err != nil {
		return 0, err
	}
	if err := c.QueryRow(ctx, sqlQuota, c.tenant).Scan(&n); err != nil {
		return 0, fmt.Errorf("count subscriptions: %w", err)
	}
	return n, nil
}

// keepKeys is how long an Idempotency-Key is known.
const keepKeys = 24 * time.Hour

// made returns what a call with the same key and body made before, uuid.Nil for nothing. Another body is a problem. The
// caller must hold the tenant's lock.
func (c *change) made(ctx context.Context, operation, key string, body [sha256.Size]byte) (uuid.UUID, error) {
	if key == "" {
		return uuid.Nil, nil
	}
	var id uuid.UUID
	var before []byte
	err := c.QueryRow(ctx, sqlMade, c.tenant, operation, key, time.Now().Add(-keepKeys)).Scan(&id, &before)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return uuid.Nil, nil
	case err != nil:
		return uuid.Nil, fmt.Errorf("look up idempotency key: %w", err)
	case string(before) != string(body[:]):
		return uuid.Nil, newProblem(http.StatusUnprocessableEntity, "", FieldError{In: "header", Parameter: "Idempotency-Key",
			Detail: "The key was used for another body. Use a new key for another call."})
	}
	return id, nil
}

// remember notes what a call with a key made, and forgets what is older than a day.
func (c *change) remember(ctx context.Context, operation, key string, body [sha256.Size]byte, made uuid.UUID) error {
	if key == "" {
		return nil
	}
	if _, err := c.Exec(ctx, sqlForget, time.Now().Add(-keepKeys)); err != nil {
		return fmt.Errorf("forget idempotency keys: %w", err)
	}
	if _, err := c.Exec(ctx, sqlRemember, c.tenant, operation, key, body[:], made); err != nil {
		return fmt.Errorf("remember idempotency key: %w", err)
	}
	return nil
}

// note writes the change down: who made it, of what, and how it looked before and after; nil: it was not there.
func (c *change) note(ctx context.Context, action string, target uuid.UUID, before, after any) error {
	_, err := c.Exec(ctx, sqlChange, c.tenant, c.caller.actor(), action, target.String(), before, after, requestID(ctx),
		c.caller.address)
	if err != nil {
		return fmt.Errorf("note change: %w", err)
	}
	return nil
}
