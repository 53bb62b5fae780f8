package backoffice

import (
	"context"
	_ "embed"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed schema.sql
var schema string

// migrationLock is the advisory lock of Migrate, an arbitrary number: IF NOT EXISTS alone does not keep two sessions
// from creating the same table at once.
const migrationLock = 6_024_180_271

// Migrate makes the tables of the example in the schema backoffice. It may run again, and at the same time as
// another; existing rows stay. The outbox is not its business: that is made by `relay migrate`.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, schema)
		return err
	})
	if err != nil {
		return fmt.Errorf("create schema backoffice: %w", err)
	}
	return nil
}

// ErrNoOutbox says that the database has no table outbox.events.
var ErrNoOutbox = errors.New("outbox.events does not exist; run `relay migrate` on this database first")

// CheckOutbox is ErrNoOutbox when the database has no outbox, so that a program can say so before its first request.
func CheckOutbox(ctx context.Context, pool *pgxpool.Pool) error {
	var exists bool
	err := pool.QueryRow(ctx, `SELECT to_regclass('outbox.events') IS NOT NULL`).Scan(&exists)
	if err != nil {
		return fmt.Errorf("look for outbox: %w", err)
	}
	if !exists {
		return ErrNoOutbox
	}
	return nil
}
