package api

import (
	"context"
	"fmt"
)

// erased is the action in the record of changes that an erasure leaves.
const erased = "tenant.erase"

// Traces counts what the API keeps of a tenant besides its subscriptions: the record of changes, and the keys of calls that can be
// repeated.
type Traces struct {
	Changes         int64 `json:"changes"`
	IdempotencyKeys int64 `json:"idempotency_keys"`
}

// CountTraces counts without touching anything. The record of erasures does not count.
func CountTraces(ctx context.Context, db DB, tenant string) (k Traces, err error) {
	if err := db.QueryRow(ctx, sqlEraseCount, tenant, erased).Scan(&k.Changes, &k.IdempotencyKeys); err != nil {
		return k, fmt.Errorf("count changes: %w", err)
	}
	return k, nil
}

// EraseTraces removes what CountTraces counts, a bounded number of rows with each statement.
func EraseTraces(ctx context.Context, db DB, tenant string) (k Traces, err error) {
	if k.Changes, err = removeAll(ctx, db, sqlEraseChanges, tenant, forgetAtOnce, erased); err == nil {
		k.IdempotencyKeys, err = removeAll(ctx, db, sqlEraseKeys, tenant, forgetAtOnce)
	}
	if err != nil {
		return k, fmt.Errorf("erase changes: %w", err)
	}
	return k, nil
}

// NoteErasure writes down that a tenant was erased, by which role of the database, and what counts says of it. It is kept as
// long as other changes are.
func NoteErasure(ctx context.Context, db DB, tenant string, counts any) error {
	if _, err := db.Exec(ctx, sqlEraseNote, tenant, erased, counts); err != nil {
		return fmt.Errorf("note erasure: %w", err)
	}
	return nil
}
