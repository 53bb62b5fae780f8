package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/token"
)

// NumberedEvent is an event of a subscription, by its number.
type NumberedEvent struct {
	Sequence      int64           `json:"sequence" doc:"Number of the delivery among those of its subscription: Relay-Sequence of the webhook."`
	EventID       uuid.UUID       `json:"event_id" doc:"What receivers see as webhook-id."`
	DeliveryID    uuid.UUID       `json:"delivery_id"`
	Event         string          `json:"event" doc:"Type of the event."`
	AggregateType string          `json:"aggregate_type"`
	AggregateID   string          `json:"aggregate_id"`
	CreatedAt     time.Time       `json:"created_at" doc:"When the event was committed."`
	Status        string          `json:"status" enum:"PENDING,DELIVERED,DEAD,CANCELLED"`
	Body          json.RawMessage `json:"body,omitempty" doc:"What the webhook's body is, without white space between its parts, when it was asked for and is still there."`
}

// Gap is a range of numbers of which nothing is on record.
type Gap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// EventsAfter are the events of a subscription above a number.
type EventsAfter struct {
	Items     []NumberedEvent `json:"items" nullable:"false" doc:"By number, ascending."`
	Gaps      []Gap           `json:"gaps" nullable:"false" doc:"Numbers above after and up to last that nothing is on record of any more, both ends included: retention has taken their records, or they were never given to an event."`
	Last      int64           `json:"last" doc:"All numbers above after and up to it are in items or in gaps: the next call's after. Below after: the database has lost numbers, in a failover or a restore, and gives them out again."`
	Watermark int64           `json:"watermark" doc:"The number up to which all is final. last below it: there is more."`
}

type (
	afterInput struct {
		SubscriptionPath
		After  int64 `query:"after" minimum:"0" default:"0" doc:"The number up to which the caller has all."`
		Limit  int   `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Numbers that an answer is about, and items that it has at most."`
		Bodies bool  `query:"bodies" doc:"Whether items have bodies."`
	}
	afterOutput struct{ Body EventsAfter }
)

func (s *server) pullRoutes(api huma.API) {
	register(s, api, huma.Operation{OperationID: "listEventsAfter", Method: http.MethodGet, Path: "/subscriptions/{id}/events", Tags: []string{"subscriptions"},
		Summary: "List the events of a subscription by number", Errors: []int{404, 409, 422},
		Description: "What a receiver compares with what it has: every event that was sent to it, or waits to be, by the number that its webhook has in Relay-Sequence. None is missing between after and last, and none will come there later."},
		token.RoleTenantRead, s.listEventsAfter)
}

// pulledBytes bounds the bodies of one answer, of which it has one at least, and bodiesAtOnce how many are read before that
// is looked at.
const (
	pulledBytes  = 8 << 20
	bodiesAtOnce = 8
)

func (s *server) listEventsAfter(ctx context.Context, c *caller, in *afterInput) (*afterOutput, error) {
	db := s.store(c)
	sub, err := db.subscription(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if !s.Complete() {
		return nil, newProblem(http.StatusConflict, "This relay does not keep a record of every delivery (deliver.log), so there is nothing to compare with.")
	}
	list, last, watermark, err := db.records().After(ctx, sub.ID, in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &afterOutput{Body: EventsAfter{Items: []NumberedEvent{}, Gaps: []Gap{}, Last: last, Watermark: watermark}}
	b := &out.Body
	var bodies map[uuid.UUID]json.RawMessage
	next, size := in.After+1, 0
	for i := range list {
		if in.Bodies && i%bodiesAtOnce == 0 {
			if bodies, err = s.bodies(ctx, db, sub, list[i:min(i+bodiesAtOnce, len(list))]); err != nil {
				return nil, err
			}
		}
		r := &list[i]
		n := *r.Sequence
		if size += len(bodies[r.ID]); size > pulledBytes && i > 0 {
			b.Last = *list[i-1].Sequence
			return out, nil
		}
		if n > next {
			b.Gaps = append(b.Gaps, Gap{next, n - 1})
		}
		next = n + 1
		b.Items = append(b.Items, NumberedEvent{Sequence: n, EventID: r.EventID, DeliveryID: r.ID, Event: r.Event, AggregateType: r.AggregateType,
			AggregateID: r.AggregateID, CreatedAt: r.CreatedAt.UTC(), Status: string(r.Status), Body: bodies[r.ID]})
	}
	if next <= b.Last {
		b.Gaps = append(b.Gaps, Gap{next, b.Last})
	}
	return out, nil
}

// bodies returns what is sent, by delivery, where it is still there: with what waits, or in the outbox.
func (s *server) bodies(ctx context.Context, db store, sub *deliver.Subscription, list []deliver.Record) (map[uuid.UUID]json.RawMessage, error) {
	kept, err := db.records().Bodies(ctx, list)
	if err != nil {
		return nil, err
	}
	var rest []deliver.Record
	for i := range list {
		if kept[list[i].ID] == nil {
			rest = append(rest, list[i])
		}
	}
	retained, err := s.Bodies(ctx, rest)
	if err != nil {
		return nil, err
	}
	out := make(map[uuid.UUID]json.RawMessage, len(list))
	for i := range list {
		r := &list[i]
		body := kept[r.ID]
		if body == nil {
			body = retained[r.ID]
		}
		if body == nil {
			continue
		}
		if sub != nil {
			body, err = sub.BodyFor(&deliver.Flight{EventID: r.EventID, TenantID: r.TenantID, Type: r.Event, AggregateType: r.AggregateType,
				AggregateID: r.AggregateID, Body: body})
		}
		if err == nil && json.Valid(body) {
			out[r.ID] = body
		}
	}
	return out, nil
}
