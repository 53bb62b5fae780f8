package backoffice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// unit is one transaction with the business rows and the events of one request.
type unit struct {
	pgx.Tx
	request *http.Request
	fault   func(r *http.Request) error
}

// transact runs f in a transaction. Business rows and outbox rows that f wrote become visible together, or, when f
// returns an error, not at all.
func (s *Server) transact(r *http.Request, f func(ctx context.Context, u *unit) error) error {
	ctx := r.Context()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		return f(ctx, &unit{Tx: tx, request: r, fault: s.fault})
	})
}

// emit inserts one outbox row. This statement is all that a writer has to do with the relay.
//
// Events with the same tenant, aggregate type and aggregate id reach each subscription in the order in which their
// transactions commit, so the caller holds the lock of the row that stands for the aggregate.
func (u *unit) emit(ctx context.Context, tenant, aggregateType, aggregateID, eventType string, payload any) error {
	body, err := encode(payload)
	if err != nil {
		return fmt.Errorf("encode %s: %w", eventType, err)
	}
	_, err = u.Exec(ctx, `
		INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ($1, $2, $3, $4, $5)`,
		tenant, aggregateType, aggregateID, eventType, body)
	if err != nil {
		return fmt.Errorf("insert %s into outbox: %w", eventType, err)
	}
	return u.afterOutbox()
}

// afterOutbox gives the fault hook its chance to roll everything back.
func (u *unit) afterOutbox() error {
	if u.fault == nil {
		return nil
	}
	return u.fault(u.request)
}

// encode renders a payload as a receiver will see it: PostgreSQL (type json) and the relay pass its bytes through.
func encode(payload any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(payload); err != nil {
		return "", err
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// one collects the row of a query into T, by column names. No row is unknown(noun).
func one[T any](ctx context.Context, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, noun, sql string, args ...any) (T, error) {
	var zero T
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return zero, fmt.Errorf("query %s: %w", noun, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[T])
	if errors.Is(err, pgx.ErrNoRows) {
		return zero, unknown(noun)
	}
	if err != nil {
		return zero, fmt.Errorf("query %s: %w", noun, err)
	}
	return v, nil
}

// id is the {id} of the path. What is not a UUID cannot be known, and PostgreSQL would refuse it.
func id(r *http.Request, noun string) (string, error) { return parseID(r.PathValue("id"), noun) }

func parseID(text, noun string) (string, error) {
	parsed, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return "", unknown(noun)
	}
	return parsed.String(), nil
}

// isDuplicate tells whether err is PostgreSQL's refusal of a second row with the same key (23505).
func isDuplicate(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23505"
}
