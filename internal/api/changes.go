package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/token"
)

// Change is a change that was made, through the API or otherwise.
type Change struct {
	ID        uuid.UUID       `json:"id"`
	At        time.Time       `json:"at"`
	Actor     string          `json:"actor" doc:"Who made it: a token or a JWT, operator, or relay itself." example:"token:01a21045-e54f-72f6-866b-2636175a6f62"`
	Action    string          `json:"action" example:"subscription.update"`
	Target    string          `json:"target" doc:"Id of what was changed."`
	Before    json.RawMessage `json:"before" doc:"How it was; null: it was not there."`
	After     json.RawMessage `json:"after" doc:"How it is since; null: it is gone."`
	RequestID string          `json:"request_id"`
}

type changesOutput struct {
	Body struct {
		Items      []Change `json:"items" nullable:"false"`
		NextCursor *string  `json:"next_cursor"`
	}
}

func (s *server) changeRoutes(api huma.API) {
	register(s, api, huma.Operation{OperationID: "listChanges", Method: http.MethodGet, Path: "/changes", Tags: []string{"changes"},
		Summary: "List changes", Errors: []int{400, 422}, Description: "Newest first."}, token.RoleTenantRead,
		func(ctx context.Context, c *caller, in *PageQuery) (*changesOutput, error) {
			page, err := s.cursorPage(ctx, c, "changes", in)
			if err != nil {
				return nil, err
			}
			list, err := s.store(c).changes(ctx, page.before(), in.Limit+1)
			if err != nil {
				return nil, err
			}
			out := &changesOutput{}
			out.Body.Items, out.Body.NextCursor = cut(page, list, in.Limit, func(c *Change) uuid.UUID { return c.ID })
			return out, nil
		})
}

// forgetAtOnce bounds what one statement removes, so that none takes long.
const forgetAtOnce = 10_000

// ForgetChanges removes what was changed longer ago than a time from the record, and returns how much that was.
func ForgetChanges(ctx context.Context, db DB, after time.Duration) (int64, error) {
	all, err := removeAll(ctx, db, sqlForgetChanges, time.Now().Add(-after), forgetAtOnce)
	if err != nil {
		return all, fmt.Errorf("forget changes: %w", err)
	}
	return all, nil
}

// removeAll runs a statement that removes forgetAtOnce rows at most until it finds fewer, and returns how many it were in all.
func removeAll(ctx context.Context, db DB, sql string, args ...any) (all int64, err error) {
	for {
		tag, err := db.Exec(ctx, sql, args...)
		if err != nil {
			return all, err
		}
		if all += tag.RowsAffected(); tag.RowsAffected() < forgetAtOnce {
			return all, nil
		}
	}
}

// changes returns what was changed of the tenant's before an id, newest first.
func (s store) changes(ctx context.Context, before uuid.UUID, limit int) ([]Change, error) {
	rows, err := s.db.Query(ctx, sqlChanges, s.caller.tenant, before, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Change, error) {
		var c Change
		err := row.Scan(&c.ID, &c.At, &c.Actor, &c.Action, &c.Target, &c.Before, &c.After, &c.RequestID)
		c.At = c.At.UTC()
		return c, err
	})
}
