package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
)

// Rotation is a step in the change of a subscription's secret.
type Rotation struct {
	Action  string `json:"action,omitempty" enum:"stage,probe,promote,expire,unstage" doc:"stage, if not given: there is a next secret, which signs beside the current one. probe: post a test event that is signed with the next one alone. promote: the next one is the current one, and the one before signs beside it for a while. expire: that ends now. unstage: there is no next one any more."`
	Secret  string `json:"secret,omitempty" minLength:"1" maxLength:"512" writeOnly:"true" doc:"Of stage: the next secret. Without it, one is made."`
	Keep    *int   `json:"keep_seconds,omitempty" minimum:"0" maximum:"2592000" doc:"Of promote, or of probe with promote: how long the one before still signs; a day, if not given."`
	Promote bool   `json:"promote,omitempty" doc:"Of probe: promote the next secret if the endpoint takes the test event."`
}

// Rotated is a subscription after such a step.
type Rotated struct {
	Subscription
	NextSecret string      `json:"next_secret,omitempty" doc:"Of stage, this once."`
	Probe      *TestResult `json:"probe,omitempty" doc:"Of probe: what the endpoint did."`
}

type (
	rotateInput struct {
		SubscriptionPath
		Body *Rotation `required:"false"`
	}
	rotateOutput struct {
		ETag string `header:"ETag"`
		Body Rotated
	}
)

func (s *server) rotationRoutes(api huma.API) {
	register(s, api, huma.Operation{OperationID: "rotateSecret", Method: http.MethodPost, Path: "/subscriptions/{id}/rotate-secret", Tags: []string{"subscriptions"},
		Summary: "Replace the secret, step by step", Errors: []int{404, 409, 413, 415, 422},
		Description: "Stage a next secret, give it to the receiver, promote it. webhook-signature has a signature of each secret that is good, so a receiver that verifies with either misses nothing; X-Signature, which has room for one, changes at the promotion. A probe shows whether the receiver has the next one already."},
		token.RoleTenantWrite, s.rotateSecret)
}

func (s *server) rotateSecret(ctx context.Context, c *caller, in *rotateInput) (*rotateOutput, error) {
	b := Rotation{}
	if in.Body != nil {
		b = *in.Body
	}
	keep := deliver.DefaultKeep
	if b.Keep != nil {
		keep = time.Duration(*b.Keep) * time.Second
	}
	switch b.Action {
	case "", "stage":
		return s.stage(ctx, c, in.ID, b.Secret)
	case "probe":
		return s.probe(ctx, c, in.ID, b.Promote, keep)
	case "promote":
		return s.rotate(ctx, c, in.ID, "promote", func(l deliver.Subscriptions, id uuid.UUID) (*deliver.Subscription, error) {
			return l.PromoteSecret(ctx, id, deliver.Promotion{Keep: keep})
		})
	case "expire":
		return s.rotate(ctx, c, in.ID, "expire", func(l deliver.Subscriptions, id uuid.UUID) (*deliver.Subscription, error) {
			return l.ExpireSecret(ctx, id)
		})
	default:
		return s.rotate(ctx, c, in.ID, "unstage", func(l deliver.Subscriptions, id uuid.UUID) (*deliver.Subscription, error) {
			return l.UnstageSecret(ctx, id)
		})
	}
}

func (s *server) stage(ctx context.Context, c *caller, id, text string) (*rotateOutput, error) {
	if text == "" {
		text = signature.NewSecret()
	}
	if _, err := signature.Check(text); err != nil {
		return nil, invalid("/secret", sentence(err.Error()))
	}
	out, err := s.rotate(ctx, c, id, "stage", func(l deliver.Subscriptions, id uuid.UUID) (*deliver.Subscription, error) {
		return l.StageSecret(ctx, id, secret.New(text))
	})
	if err == nil {
		out.Body.NextSecret = text
	}
	return out, err
}

// probe posts a test event that only the next secret signs.
func (s *server) probe(ctx context.Context, c *caller, id string, promote bool, keep time.Duration) (*rotateOutput, error) {
	sub, err := s.store(c).subscription(ctx, id)
	if err != nil {
		return nil, err
	}
	if sub.Locked != nil {
		return nil, s.locked(ctx, sub.Locked)
	}
	signer, err := sub.NextSigner()
	if err != nil {
		if p := rotationProblem(err); p != nil {
			return nil, p
		}
		return nil, s.locked(ctx, err)
	}
	result, err := s.postTest(ctx, c, sub, signer)
	if err != nil {
		return nil, err
	}
	out := &rotateOutput{ETag: etag(sub), Body: Rotated{Subscription: view(sub)}}
	if promote && result.Success {
		if out, err = s.rotate(ctx, c, id, "promote", func(l deliver.Subscriptions, id uuid.UUID) (*deliver.Subscription, error) {
			return l.PromoteSecret(ctx, id, deliver.Promotion{Keep: keep, StagedAt: sub.NextStagedAt})
		}); err != nil {
			return nil, err
		}
	}
	out.Body.Probe = result
	return out, nil
}

// rotate takes a step and notes it.
func (s *server) rotate(ctx context.Context, c *caller, id, action string,
	step func(deliver.Subscriptions, uuid.UUID) (*deliver.Subscription, error)) (*rotateOutput, error) {
	var sub *deliver.Subscription
	err := s.store(c).write(ctx, func(w *change) error {
		before, err := w.subscription(ctx, id)
		if err != nil {
			return err
		}
		if sub, err = step(w.list(), before.ID); err != nil {
			if p := rotationProblem(err); p != nil {
				return p
			}
			if errors.Is(err, secret.ErrLooksSealed) {
				return looksSealed(err)
			}
			if errors.Is(err, secret.ErrLocked) {
				return s.locked(ctx, err)
			}
			return err
		}
		return w.note(ctx, "secret."+action, sub.ID, view(before), view(sub))
	})
	if err != nil {
		return nil, err
	}
	return &rotateOutput{ETag: etag(sub), Body: Rotated{Subscription: view(sub)}}, nil
}

// rotationProblem is the problem of a step that the present state does not allow; nil for another error.
func rotationProblem(err error) *Problem {
	for is, detail := range map[error]string{
		deliver.ErrSecretStaged:     "A next secret is staged already. Promote it, or unstage it first.",
		deliver.ErrNoSecretStaged:   "No next secret is staged. Stage one first.",
		deliver.ErrOtherStaged:      "Another secret was staged meanwhile.",
		deliver.ErrSecretExpiring:   "The secret of the rotation before still signs. Wait for its time, or expire it first.",
		deliver.ErrNoSecretToExpire: "There is no previous secret.",
		deliver.ErrSecretUnchanged:  "The next secret is the current one.",
	} {
		if errors.Is(err, is) {
			return newProblem(http.StatusConflict, detail)
		}
	}
	return nil
}
