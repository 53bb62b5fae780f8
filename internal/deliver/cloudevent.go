package deliver

import (
	"encoding/json"
	"fmt"
	"net/url"
)

// Formats of a webhook's body.
const (
	FormatWebhook     = "webhook"     // our own envelope
	FormatCloudEvents = "cloudevents" // structured mode of CloudEvents 1.0
)

const (
	jsonType       = "application/json"
	cloudEventType = "application/cloudevents+json"
)

// ContentType is that of the bodies that a subscription gets.
func (s *Subscription) ContentType() string {
	if s.Format == FormatCloudEvents {
		return cloudEventType
	}
	return jsonType
}

// BodyFor is what a subscription gets of an event, which depends on nothing else, so that all attempts send the same bytes.
// The envelope is kept once for all subscriptions, and a CloudEvent is made of it. That is of structured mode, because the
// signature covers the body and not the headers, which is where the other mode has the attributes.
//
// Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
func (s *Subscription) BodyFor(f *Flight) ([]byte, error) {
	if s.Format != FormatCloudEvents {
		return f.Body, nil
	}
	var envelope struct {
		Timestamp string          `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(f.Body, &envelope); err != nil {
		return nil, fmt.Errorf("make a CloudEvent: %w", err)
	}
	attributes, err := json.Marshal(struct {
		SpecVersion   string `json:"specversion"`
		ID            string `json:"id"`
		Source        string `json:"source"`
		Type          string `json:"type"`
		Time          string `json:"time"`
		Subject       string `json:"subject,omitempty"`
		ContentType   string `json:"datacontenttype"`
		PartitionKey  string `json:"partitionkey,omitempty"`
		TenantID      string `json:"tenantid"`
		AggregateType string `json:"aggregatetype,omitempty"`
	}{"1.0", f.EventID.String(), "/tenants/" + url.PathEscape(f.TenantID), f.Type, envelope.Timestamp, f.AggregateID, jsonType,
		f.AggregateID, f.TenantID, f.AggregateType})
	if err != nil {
		return nil, fmt.Errorf("make a CloudEvent: %w", err)
	}
	// The data go as they are: a marshaller would write them anew.
	body := make([]byte, 0, len(attributes)+len(envelope.Data)+len(`,"data":}`))
	body = append(body, attributes[:len(attributes)-1]...)
	if envelope.Data != nil {
		body = append(append(body, `,"data":`...), envelope.Data...)
	}
	return append(body, '}'), nil
}
