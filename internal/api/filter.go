package api

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/filter"
)

// Filter is a filter as JSON; nil: there is none.
type Filter json.RawMessage

// Schema describes it: what a filter may be is checked by package filter, which says more of what is wrong.
func (Filter) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Nullable: true, AdditionalProperties: true,
		Examples: []any{map[string]any{"currency": "EUR", "amount": map[string]any{"$gte": 100}}}}
}

// MarshalJSON returns the filter's JSON, null when there is none.
func (f Filter) MarshalJSON() ([]byte, error) { return json.RawMessage(f).MarshalJSON() }

// UnmarshalJSON takes any JSON.
func (f *Filter) UnmarshalJSON(text []byte) error { return (*json.RawMessage)(f).UnmarshalJSON(text) }

// parse returns the filter, nil for null and for an empty object, or a problem of the field filter.
func (f Filter) parse() (*filter.Filter, error) {
	var members map[string]json.RawMessage
	if len(f) == 0 || json.Unmarshal(f, &members) == nil && len(members) == 0 {
		return nil, nil
	}
	parsed, err := filter.Parse(f)
	if fault := (*filter.Fault)(nil); errors.As(err, &fault) {
		return nil, invalid("/filter"+fault.Pointer, sentence(fault.Detail))
	}
	return parsed, err
}

// Wanted says what a subscription would be.
type Wanted struct {
	Event  string   `json:"event,omitempty" minLength:"1" maxLength:"255" doc:"One event type, or a pattern. Exactly one of event and events is needed." example:"payment.received"`
	Events []string `json:"events,omitempty" minItems:"1" maxItems:"100" nullable:"false" doc:"Event types and patterns."`
	Filter Filter   `json:"filter,omitempty" doc:"What the payload of an event has to be like."`
	Last   int      `json:"last,omitempty" minimum:"1" maximum:"1000" default:"100" doc:"How many events are looked at."`
}

// Trial says what a subscription would have got.
type Trial struct {
	Looked  int         `json:"looked" doc:"Events that were looked at. Fewer than asked for: there are no more, or they are far behind what others wrote."`
	Matched int         `json:"matched" doc:"Those that it would have got."`
	Since   *time.Time  `json:"since" doc:"Time of the oldest of them. Null: there was none."`
	Items   []TriedItem `json:"items" nullable:"false" doc:"The events, newest first."`
}

// TriedItem is an event, and whether a subscription would have got it.
type TriedItem struct {
	EventID       uuid.UUID `json:"event_id"`
	Event         string    `json:"event" doc:"Type of the event."`
	AggregateType string    `json:"aggregate_type"`
	AggregateID   string    `json:"aggregate_id"`
	Timestamp     time.Time `json:"timestamp" doc:"The event's own time, as its webhook has it."`
	Matches       bool      `json:"matches"`
	Reason        string    `json:"reason,omitempty" enum:"event,filter" doc:"What keeps it out: its type, or the filter."`
	Pointer       string    `json:"pointer,omitempty" doc:"The condition that does not hold, as a JSON Pointer into the body of the call."`
}

type (
	tryInput struct {
		Body Wanted
	}
	tryOutput struct{ Body Trial }
)

func (s *server) trySubscription(ctx context.Context, c *caller, in *tryInput) (*tryOutput, error) {
	b := &in.Body
	events, err := patterns(b.Event, b.Events)
	if err != nil {
		return nil, err
	}
	f, err := b.Filter.parse()
	if err != nil {
		return nil, err
	}
	done, err := s.lookThrough()
	if err != nil {
		return nil, err
	}
	defer done()
	latest, err := s.Latest(ctx, c.tenant, b.Last)
	if err != nil {
		return nil, err
	}
	out := &tryOutput{Body: Trial{Looked: len(latest), Items: make([]TriedItem, len(latest))}}
	sub := deliver.Subscription{Events: events, Filter: f}
	for i := range latest {
		e := &latest[i]
		item := TriedItem{EventID: e.ID, Event: e.Type, AggregateType: e.AggregateType, AggregateID: e.AggregateID, Timestamp: e.CreatedAt.UTC()}
		var failed string
		if item.Matches, item.Reason, failed = sub.Wants(e); item.Matches {
			out.Body.Matched++
		}
		if item.Reason == deliver.KeptOutByFilter {
			item.Pointer = "/filter" + failed
		}
		out.Body.Items[i] = item
	}
	if n := len(latest); n > 0 {
		out.Body.Since = &out.Body.Items[n-1].Timestamp
	}
	return out, nil
}
