package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
)

// TestResult is what an endpoint did with a test event.
type TestResult struct {
	Success        bool     `json:"success"`
	StatusCode     *int     `json:"status_code" doc:"Null: there was no answer."`
	Reason         string   `json:"reason,omitempty" doc:"Why it failed, out of the same set as a delivery's."`
	Detail         string   `json:"detail,omitempty"`
	DurationMicros int64    `json:"duration_us"`
	Warnings       []string `json:"warnings,omitempty" doc:"What keeps events from it although it takes a test event."`
}

type (
	// SubscriptionPath names a subscription. It is exported for the library, which looks into no other embedded struct.
	SubscriptionPath struct {
		ID string `path:"id" maxLength:"64" doc:"Id of the subscription." example:"01a21045-e54f-72f6-866b-2636175a6f62"`
	}
	// PageQuery asks for a page of a list.
	PageQuery struct {
		Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Items of a page."`
		Cursor string `query:"cursor" maxLength:"200" doc:"next_cursor of the page before."`
	}
	createInput struct {
		Key     string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]+$" doc:"A call that is repeated with the same key and body within a day makes nothing new, and has the same answer."`
		Body    NewSubscription
		RawBody []byte
	}
	patchInput struct {
		SubscriptionPath
		IfMatch string `header:"If-Match" maxLength:"200" doc:"ETag that it must have, so that no change of somebody else is undone."`
		Body    SubscriptionPatch
	}
	deleteInput struct {
		SubscriptionPath
		IfMatch string `header:"If-Match" maxLength:"200" doc:"ETag that it must have."`
	}
	oneOutput struct {
		ETag string `header:"ETag"`
		Body Subscription
	}
	createOutput struct {
		ETag     string `header:"ETag"`
		Location string `header:"Location"`
		Body     Created
	}
	listOutput struct {
		Body struct {
			Items      []Subscription `json:"items" nullable:"false"`
			NextCursor *string        `json:"next_cursor"`
		}
	}
	testOutput struct{ Body TestResult }
	noOutput   struct{}
)

func (s *server) subscriptionRoutes(api huma.API) {
	tags := []string{"subscriptions"}
	register(s, api, huma.Operation{OperationID: "createSubscription", Method: http.MethodPost, Path: "/subscriptions", Tags: tags,
		Summary: "Subscribe", DefaultStatus: http.StatusCreated, Errors: []int{409, 413, 415, 422},
		Description: "Makes a subscription. Events committed from now on are sent to it."}, token.RoleTenantWrite, s.createSubscription)
	register(s, api, huma.Operation{OperationID: "listSubscriptions", Method: http.MethodGet, Path: "/subscriptions", Tags: tags,
		Summary: "List subscriptions", Description: "Oldest first.", Errors: []int{400, 422}}, token.RoleTenantRead, s.listSubscriptions)
	register(s, api, huma.Operation{OperationID: "getSubscription", Method: http.MethodGet, Path: "/subscriptions/{id}", Tags: tags,
		Summary: "Show a subscription", Description: "Its ETag is what an update can ask for.", Errors: []int{404}}, token.RoleTenantRead, s.getSubscription)
	register(s, api, huma.Operation{OperationID: "updateSubscription", Method: http.MethodPatch, Path: "/subscriptions/{id}", Tags: tags,
		Summary: "Change a subscription", Errors: []int{404, 412, 413, 415, 422},
		Description: "Changes the fields that the body has. With If-Match, only if nobody else did meanwhile."}, token.RoleTenantWrite, s.patchSubscription)
	register(s, api, huma.Operation{OperationID: "deleteSubscription", Method: http.MethodDelete, Path: "/subscriptions/{id}", Tags: tags,
		Summary: "Unsubscribe", DefaultStatus: http.StatusNoContent, Errors: []int{404, 412},
		Description: "Removes a subscription. What waits for it is cancelled."}, token.RoleTenantWrite, s.deleteSubscription)
	register(s, api, huma.Operation{OperationID: "enableSubscription", Method: http.MethodPost, Path: "/subscriptions/{id}/enable", Tags: tags,
		Summary: "Enable a subscription", Errors: []int{404},
		Description: "Sends what was kept while it was disabled, slowly at first, and what comes. Of an active one it says that its endpoint works again: failures are forgotten, and what waits is due now, slowly at first."}, token.RoleTenantWrite,
		func(ctx context.Context, c *caller, in *SubscriptionPath) (*oneOutput, error) {
			return s.setActive(ctx, c, in.ID, true)
		})
	register(s, api, huma.Operation{OperationID: "disableSubscription", Method: http.MethodPost, Path: "/subscriptions/{id}/disable", Tags: tags,
		Summary: "Disable a subscription", Errors: []int{404},
		Description: "Sends nothing more to it. Its events are kept until it is enabled again."}, token.RoleTenantWrite,
		func(ctx context.Context, c *caller, in *SubscriptionPath) (*oneOutput, error) {
			return s.setActive(ctx, c, in.ID, false)
		})
	register(s, api, huma.Operation{OperationID: "getStatistics", Method: http.MethodGet, Path: "/subscriptions/{id}/statistics", Tags: tags,
		Summary: "Show how a subscription does", Errors: []int{404},
		Description: "What became of its deliveries of the last 24 hours, and what waits for it."}, token.RoleTenantRead, s.statistics)
	register(s, api, huma.Operation{OperationID: "trySubscription", Method: http.MethodPost, Path: "/subscriptions/try", Tags: tags,
		Summary: "Try what a subscription would get", Errors: []int{413, 415, 422},
		Description: "Tells which of the tenant's latest events such a subscription would have got. Nothing is sent, and nothing made."},
		token.RoleTenantRead, s.trySubscription)
	register(s, api, huma.Operation{OperationID: "testSubscription", Method: http.MethodPost, Path: "/subscriptions/{id}/test", Tags: tags,
		Summary: "Send a test event", Errors: []int{404, 409},
		Description: "Posts a signed event of type relay.test, on the way that deliveries take, and tells what came of it. Nothing is recorded."},
		token.RoleTenantWrite, s.testSubscription)
}

func one(s *deliver.Subscription) *oneOutput { return &oneOutput{ETag: etag(s), Body: view(s)} }

func (s *server) createSubscription(ctx context.Context, c *caller, in *createInput) (*createOutput, error) {
	const operation = "createSubscription"
	b := &in.Body
	events, err := patterns(b.Event, b.Events)
	if err != nil {
		return nil, err
	}
	key := b.Secret
	if key == "" {
		key = signature.NewSecret()
	}
	if _, err := signature.Check(key); err != nil {
		return nil, invalid("/secret", sentence(err.Error()))
	}
	sub := deliver.NewSubscription(c.tenant, b.URL, events, key)
	if sub.Headers, err = headers(nil, b.Headers, b.Auth, s.Limits().HeadersAllow); err != nil {
		return nil, err
	}
	f, err := b.Filter.parse()
	if err != nil {
		return nil, err
	}
	sub.SetFilter(f)
	if b.ClientCertificate != nil {
		if sub.ClientCertificate, err = b.ClientCertificate.hold(); err != nil {
			return nil, err
		}
	}
	sub.Format = b.Format
	set(&sub.RateLimit, b.RateLimit)
	if sub.RetrySchedule, err = schedule(b.RetrySchedule); err != nil {
		return nil, err
	}
	if sub.Timeout, err = s.timeout(b.Timeout); err != nil {
		return nil, err
	}
	sub.Description = b.Description
	if set(&sub.Active, b.Active); !sub.Active {
		reason := byTenant
		sub.DisabledReason = &reason
	}
	sub.Ordering, sub.OnDead = cmp.Or(b.Ordering, sub.Ordering), cmp.Or(b.OnDead, sub.OnDead)
	if err := s.checkRules(sub); err != nil {
		return nil, err
	}
	if err := checkShown(sub, true); err != nil {
		return nil, err
	}
	body := sha256.Sum256(in.RawBody)
	err = s.store(c).write(ctx, func(w *change) error {
		n, err := w.count(ctx)
		if err != nil {
			return err
		}
		made, err := w.made(ctx, operation, in.Key, body)
		if err != nil {
			return err
		}
		if made != uuid.Nil {
			if sub, err = w.list().Get(ctx, made); errors.Is(err, deliver.ErrNotFound) {
				return newProblem(http.StatusConflict, "What this Idempotency-Key made was deleted since. Use a new key.")
			}
			if err == nil && sub.Locked != nil {
				return s.locked(ctx, sub.Locked)
			}
			return err
		}
		if most := s.Limits().MaxSubscriptions; most > 0 && n >= most {
			return newProblem(http.StatusConflict, fmt.Sprintf("A tenant may have %d subscriptions. Delete one first.", most))
		}
		if err := w.list().Add(ctx, sub); err != nil {
			return looksSealed(err)
		}
		if err := w.note(ctx, "subscription.create", sub.ID, nil, view(sub)); err != nil {
			return err
		}
		return w.remember(ctx, operation, in.Key, body, sub.ID)
	})
	if err != nil {
		return nil, err
	}
	out := &createOutput{ETag: etag(sub), Location: Prefix + "/subscriptions/" + sub.ID.String(),
		Body: Created{view(sub), "", s.warnings(sub)}}
	// A call that is repeated after a change is not told the secret: it may be another one by now.
	if sub.UpdatedAt.Equal(sub.CreatedAt) {
		out.Body.Secret = sub.Secret.Reveal()
	}
	return out, nil
}

// looksSealed is the problem of a secret that would be taken for a sealed one.
func looksSealed(err error) error {
	if errors.Is(err, secret.ErrLooksSealed) {
		return invalid("/secret", "It must not begin like a sealed one.")
	}
	return err
}

func (s *server) listSubscriptions(ctx context.Context, c *caller, in *PageQuery) (*listOutput, error) {
	page, err := s.cursorPage(ctx, c, "subscriptions", in)
	if err != nil {
		return nil, err
	}
	list, err := s.store(c).subscriptions(ctx, page.last, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &listOutput{}
	list, out.Body.NextCursor = cut(page, list, in.Limit, func(s *deliver.Subscription) uuid.UUID { return s.ID })
	out.Body.Items = make([]Subscription, len(list))
	for i := range list {
		out.Body.Items[i] = view(&list[i])
	}
	return out, nil
}

func (s *server) getSubscription(ctx context.Context, c *caller, in *SubscriptionPath) (*oneOutput, error) {
	sub, err := s.store(c).subscription(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return one(sub), nil
}

func (s *server) patchSubscription(ctx context.Context, c *caller, in *patchInput) (*oneOutput, error) {
	b := &in.Body
	var events []string
	if b.Event != nil || b.Events != nil {
		var err error
		if events, err = patterns(deref(b.Event), b.Events); err != nil {
			return nil, err
		}
	}
	var sub *deliver.Subscription
	err := s.store(c).write(ctx, func(w *change) error {
		var err error
		if sub, err = w.subscription(ctx, in.ID); err != nil {
			return err
		}
		if !matches(in.IfMatch, sub) {
			return errChanged
		}
		before, held, shown := view(sub), sub.Headers, sub.ClientCertificate
		set(&sub.URL, b.URL)
		set(&sub.Description, b.Description)
		set(&sub.Ordering, b.Ordering)
		set(&sub.OnDead, b.OnDead)
		set(&sub.Format, b.Format)
		set(&sub.RateLimit, b.RateLimit)
		if events != nil {
			sub.Events = events
		}
		if b.Filter != nil {
			f, err := b.Filter.parse()
			if err != nil {
				return err
			}
			sub.SetFilter(f)
		}
		if b.RetrySchedule != nil {
			if sub.RetrySchedule, err = schedule(b.RetrySchedule); err != nil {
				return err
			}
		}
		if b.Timeout != nil {
			if sub.Timeout, err = s.timeout(*b.Timeout); err != nil {
				return err
			}
		}
		if err := s.checkRules(sub); err != nil {
			return err
		}
		if sub.Locked != nil && (b.Headers != nil || b.Auth != nil || b.ClientCertificate != nil) {
			return s.locked(ctx, sub.Locked)
		}
		if b.Headers != nil || b.Auth != nil {
			if sub.Headers, err = headers(sub, b.Headers, b.Auth, s.Limits().HeadersAllow); err != nil {
				return err
			}
		}
		if c := b.ClientCertificate; c != nil && c.none() {
			sub.ClientCertificate = secret.Secret{}
		} else if c != nil {
			if sub.ClientCertificate, err = c.hold(); err != nil {
				return err
			}
		}
		if err := checkShown(sub, b.ClientCertificate != nil); err != nil {
			return err
		}
		if reflect.DeepEqual(before, view(sub)) && sub.Headers == held && sub.ClientCertificate == shown && (b.Active == nil || *b.Active == sub.Active) {
			return nil // it would wake the relay for nothing
		}
		if err := w.list().Update(ctx, sub); errors.Is(err, deliver.ErrBadFilter) {
			return newProblem(http.StatusConflict, "Its filter cannot be read: somebody changed it in the database. Send a filter, or null, with the change.")
		} else if err != nil {
			return err
		}
		if sub.Headers != held {
			if err := w.list().SetHeaders(ctx, sub.ID, sub.Headers); err != nil {
				return err
			}
		}
		if sub.ClientCertificate != shown {
			if err := w.list().SetClientCertificate(ctx, sub.ID, sub.ClientCertificate); err != nil {
				return err
			}
		}
		if b.Active != nil && *b.Active != sub.Active {
			if err := w.list().SetActive(ctx, sub.ID, *b.Active, byTenant); err != nil {
				return err
			}
		}
		if sub, err = w.list().Get(ctx, sub.ID); err != nil {
			return err
		}
		return w.note(ctx, "subscription.update", sub.ID, before, view(sub))
	})
	if err != nil {
		return nil, err
	}
	return one(sub), nil
}

func (s *server) deleteSubscription(ctx context.Context, c *caller, in *deleteInput) (*noOutput, error) {
	err := s.store(c).write(ctx, func(w *change) error {
		sub, err := w.subscription(ctx, in.ID)
		if err != nil {
			return err
		}
		if !matches(in.IfMatch, sub) {
			return errChanged
		}
		if err := w.list().Remove(ctx, sub.ID); err != nil {
			return err
		}
		return w.note(ctx, "subscription.delete", sub.ID, view(sub), nil)
	})
	return nil, err
}

func (s *server) setActive(ctx context.Context, c *caller, id string, active bool) (*oneOutput, error) {
	action := "subscription.disable"
	if active {
		action = "subscription.enable"
	}
	var sub *deliver.Subscription
	err := s.store(c).write(ctx, func(w *change) error {
		var err error
		if sub, err = w.subscription(ctx, id); err != nil || !sub.Active && !active {
			return err // enabling an active one makes the relay forget its failures
		}
		before := view(sub)
		if err := w.list().SetActive(ctx, sub.ID, active, byTenant); err != nil {
			return err
		}
		if sub, err = w.list().Get(ctx, sub.ID); err != nil {
			return err
		}
		return w.note(ctx, action, sub.ID, before, view(sub))
	})
	if err != nil {
		return nil, err
	}
	return one(sub), nil
}

// locked is the problem of a subscription whose secret does not open. Why, is the operator's to know.
func (s *server) locked(ctx context.Context, err error) *Problem {
	s.Log.Warn("a subscription's secret does not open", "request_id", requestID(ctx), "error", err)
	return newProblem(http.StatusConflict, "It cannot be used as it is stored: tell your operator.")
}

// testRate is how many test events a second a tenant may have sent.
const testRate = 1

func (s *server) testSubscription(ctx context.Context, c *caller, in *SubscriptionPath) (*testOutput, error) {
	sub, err := s.store(c).subscription(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	signer, err := sub.Signer(time.Now())
	if err != nil {
		return nil, s.locked(ctx, err)
	}
	r, err := s.postTest(ctx, c, sub, signer)
	if err != nil {
		return nil, err
	}
	return &testOutput{Body: *r}, nil
}

// postTest posts a test event with a signer.
func (s *server) postTest(ctx context.Context, c *caller, sub *deliver.Subscription, signer *signature.Signer) (*TestResult, error) {
	if wait, ok := s.tests.take(c.tenant, testRate); !ok {
		return nil, huma.ErrorWithHeaders(newProblem(http.StatusTooManyRequests, "Too many test events."),
			http.Header{"Retry-After": {retryAfter(wait)}})
	}
	out, err := s.Post(ctx, sub, signer)
	if err != nil {
		return nil, newProblem(http.StatusConflict, sentence(err.Error()))
	}
	r := &TestResult{Success: out.Success(), Reason: string(out.Reason), Detail: out.Detail, DurationMicros: out.Duration.Microseconds()}
	if out.StatusCode != 0 {
		r.StatusCode = &out.StatusCode
	}
	if !sub.Active {
		r.Warnings = []string{"The subscription is disabled: its events wait until it is enabled."}
	}
	return r, nil
}
