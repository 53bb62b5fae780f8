package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/token"
)

// Delivery is one event for one subscription.
type Delivery struct {
	ID              uuid.UUID  `json:"id"`
	EventID         uuid.UUID  `json:"event_id" doc:"What receivers see as webhook-id."`
	SubscriptionID  uuid.UUID  `json:"subscription_id"`
	TenantID        string     `json:"tenant_id"`
	Event           string     `json:"event" doc:"Type of the event."`
	AggregateType   string     `json:"aggregate_type"`
	AggregateID     string     `json:"aggregate_id"`
	Status          string     `json:"status" enum:"PENDING,DELIVERED,DEAD,CANCELLED" doc:"PENDING waits for its first or next attempt."`
	Attempts        int        `json:"attempts" doc:"Attempts that were made."`
	LastError       *string    `json:"last_error" doc:"Why the last attempt failed."`
	LastStatusCode  *int       `json:"last_status_code"`
	CreatedAt       time.Time  `json:"created_at" doc:"When the event was committed."`
	EndedAt         *time.Time `json:"ended_at" doc:"When it was delivered or given up."`
	DeliveredAt     *time.Time `json:"delivered_at"`
	NextAttemptAt   *time.Time `json:"next_attempt_at" doc:"When it is tried next: by its schedule, not before its endpoint may be tried again, and earlier when it is the one that tries whether that works again. Null: it has ended, waits for an earlier one, or its subscription is disabled."`
	Disabled        bool       `json:"subscription_disabled" doc:"Its subscription is disabled: it waits until that is enabled."`
	WaitsForEarlier bool       `json:"waits_for_earlier" doc:"An earlier event of the same key is ahead of it."`
	Halts           bool       `json:"halts" doc:"It is dead, and later events of its key wait behind it."`
	Replayed        bool       `json:"replayed" doc:"It was sent again by a replay."`
	Sequence        *int64     `json:"sequence" doc:"Its number among the deliveries of its subscription, which the webhook has in Relay-Sequence. Null: it has none, as those of replays."`
}

// DeliveryDetail is a delivery with all that is known of it.
type DeliveryDetail struct {
	Delivery
	Request DeliveryRequest `json:"request" doc:"What is sent."`
	History []Attempt       `json:"history" nullable:"false" doc:"The attempts, oldest first."`
}

// DeliveryRequest is what the attempts of a delivery have in common. Timestamp and signature are each attempt's own, and
// are not kept.
type DeliveryRequest struct {
	Method  string            `json:"method"`
	URL     *string           `json:"url" doc:"Where it goes now. Null: its subscription is gone."`
	Headers map[string]string `json:"headers" doc:"Headers of the last attempt, without its timestamp and signatures."`
	Body    json.RawMessage   `json:"body" doc:"Null: nothing waits that needs it, and the outbox does not retain the event any more."`
}

// Attempt is one attempt to deliver.
type Attempt struct {
	Number         *int      `json:"number" doc:"By the retry schedule, from 1. Null: it cost none, because the endpoint asked for fewer (429), or because it only tried, before its time, whether a failing endpoint works again."`
	Resent         bool      `json:"resent,omitempty" doc:"A connection that was kept open broke before a byte of the answer came, and the request was sent once more on a new one. You may have got it twice."`
	Probes         int       `json:"probes,omitempty" doc:"How many such tries in a row the entry stands for; it shows the last."`
	At             time.Time `json:"at" doc:"When it began."`
	DurationMillis float64   `json:"duration_ms"`
	Phases         *Phases   `json:"phases_us,omitempty" doc:"What it spent its time on, in microseconds. Absent: it went over a connection that was open, and waited for the answer."`
	StatusCode     *int      `json:"status_code" doc:"Null: there was no answer."`
	Reason         string    `json:"reason,omitempty" doc:"Why it failed; absent: it was taken."`
	Detail         string    `json:"detail,omitempty"`
}

// Phases are parts of an attempt, in microseconds. 0: there was none, as on a connection that was open already.
type Phases struct {
	DNS       int64 `json:"dns"`
	Connect   int64 `json:"connect"`
	TLS       int64 `json:"tls"`
	FirstByte int64 `json:"first_byte" doc:"From the end of the request to the begin of the answer."`
}

type (
	DeliveryPath struct {
		ID string `path:"id" maxLength:"64" doc:"Id of the delivery." example:"01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0"`
	}
	deliveriesInput struct {
		PageQuery
		Status        string    `query:"status" enum:"PENDING,DELIVERED,DEAD,CANCELLED" doc:"Only those of a status."`
		Event         string    `query:"event" maxLength:"255" doc:"Only those of a type of event, by its whole name." example:"payment.received"`
		Subscription  string    `query:"subscription" maxLength:"64" doc:"Only those to a subscription, by its id."`
		AggregateType string    `query:"aggregate_type" maxLength:"255" doc:"Only events about such things." example:"payment"`
		AggregateID   string    `query:"aggregate_id" maxLength:"255" doc:"Only events about one thing." example:"inv_2001"`
		From          time.Time `query:"from" doc:"Only events committed at this time or later."`
		To            time.Time `query:"to" doc:"Only events committed before."`
	}
	deliveriesOutput struct {
		Body struct {
			Items      []Delivery `json:"items" nullable:"false"`
			NextCursor *string    `json:"next_cursor"`
		}
	}
	deliveryOutput struct{ Body DeliveryDetail }
	retryOutput    struct{ Body Delivery }
)

func (s *server) deliveryRoutes(api huma.API) {
	tags := []string{"deliveries"}
	register(s, api, huma.Operation{OperationID: "listDeliveries", Method: http.MethodGet, Path: "/deliveries", Tags: tags,
		Summary: "List deliveries", Errors: []int{400, 422},
		Description: "Newest first, by the time of the commit. What is under way for the first time is not among them for the moment that it takes."},
		token.RoleTenantRead, s.listDeliveries)
	register(s, api, huma.Operation{OperationID: "getDelivery", Method: http.MethodGet, Path: "/deliveries/{id}", Tags: tags,
		Summary: "Show a delivery", Errors: []int{404}, Description: "With what is sent and all attempts."}, token.RoleTenantRead, s.getDelivery)
	register(s, api, huma.Operation{OperationID: "retryDelivery", Method: http.MethodPost, Path: "/deliveries/{id}/retry", Tags: tags,
		Summary: "Try a delivery again", DefaultStatus: http.StatusAccepted, Errors: []int{404, 409},
		Description: "One that waits is due at once; a dead one begins its schedule anew. It keeps its place in the order of its key."},
		token.RoleTenantWrite, s.retryDelivery)
}

func delivery(r *deliver.Record) Delivery {
	return Delivery{ID: r.ID, EventID: r.EventID, SubscriptionID: r.SubscriptionID, TenantID: r.TenantID, Event: r.Event,
		AggregateType: r.AggregateType, AggregateID: r.AggregateID, Status: string(r.Status), Attempts: r.Attempts,
		LastError: r.LastError, LastStatusCode: r.LastStatusCode, CreatedAt: r.CreatedAt.UTC(), EndedAt: utc(r.EndedAt),
		DeliveredAt: utc(r.DeliveredAt), NextAttemptAt: utc(r.NextAttemptAt), Disabled: r.Held, WaitsForEarlier: r.Waits, Halts: r.Halts,
		Replayed: r.Replay != nil, Sequence: r.Sequence}
}

func (s *server) listDeliveries(ctx context.Context, c *caller, in *deliveriesInput) (*deliveriesOutput, error) {
	f := deliver.Filter{Status: deliver.Status(in.Status), Event: in.Event,
		Aggregate: deliver.Aggregate{Type: in.AggregateType, ID: in.AggregateID}, From: in.From, To: in.To, Limit: in.Limit + 1}
	if in.Subscription != "" {
		id, err := uuid.Parse(in.Subscription)
		if err != nil {
			return nil, newProblem(http.StatusUnprocessableEntity, "", FieldError{In: "query", Parameter: "subscription",
				Detail: "Expected the id of a subscription."})
		}
		f.Subscription = id
	}
	page, err := s.cursorPage(ctx, c, fmt.Sprintf("deliveries %q", []string{in.Status, in.Event, f.Subscription.String(), in.AggregateType, in.AggregateID,
		in.From.UTC().String(), in.To.UTC().String()}), &in.PageQuery)
	if err != nil {
		return nil, err
	}
	f.Before = page.last
	list, err := s.store(c).records().List(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &deliveriesOutput{}
	list, out.Body.NextCursor = cut(page, list, in.Limit, func(r *deliver.Record) uuid.UUID { return r.ID })
	out.Body.Items = make([]Delivery, len(list))
	for i := range list {
		out.Body.Items[i] = delivery(&list[i])
	}
	return out, nil
}

// record returns one of the tenant's deliveries, or a problem.
func (s store) record(ctx context.Context, id string) (*deliver.Record, error) {
	of, ok := parseID(id)
	if !ok {
		return nil, notFound("delivery")
	}
	r, err := s.records().Get(ctx, of)
	if errors.Is(err, deliver.ErrNotFound) {
		return nil, notFound("delivery")
	}
	return r, err
}

func (s *server) getDelivery(ctx context.Context, c *caller, in *DeliveryPath) (*deliveryOutput, error) {
	db := s.store(c)
	r, err := db.record(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &deliveryOutput{Body: DeliveryDetail{Delivery: delivery(r), Request: DeliveryRequest{Method: http.MethodPost,
		Headers: map[string]string{"Content-Type": "application/json", "webhook-id": r.EventID.String(), "X-Event-Type": r.Event,
			"Relay-Attempt": strconv.Itoa(max(1, r.Attempts)), "Relay-Subscription": r.SubscriptionID.String()}}}}
	if r.Sequence != nil {
		out.Body.Request.Headers["Relay-Sequence"] = strconv.FormatInt(*r.Sequence, 10)
	}
	if out.Body.History, err = history(r); err != nil {
		return nil, err
	}
	sub, err := db.subscription(ctx, r.SubscriptionID.String())
	var gone *Problem
	switch {
	case err == nil:
		out.Body.Request.URL = &sub.URL
		out.Body.Request.Headers["Content-Type"] = sub.ContentType()
	case !errors.As(err, &gone):
		return nil, err
	}
	bodies, err := s.bodies(ctx, db, sub, []deliver.Record{*r})
	if err != nil {
		return nil, err
	}
	out.Body.Request.Body = bodies[r.ID]
	return out, nil
}

// history is what a tenant may see of the attempts: not which address was dialed, nor what it answered, which would make
// this list a way to look at what the relay can reach.
func history(r *deliver.Record) ([]Attempt, error) {
	list := []Attempt{}
	if r.History == nil {
		// One that was taken at once, over a connection that was open, has no history of its own.
		if r.Status != deliver.StatusDelivered || r.EndedAt == nil || r.DurationMicros == nil {
			return list, nil
		}
		took := time.Duration(*r.DurationMicros) * time.Microsecond
		return append(list, Attempt{Number: &r.Attempts, At: r.EndedAt.Add(-took).UTC(), DurationMillis: float64(*r.DurationMicros) / 1000,
			StatusCode: r.LastStatusCode}), nil
	}
	var kept []deliver.Attempt
	if err := json.Unmarshal(r.History, &kept); err != nil {
		return nil, fmt.Errorf("read history of delivery %s: %w", r.ID, err)
	}
	for i := range kept {
		k := &kept[i]
		a := Attempt{At: k.At.UTC(), DurationMillis: float64(k.Millis), Reason: string(k.Reason), Detail: k.Detail, Probes: k.Probes, Resent: k.Resent}
		if k.N != 0 {
			a.Number = &k.N
		}
		if k.Status != 0 {
			a.StatusCode = &k.Status
		}
		if k.Phases != (deliver.Phases{}) {
			p := Phases(k.Phases)
			a.Phases = &p
		}
		list = append(list, a)
	}
	return list, nil
}

// retryWait is how long a call waits until the relay has taken a retry in, so that its answer shows the effect.
const retryWait = 2 * time.Second

func (s *server) retryDelivery(ctx context.Context, c *caller, in *DeliveryPath) (*retryOutput, error) {
	db := s.store(c)
	r, err := db.record(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if r.Status != deliver.StatusPending && r.Status != deliver.StatusDead {
		return nil, newProblem(http.StatusConflict, fmt.Sprintf("The delivery is %s. Only PENDING and DEAD ones can be tried again.", r.Status))
	}
	if r.Held && r.Status == deliver.StatusPending {
		return nil, newProblem(http.StatusConflict, "Its subscription is disabled. Enable that, and all that waits for it is sent.")
	}
	var asked map[string]int64
	if err := db.write(ctx, func(w *change) error {
		if asked, err = deliver.Ask(ctx, w.Tx, deliver.RequestRetryDelivery, []string{r.ID.String()}); err != nil {
			return err
		}
		return w.note(ctx, "delivery.retry", r.ID, nil, nil)
	}); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, retryWait)
	defer cancel()
	left, err := deliver.Await(wait, s.DB, []int64{asked[r.ID.String()]})
	if err != nil {
		return nil, err
	}
	if now, err := db.record(ctx, in.ID); err == nil {
		if len(left) == 0 && r.Status == deliver.StatusDead && now.Status == deliver.StatusDead && now.EndedAt.Equal(*r.EndedAt) {
			return nil, newProblem(http.StatusConflict, "It was not tried again: its subscription is gone, or its body is kept no longer.")
		}
		r = now
	}
	return &retryOutput{Body: delivery(r)}, nil
}
