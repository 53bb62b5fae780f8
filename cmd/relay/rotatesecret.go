package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
)

// rotation is what `relay subscriptions rotate-secret` was asked for.
type rotation struct {
	stage, unstage, probe, promote, expire bool
	keep                                   time.Duration
	key, keyFile                           string
	output                                 string
}

// rotated is what it did.
type rotated struct {
	*deliver.Subscription
	NextSecret string      `json:"next_secret,omitempty"` // that was made, shown this once
	Probe      *testResult `json:"probe,omitempty"`
}

func newSubscriptionsRotateSecret() *cobra.Command {
	var r rotation
	c := &cobra.Command{
		Use: "rotate-secret ID", Short: "Give a subscription another secret, in steps that no receiver has to keep pace with", Args: cobra.ExactArgs(1),
		Long: "Give a subscription another secret. A relay that runs takes each step in at once:\n\n" +
			"  --stage    a next secret is there: webhook-signature carries a signature of the current one and one of the next;\n" +
			"             X-Signature stays that of the current one. This is what happens without a flag, too\n" +
			"  --probe    post a test event that is signed with the next secret alone, to see whether the receiver has it\n" +
			"  --promote  the next secret is the current one, X-Signature too; webhook-signature carries the old one for --keep.\n" +
			"             With --probe, only if the endpoint took the test event\n" +
			"  --expire   the old secret goes now instead of after --keep\n" +
			"  --unstage  the next secret is taken back\n\n" +
			"For a secret that has leaked: --stage --promote --keep 0s. docs/receivers.md has the steps for both sides.",
		Example: "  relay subscriptions rotate-secret 01a21045-e54f-72f6-866b-2636175a6f62 --stage\n" +
			"  relay subscriptions rotate-secret 01a21045-e54f-72f6-866b-2636175a6f62 --probe --promote --keep 48h",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.check(cmd); err != nil {
				return err
			}
			next, made, err := givenSecret(cmd, r.key, r.keyFile)
			if err != nil {
				return err
			}
			return withSubscription(cmd, args[0], func(ctx context.Context, cfg *config.Config, store deliver.Subscriptions, s *deliver.Subscription) error {
				return r.run(ctx, cmd, cfg, store, s, next, made)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&r.stage, "stage", false, "the first step")
	f.BoolVar(&r.probe, "probe", false, "post a test event that is signed with the next secret alone")
	f.BoolVar(&r.promote, "promote", false, "the second step")
	f.BoolVar(&r.expire, "expire", false, "the last step, now")
	f.BoolVar(&r.unstage, "unstage", false, "take the first step back")
	durationFlag(f, &r.keep, "keep", deliver.DefaultKeep, "with --promote: how long the old secret signs beside the new one; 0s: not at all")
	f.StringVar(&r.key, "secret", "", "with --stage: the next secret; other users of the machine may see a command line: prefer --secret-file")
	f.StringVar(&r.keyFile, "secret-file", "", "with --stage: file that holds the next secret; without it one is made, and shown this once")
	addOutput(c, &r.output)
	return c
}

// check refuses flags that do not go together. Those that do are carried out in their order.
func (r *rotation) check(cmd *cobra.Command) error {
	alone := 0
	for _, on := range []bool{r.expire, r.unstage, r.stage || r.probe || r.promote} {
		if on {
			alone++
		}
	}
	if alone == 0 {
		r.stage = true
	}
	switch {
	case alone > 1:
		return usageError{errors.New("--expire and --unstage go with no other step")}
	case !r.stage && (r.key != "" || r.keyFile != ""):
		return usageError{errors.New("--secret and --secret-file are for --stage")}
	case !r.promote && cmd.Flags().Changed("keep"):
		return usageError{errors.New("--keep is for --promote")}
	case r.keep < 0:
		return usageError{fmt.Errorf("--keep %s: expected 0s or more", r.keep)}
	}
	return nil
}

func (r *rotation) run(ctx context.Context, cmd *cobra.Command, cfg *config.Config, store deliver.Subscriptions, s *deliver.Subscription,
	next string, made bool) (err error) {
	done := rotated{Subscription: s}
	var lines []string
	defer func() { // also when a later step failed
		if len(lines) > 0 || done.Probe != nil {
			err = errors.Join(r.print(cmd, done, lines), err)
		}
	}()
	step := func(now *deliver.Subscription, err error, line string) error {
		if err == nil {
			done.Subscription, lines = now, append(lines, line)
		}
		return err
	}
	if r.stage {
		now, err := store.StageSecret(ctx, s.ID, secret.New(next))
		if err := step(now, err, "staged: webhook-signature carries both. Give the receiver the next secret, then --probe and --promote"); err != nil {
			return err
		}
		if made {
			done.NextSecret = next
		}
	}
	if r.probe {
		out, err := probe(ctx, cfg, done.Subscription)
		if err != nil {
			return err
		}
		result := newTestResult(s, out)
		done.Probe = &result
		if err := refusal(out); err != nil {
			if r.promote {
				err = fmt.Errorf("%w; not promoted", err)
			}
			return err
		}
		lines = append(lines, "probed: "+answered(out))
	}
	if r.promote {
		p := deliver.Promotion{Keep: r.keep}
		if r.stage || r.probe {
			p.StagedAt = done.NextStagedAt // the one that is meant
		}
		now, err := store.PromoteSecret(ctx, s.ID, p)
		line := "promoted: the next secret is the current one, in X-Signature too"
		if err == nil && now.PreviousExpiresAt != nil {
			line += "; the old one signs beside it until " + stamp(now.PreviousExpiresAt)
		}
		return step(now, err, line)
	}
	if r.expire {
		now, err := store.ExpireSecret(ctx, s.ID)
		return step(now, err, "expired: nothing is signed with the old secret any more")
	}
	if r.unstage {
		now, err := store.UnstageSecret(ctx, s.ID)
		return step(now, err, "unstaged: the next secret is gone")
	}
	return nil
}

func (r *rotation) print(cmd *cobra.Command, done rotated, lines []string) error {
	if r.output == formJSON {
		return printJSON(cmd.OutOrStdout(), done)
	}
	if done.NextSecret != "" {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "next secret (shown this once): %s\n", done.NextSecret)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
			return err
		}
	}
	return nil
}

// probe posts a test event that is signed with the next secret alone.
func probe(ctx context.Context, cfg *config.Config, s *deliver.Subscription) (deliver.Outcome, error) {
	signer, err := s.NextSigner()
	if err != nil {
		return deliver.Outcome{}, fmt.Errorf("probe the next secret of subscription %s: %w", s.ID, err)
	}
	return postTest(ctx, cfg, s, signer)
}
