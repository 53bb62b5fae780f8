package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/token"
)

// Replay is a replay as its tenant sees it. Found is what matched when it was asked for; of these, Queued are deliveries by
// now, and each of them ends as one of Delivered, Dead and Cancelled.
type Replay struct {
	ID             uuid.UUID  `json:"id"`
	SubscriptionID uuid.UUID  `json:"subscription_id"`
	Events         []string   `json:"events" nullable:"false" doc:"Patterns that narrow those of the subscription; none: nothing more."`
	From           time.Time  `json:"from"`
	To             time.Time  `json:"to"`
	Rate           int        `json:"rate" doc:"Rows a second that it begins."`
	State          string     `json:"state" enum:"RUNNING,DONE,CANCELLED"`
	Found          int64      `json:"found" doc:"Rows that matched when it was asked for."`
	Queued         int64      `json:"queued" doc:"Those that are deliveries by now."`
	Skipped        int64      `json:"skipped" doc:"Those that never were events, say that nothing changed, or were gone."`
	Delivered      int64      `json:"delivered"`
	Dead           int64      `json:"dead"`
	Cancelled      int64      `json:"cancelled"`
	CreatedAt      time.Time  `json:"created_at"`
	EndedAt        *time.Time `json:"ended_at"`
	Detail         *string    `json:"detail" doc:"Why it ended without delivering anything, or was cancelled."`
	Skips          []Skip     `json:"skips" nullable:"false" doc:"The first rows that it skipped, at most 100."`
	number         int64
}

// Skip is a row that a replay skips.
type Skip struct {
	EventID string `json:"event_id"`
	Reason  string `json:"reason" doc:"quarantined, discarded: it never was an event; suppressed: it says that nothing changed; gone: the outbox does not hold it any more; or why it cannot be read."`
	Detail  string `json:"detail"`
}

func skips(list []deliver.ReplaySkip) []Skip {
	out := make([]Skip, len(list))
	for i, s := range list {
		out[i] = Skip(s)
	}
	return out
}

// NewReplay is what a replay is made of.
type NewReplay struct {
	SubscriptionID string     `json:"subscription_id" maxLength:"64" doc:"Subscription that it is for." example:"01a21045-e54f-72f6-866b-2636175a6f62"`
	From           time.Time  `json:"from" doc:"Rows created at this time or later."`
	To             *time.Time `json:"to,omitempty" doc:"Rows created before; now, if not given."`
	Events         []string   `json:"events,omitempty" maxItems:"100" nullable:"false" doc:"Patterns that narrow those of the subscription."`
	DryRun         bool       `json:"dry_run,omitempty" doc:"Count, and send nothing."`
}

// ReplayAnswer says what a replay found, and which it is.
type ReplayAnswer struct {
	Found   int64            `json:"found" doc:"Retained rows that match. Rows that it would skip are among them."`
	Events  map[string]int64 `json:"events" doc:"The same by type of event." nullable:"false"`
	Skipped int64            `json:"skipped" doc:"Those of them that it would skip."`
	Skips   []Skip           `json:"skips" nullable:"false" doc:"The first of those, at most 100."`
	Replay  *Replay          `json:"replay" doc:"Null: a dry run, or there is nothing to send."`
}

type (
	// ReplayPath names a replay.
	ReplayPath struct {
		ID string `path:"id" maxLength:"64" doc:"Id of the replay." example:"01a21045-f7d1-7e0a-9c3b-55e0a6b0c1d2"`
	}
	newReplayInput struct {
		Key     string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]+$" doc:"A call that is repeated with the same key and body within a day makes no other replay."`
		Body    NewReplay
		RawBody []byte
	}
	askOutput struct {
		Status int
		Body   ReplayAnswer
	}
	replayOutput  struct{ Body Replay }
	replaysOutput struct {
		Body struct {
			Items      []Replay `json:"items" nullable:"false"`
			NextCursor *string  `json:"next_cursor"`
		}
	}
)

func (s *server) replayRoutes(api huma.API) {
	tags := []string{"replays"}
	register(s, api, huma.Operation{OperationID: "createReplay", Method: http.MethodPost, Path: "/replays", Tags: tags,
		Summary: "Send retained events again", DefaultStatus: http.StatusAccepted, Errors: []int{404, 409, 413, 415, 422},
		Description: "Sends what the outbox still has to one subscription, under the same webhook-ids, at a bounded rate, in the order of each key, and never ahead of what comes live. With dry_run it counts. One runs at a time."},
		token.RoleTenantWrite, s.createReplay)
	register(s, api, huma.Operation{OperationID: "listReplays", Method: http.MethodGet, Path: "/replays", Tags: tags,
		Summary: "List replays", Description: "Newest first.", Errors: []int{400, 422}}, token.RoleTenantRead, s.listReplays)
	register(s, api, huma.Operation{OperationID: "getReplay", Method: http.MethodGet, Path: "/replays/{id}", Tags: tags,
		Summary: "Show a replay", Description: "With how far it is.", Errors: []int{404}}, token.RoleTenantRead,
		func(ctx context.Context, c *caller, in *ReplayPath) (*replayOutput, error) {
			r, err := s.store(c).replay(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return &replayOutput{Body: *r}, nil
		})
	register(s, api, huma.Operation{OperationID: "cancelReplay", Method: http.MethodPost, Path: "/replays/{id}/cancel", Tags: tags,
		Summary: "Cancel a replay", DefaultStatus: http.StatusAccepted, Errors: []int{404, 409},
		Description: "Reads nothing more, and cancels those of its deliveries that wait."}, token.RoleTenantWrite, s.cancelReplay)
}

func (s *server) createReplay(ctx context.Context, c *caller, in *newReplayInput) (*askOutput, error) {
	const operation = "createReplay"
	b := &in.Body
	for i, p := range b.Events {
		if err := deliver.CheckPattern(p); err != nil {
			return nil, invalid(fmt.Sprintf("/events/%d", i), patternHelp)
		}
	}
	db := s.store(c)
	sub, err := db.subscription(ctx, b.SubscriptionID)
	if err != nil {
		return nil, err
	}
	// Of what is to come, the subscription has no need to be sent anything again; and what is no more, need not be kept.
	from, to := b.From, time.Now()
	if b.To != nil && b.To.Before(to) {
		to = *b.To
	}
	if oldest := s.Oldest(); from.Before(oldest) {
		from = oldest
	}
	if !from.Before(to) {
		return nil, invalid("/from", "It is not before the end of the range, or nothing is retained of that.")
	}
	if !sub.Active && !b.DryRun {
		return nil, newProblem(http.StatusConflict, "The subscription is disabled. Enable it first.")
	}
	done, err := s.lookThrough()
	if err != nil {
		return nil, err
	}
	defer done()
	events := slices.Compact(slices.Sorted(slices.Values(b.Events)))
	out := &askOutput{Status: http.StatusOK}
	found, err := s.CountReplay(ctx, sub, events, from, to)
	if err != nil {
		return nil, err
	}
	out.Body.Found, out.Body.Events, out.Body.Skipped, out.Body.Skips = found.Rows, found.ByEvent(), found.Skipped, skips(found.Skips)
	if b.DryRun || found.Rows == found.Skipped {
		return out, nil
	}
	if most := s.Limits().MaxReplay; most > 0 && out.Body.Found > int64(most) {
		return nil, invalid("/from", fmt.Sprintf("%d rows match, and one replay may send %d. Narrow the range or the events.", out.Body.Found, most))
	}
	var id uuid.UUID
	err = db.write(ctx, func(w *change) error {
		if err := w.lock(ctx); err != nil {
			return err
		}
		body := sha256.Sum256(in.RawBody)
		if id, err = w.made(ctx, operation, in.Key, body); err != nil || id != uuid.Nil {
			return err
		}
		var other bool
		if err := w.QueryRow(ctx, sqlReplaying, w.tenant, sub.ID).Scan(&other); err != nil {
			return err
		}
		if other {
			return newProblem(http.StatusConflict, "A replay of another subscription is running, and one runs at a time. Wait for it, or cancel it.")
		}
		number, already, err := deliver.Replays{DB: w.Tx}.Ask(ctx, deliver.ReplayRequest{Subscription: sub.ID, Events: events, From: from, To: to,
			Rate: s.ReplayRate(), Found: out.Body.Found, Spec: strings.Join(append([]string{"api", b.From.UTC().String(), timeOrNone(b.To)}, events...), " ")})
		switch {
		case errors.Is(err, deliver.ErrReplayRuns):
			return newProblem(http.StatusConflict, "Another replay of this subscription is running. Wait for it, or cancel it.")
		case errors.Is(err, deliver.ErrNotFound):
			return notFound("subscription")
		case err != nil:
			return err
		}
		if err := w.QueryRow(ctx, sqlReplayID, number, w.tenant).Scan(&id); err != nil || already {
			return err
		}
		if err := w.note(ctx, "replay.create", id, nil, map[string]any{"subscription_id": sub.ID, "from": from, "to": to, "events": events,
			"found": out.Body.Found}); err != nil {
			return err
		}
		return w.remember(ctx, operation, in.Key, body, id)
	})
	if err != nil {
		return nil, err
	}
	out.Status = http.StatusAccepted
	out.Body.Replay, err = db.replay(ctx, id.String())
	return out, err
}

// lookThrough takes the one turn at looking through the outbox, which has no index for tenants, until done is called.
func (s *server) lookThrough() (done func(), err error) {
	select {
	case s.counting <- struct{}{}:
		return func() { <-s.counting }, nil
	default:
		return nil, huma.ErrorWithHeaders(newProblem(http.StatusServiceUnavailable, "Another call is looking through the outbox. Try again in a moment."),
			http.Header{"Retry-After": {"1"}})
	}
}

func timeOrNone(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().String()
}

func (s *server) listReplays(ctx context.Context, c *caller, in *PageQuery) (*replaysOutput, error) {
	page, err := s.cursorPage(ctx, c, "replays", in)
	if err != nil {
		return nil, err
	}
	list, err := s.store(c).replays(ctx, page.before(), nil, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &replaysOutput{}
	out.Body.Items, out.Body.NextCursor = cut(page, list, in.Limit, func(r *Replay) uuid.UUID { return r.ID })
	return out, nil
}

func (s *server) cancelReplay(ctx context.Context, c *caller, in *ReplayPath) (*replayOutput, error) {
	db := s.store(c)
	r, err := db.replay(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	err = db.write(ctx, func(w *change) error {
		stopped, err := deliver.Replays{DB: w.Tx}.Cancel(ctx, r.number)
		if err != nil {
			return err
		}
		if !stopped {
			return newProblem(http.StatusConflict, "It has ended.")
		}
		return w.note(ctx, "replay.cancel", r.ID, nil, nil)
	})
	if err != nil {
		return nil, err
	}
	if r, err = db.replay(ctx, in.ID); err != nil {
		return nil, err
	}
	return &replayOutput{Body: *r}, nil
}

// replays returns the tenant's replays before an id, newest first, or the one with an id.
func (s store) replays(ctx context.Context, before uuid.UUID, id *uuid.UUID, limit int) ([]Replay, error) {
	rows, err := s.db.Query(ctx, sqlReplays, s.caller.tenant, before, id, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (Replay, error) {
		var r Replay
		var skipped []deliver.ReplaySkip
		err := row.Scan(&r.ID, &r.SubscriptionID, &r.Events, &r.From, &r.To, &r.Rate, &r.State, &r.Found, &r.Queued, &r.Skipped,
			&r.Delivered, &r.Dead, &r.Cancelled, &r.CreatedAt, &r.EndedAt, &r.Detail, &skipped, &r.number)
		r.Skips = skips(skipped)
		r.From, r.To, r.CreatedAt, r.EndedAt = r.From.UTC(), r.To.UTC(), r.CreatedAt.UTC(), utc(r.EndedAt)
		return r, err
	})
}

// replay returns one of the tenant's replays, or a problem.
func (s store) replay(ctx context.Context, id string) (*Replay, error) {
	of, ok := parseID(id)
	if !ok {
		return nil, notFound("replay")
	}
	list, err := s.replays(ctx, uuid.Max, &of, 1)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, notFound("replay")
	}
	return &list[0], nil
}
