package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/token"
)

// EventType is a type of event that can be subscribed to.
type EventType struct {
	Type        string          `json:"type" example:"payment.received"`
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"schema" doc:"JSON Schema of the member data of the event's body."`
	Example     json.RawMessage `json:"example" doc:"Such data; null when there is no example."`
}

type (
	typesOutput struct {
		Body struct {
			Items      []EventType `json:"items" nullable:"false"`
			NextCursor *string     `json:"next_cursor" doc:"Always null: the catalog is one page."`
		}
	}
	typeInput struct {
		Type string `path:"type" maxLength:"255" doc:"Whole name of the type." example:"payment.received"`
	}
	typeOutput struct{ Body EventType }
)

func (s *server) catalogRoutes(api huma.API) {
	tags := []string{"events"}
	register(s, api, huma.Operation{OperationID: "listEventTypes", Method: http.MethodGet, Path: "/events", Tags: tags,
		Summary: "List the types of events", Description: "The whole catalog, with JSON Schemas and examples."}, token.RoleTenantRead,
		func(context.Context, *caller, *struct{}) (*typesOutput, error) {
			out := &typesOutput{}
			types := s.Catalog().Types()
			out.Body.Items = make([]EventType, len(types))
			for i := range types {
				out.Body.Items[i] = eventType(&types[i])
			}
			return out, nil
		})
	register(s, api, huma.Operation{OperationID: "getEventType", Method: http.MethodGet, Path: "/events/{type}", Tags: tags,
		Summary: "Show a type of event", Description: "With the JSON Schema of its data.", Errors: []int{404}}, token.RoleTenantRead,
		func(_ context.Context, _ *caller, in *typeInput) (*typeOutput, error) {
			t, ok := s.Catalog().Lookup(in.Type)
			if !ok {
				return nil, newProblem(http.StatusNotFound, "The catalog has no such type of event.")
			}
			return &typeOutput{Body: eventType(&t)}, nil
		})
}

func eventType(t *outbox.EventType) EventType {
	return EventType{Type: t.Name, Description: t.Description, Schema: t.Schema, Example: t.Example}
}
