package api

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/duration"
	"github.com/outbox-relay/relay/internal/signature"
)

// Subscription is a subscription as its tenant sees it.
type Subscription struct {
	ID                uuid.UUID          `json:"id"`
	TenantID          string             `json:"tenant_id"`
	URL               string             `json:"url" doc:"Where events are posted."`
	Event             *string            `json:"event,omitempty" doc:"The one entry of events, when there is just one."`
	Events            []string           `json:"events" nullable:"false" doc:"Event types, patterns such as payment.*, or * for all."`
	Filter            Filter             `json:"filter" nullable:"true" doc:"What the payload of an event has to be like. Null: anything will do."`
	Description       string             `json:"description"`
	Ordering          string             `json:"ordering" enum:"key,none" doc:"key: events of one key arrive in commit order. none: each on its own."`
	OnDead            string             `json:"on_dead" enum:"release,halt" doc:"What becomes of a key when one of its deliveries is given up."`
	Format            string             `json:"format" enum:"webhook,cloudevents" doc:"What the body is: our own envelope, or a CloudEvent (structured mode)."`
	RateLimit         *float64           `json:"rate_limit" doc:"Attempts a second that it gets at most. Null: as many as it takes."`
	RetrySchedule     []string           `json:"retry_schedule" nullable:"true" doc:"Wait before each attempt, as many attempts as items. Null: that of the relay's configuration."`
	Timeout           *string            `json:"timeout" doc:"How long an attempt may take, until the end of the answer. Null: as long as the relay's configuration says."`
	Active            bool               `json:"active" doc:"While it is false, events are kept and not sent."`
	DisabledReason    *string            `json:"disabled_reason" doc:"Why it is not active."`
	HeaderNames       []string           `json:"header_names" nullable:"false" doc:"Names of the headers that its webhooks have besides ours. Their values are not shown."`
	ClientCertificate *ClientCertificate `json:"client_certificate" doc:"What its receiver is shown where it asks for a certificate (mutual TLS); null: there is none. Its key is not shown."`
	FailingSince      *time.Time         `json:"failing_since" doc:"When its endpoint first failed since it last took something."`
	NextStagedAt      *time.Time         `json:"next_secret_staged_at" doc:"When the next secret began to sign beside the current one; null: there is none."`
	PreviousUntil     *time.Time         `json:"previous_secret_expires_at" doc:"How long the secret of before the last rotation signs; null: it does not."`
	CreatedAt         time.Time          `json:"created_at"`
	UpdatedAt         time.Time          `json:"updated_at"`
}

// Created is a subscription with what is said of it once.
type Created struct {
	Subscription
	Secret   string   `json:"secret,omitempty" doc:"Signs its webhooks. It is not shown again; nor is it by a call that is repeated, with its Idempotency-Key, after a change."`
	Warnings []string `json:"warnings,omitempty" doc:"What may not be meant like this."`
}

// NewSubscription is what a subscription is made of.
type NewSubscription struct {
	URL               string                `json:"url" minLength:"1" maxLength:"2048" doc:"Where to post events." example:"https://hooks.example.com/x"`
	Event             string                `json:"event,omitempty" minLength:"1" maxLength:"255" doc:"One event type, or a pattern. Exactly one of event and events is needed." example:"payment.received"`
	Events            []string              `json:"events,omitempty" minItems:"1" maxItems:"100" nullable:"false" doc:"Event types and patterns."`
	Filter            Filter                `json:"filter,omitempty" doc:"What the payload of an event has to be like."`
	Secret            string                `json:"secret,omitempty" minLength:"1" maxLength:"512" doc:"Signs its webhooks. Without one it is made, which is better: whsec_ and 32 random bytes." writeOnly:"true"`
	Description       string                `json:"description,omitempty" maxLength:"1000"`
	Ordering          string                `json:"ordering,omitempty" enum:"key,none" doc:"key, if not given."`
	OnDead            string                `json:"on_dead,omitempty" enum:"release,halt" doc:"release, if not given."`
	Format            string                `json:"format,omitempty" enum:"webhook,cloudevents" doc:"webhook, if not given."`
	RateLimit         *float64              `json:"rate_limit,omitempty" minimum:"0.01" maximum:"1000" doc:"Attempts a second that it gets at most."`
	RetrySchedule     []string              `json:"retry_schedule,omitempty" maxItems:"100" nullable:"false" doc:"Wait before each attempt, such as 0s, 5s, 1m, 2h; up to 720h."`
	Timeout           string                `json:"timeout,omitempty" maxLength:"32" doc:"How long an attempt may take, such as 30s, for a receiver that needs longer than others. The relay has a longest one." example:"30s"`
	Active            *bool                 `json:"active,omitempty" doc:"true, if not given."`
	Headers           []Header              `json:"headers,omitempty" maxItems:"20" nullable:"false" writeOnly:"true" doc:"Headers that its webhooks have besides ours. Kept like secrets: only their names are shown."`
	Auth              *Auth                 `json:"auth,omitempty" writeOnly:"true" doc:"What the receiver wants in the header Authorization."`
	ClientCertificate *NewClientCertificate `json:"client_certificate,omitempty" writeOnly:"true" doc:"What the receiver is shown where it asks for a certificate (mutual TLS). It needs an https URL. Kept like secrets: its key is not shown."`
}

// Header is a header that webhooks have.
type Header struct {
	Name  string `json:"name" minLength:"1" maxLength:"64" doc:"Begins with X- and is not one of ours, or is one of Api-Key, From, Tenant and Tenant-Id, or one that the operator allows." example:"X-Api-Key"`
	Value string `json:"value" minLength:"1" maxLength:"2048" doc:"Visible ASCII and spaces between."`
}

// Auth is what stands in the header Authorization.
type Auth struct {
	Type     string `json:"type" enum:"bearer,basic,none" doc:"none takes it away."`
	Token    string `json:"token,omitempty" maxLength:"2000" doc:"Of bearer (RFC 6750)."`
	Username string `json:"username,omitempty" maxLength:"500" doc:"Of basic (RFC 7617). It has no colon."`
	Password string `json:"password,omitempty" maxLength:"500" doc:"Of basic."`
}

// SubscriptionPatch changes what it has.
type SubscriptionPatch struct {
	URL               *string               `json:"url,omitempty" minLength:"1" maxLength:"2048"`
	Event             *string               `json:"event,omitempty" minLength:"1" maxLength:"255" doc:"Short for events with one entry."`
	Events            []string              `json:"events,omitempty" minItems:"1" maxItems:"100" nullable:"false"`
	Filter            Filter                `json:"filter,omitempty" doc:"Another filter instead of the one that there is; null, or an empty object, for none."`
	Description       *string               `json:"description,omitempty" maxLength:"1000"`
	Ordering          *string               `json:"ordering,omitempty" enum:"key,none"`
	OnDead            *string               `json:"on_dead,omitempty" enum:"release,halt"`
	Format            *string               `json:"format,omitempty" enum:"webhook,cloudevents"`
	RateLimit         *float64              `json:"rate_limit,omitempty" minimum:"0" maximum:"1000" doc:"Attempts a second that it gets at most. 0 takes the bound away."`
	RetrySchedule     []string              `json:"retry_schedule,omitempty" maxItems:"100" nullable:"false" doc:"Wait before each attempt, such as 0s, 5s, 1m, 2h; up to 720h. An empty list is that of the configuration."`
	Timeout           *string               `json:"timeout,omitempty" maxLength:"32" doc:"How long an attempt may take, such as 30s. 0s takes it away."`
	Active            *bool                 `json:"active,omitempty"`
	Headers           []Header              `json:"headers,omitempty" maxItems:"20" nullable:"false" writeOnly:"true" doc:"All headers, instead of those that there are; an empty list for none. Authorization is not among them."`
	Auth              *Auth                 `json:"auth,omitempty" writeOnly:"true"`
	ClientCertificate *NewClientCertificate `json:"client_certificate,omitempty" writeOnly:"true" doc:"Another client certificate, from the next attempt on. Both of its fields empty take it away."`
}

func view(s *deliver.Subscription) Subscription {
	v := Subscription{ID: s.ID, TenantID: s.TenantID, URL: s.URL, Events: s.Events, Description: s.Description, Ordering: s.Ordering,
		OnDead: s.OnDead, Format: s.Format, Active: s.Active, DisabledReason: s.DisabledReason, FailingSince: utc(s.FailingSince), HeaderNames: s.HeaderNames(),
		ClientCertificate: viewCertificate(s.Certificate),
		NextStagedAt:      utc(s.NextStagedAt), PreviousUntil: utc(s.PreviousExpiresAt),
		CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC()}
	if len(s.Events) == 1 {
		v.Event = &s.Events[0]
	}
	if s.Filter != nil {
		v.Filter = Filter(s.Filter.String())
	}
	if rate := s.RateLimit; rate > 0 {
		v.RateLimit = &rate
	}
	if s.Timeout > 0 {
		text := s.Timeout.String()
		v.Timeout = &text
	}
	for _, d := range s.RetrySchedule {
		v.RetrySchedule = append(v.RetrySchedule, duration.Format(d))
	}
	return v
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// etag names a state of a subscription.
func etag(s *deliver.Subscription) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", s.ID, s.UpdatedAt.UnixMicro()))
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

// matches tells whether a state is one that an If-Match header lets change (RFC 9110, 13.1.1).
func matches(header string, s *deliver.Subscription) bool {
	if header == "" {
		return true
	}
	for part := range strings.SplitSeq(header, ",") {
		if part = strings.TrimSpace(part); part == "*" || part == etag(s) {
			return true
		}
	}
	return false
}

var errChanged = newProblem(http.StatusPreconditionFailed, "Somebody has changed it since that ETag was read. Read it again.")

// patterns takes them out of the two fields that may have them.
func patterns(event string, events []string) ([]string, error) {
	switch {
	case event != "" && events != nil:
		return nil, invalid("/event", "Give event or events, not both.")
	case event != "":
		if err := deliver.CheckPattern(event); err != nil {
			return nil, invalid("/event", patternHelp)
		}
		return []string{event}, nil
	case len(events) == 0:
		return nil, invalid("/event", "An event is needed: "+patternHelp)
	}
	for i, p := range events {
		if err := deliver.CheckPattern(p); err != nil {
			return nil, invalid(fmt.Sprintf("/events/%d", i), patternHelp)
		}
		if slices.Contains(events[:i], p) {
			return nil, invalid(fmt.Sprintf("/events/%d", i), "It stands in the list already.")
		}
	}
	return events, nil
}

// schedule reads a retry schedule.
func schedule(list []string) ([]time.Duration, error) {
	var out []time.Duration
	for i, text := range list {
		d, err := duration.Parse(text)
		if err != nil {
			d = -1 // which is none either
		}
		if err := deliver.CheckWait(d); err != nil {
			return nil, invalid(fmt.Sprintf("/retry_schedule/%d", i), sentence(err.Error()))
		}
		out = append(out, d)
	}
	return out, nil
}

// timeout reads a subscription's own timeout.
func (s *server) timeout(text string) (deliver.Timeout, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		d = -1 // which is none either
	}
	if err := deliver.CheckTimeout(deliver.Timeout(d), s.Limits().MaxTimeout); err != nil {
		return 0, invalid("/timeout", sentence(err.Error()))
	}
	return deliver.Timeout(d), nil
}

const patternHelp = "Expected a name such as payment.received, a pattern such as payment.*, or *."

// checkRules tells what is wrong with a subscription as it would be, out of what its fields cannot tell by themselves.
func (s *server) checkRules(sub *deliver.Subscription) error {
	if err := s.CheckURL(sub.TenantID, sub.URL); err != nil {
		return invalid("/url", sentence(err.Error()))
	}
	if err := deliver.CheckOnDead(sub.OnDead, sub.Ordering); err != nil {
		return invalid("/on_dead", sentence("halt needs ordering key: "+err.Error()))
	}
	if err := deliver.CheckRate(sub.RateLimit); err != nil {
		return invalid("/rate_limit", sentence(err.Error()))
	}
	if strings.ContainsFunc(sub.Description, func(r rune) bool { return r == 0 }) {
		return invalid("/description", "It has a NUL character.")
	}
	return nil
}

// warnings say what is allowed and may not be meant.
func (s *server) warnings(sub *deliver.Subscription) []string {
	var out []string
	for _, p := range deliver.Unmatched(sub.Events, s.Catalog().Types()) {
		out = append(out, fmt.Sprintf("No event type of the catalog matches %q.", p))
	}
	if weak, err := signature.Check(sub.Secret.Reveal()); err == nil && weak != "" {
		out = append(out, "The secret is weak: "+weak+".")
	}
	if sub.Certificate != nil {
		out = append(out, sub.Certificate.Warnings(time.Now())...)
	}
	return out
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// byTenant is the reason of a subscription that its tenant disabled.
const byTenant = "disabled by its tenant"
