package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
)

// retryAll is `relay deliveries retry --all`: mass recovery.
type retryAll struct {
	all, yes bool
	rate     int
}

func (a *retryAll) flags(c *cobra.Command) {
	c.Flags().BoolVar(&a.all, "all", false, "all that match --status (default DEAD), --tenant, --event and --subscription")
	c.Flags().BoolVar(&a.yes, "yes", false, "really; without it they are only counted")
	c.Flags().IntVar(&a.rate, "rate", 0, "with --all, so many a second (default replay.rate)")
}

func (a *retryAll) check(cmd *cobra.Command, args []string, f *deliver.Filter) error {
	if a.all == (len(args) > 0) {
		return usageError{errors.New("expected the ids of deliveries, or --all")}
	}
	if !a.all {
		for _, flag := range []string{"status", "tenant", "event", "subscription", "rate", "yes"} {
			if cmd.Flags().Changed(flag) {
				return usageError{fmt.Errorf("--%s is for --all", flag)}
			}
		}
		return nil
	}
	if f.Status == "" {
		f.Status = deliver.StatusDead
	}
	if f.Status != deliver.StatusDead && f.Status != deliver.StatusPending {
		return usageError{fmt.Errorf("--status %s: only DEAD and PENDING ones can be tried again", f.Status)}
	}
	if a.rate < 0 || a.rate > 10_000 {
		return usageError{fmt.Errorf("--rate %d: expected 1 to 10000", a.rate)}
	}
	return nil
}

// retriedAll says what became of all.
type retriedAll struct {
	Matched   int `json:"matched"`
	Asked     int `json:"asked"`
	Refused   int `json:"refused"`
	Remaining int `json:"remaining"`
}

func (a *retryAll) run(ctx context.Context, cmd *cobra.Command, cfg *config.Config, db *pgxpool.Pool, f deliver.Filter, wait time.Duration, output string) error {
	records := deliver.Records{DB: db}
	ids, err := records.IDs(ctx, f)
	if err != nil {
		return err
	}
	out := retriedAll{Matched: len(ids), Remaining: len(ids)}
	if len(ids) > 0 && !a.yes {
		return say(cmd, output, fmt.Sprintf("%d deliveries are %s and would be tried again: add --yes", len(ids), f.Status), out)
	}
	rate := a.rate
	if rate == 0 {
		rate = min(cfg.Replay.Rate, 10_000)
	}
	for len(ids) > 0 && err == nil {
		var done bool
		n := min(rate, len(ids))
		done, err = a.batch(ctx, cmd, db, ids[:n], wait, &out)
		ids = ids[n:]
		out.Remaining = len(ids)
		if !done {
			break // nobody leads: what was asked for is enough for now
		}
	}
	line := fmt.Sprintf("%d of %d tried again", out.Asked-out.Refused, out.Matched)
	if out.Refused > 0 {
		line += fmt.Sprintf(", %d not, because their subscription or their body is gone", out.Refused)
	}
	if out.Remaining > 0 {
		line += fmt.Sprintf(", %d left: call it again", out.Remaining)
	}
	if said := say(cmd, output, line, out); err == nil {
		err = said
	}
	if err == nil && (out.Refused > 0 || out.Remaining > 0) {
		err = fmt.Errorf("%d of %d were not tried again", out.Refused+out.Remaining, out.Matched)
	}
	return err
}

// batch asks for some, and lasts a second at least unless they are the last.
func (a *retryAll) batch(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, ids []uuid.UUID, wait time.Duration, out *retriedAll) (bool, error) {
	began := time.Now()
	targets := make([]string, len(ids))
	for i, id := range ids {
		targets[i] = id.String()
	}
	records := deliver.Records{DB: db}
	var asked time.Time // by the clock of the database, as ended_at nearly is
	if err := db.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&asked); err != nil {
		return false, fmt.Errorf("ask for the time: %w", err)
	}
	waiting, err := ask(ctx, cmd, db, deliver.RequestRetryDelivery, targets, wait)
	if err != nil {
		return false, err
	}
	out.Asked += len(ids)
	if len(waiting) > 0 {
		return false, nil
	}
	refused, err := records.DeadSince(ctx, ids, asked)
	if err != nil {
		return false, err
	}
	out.Refused += refused
	if out.Asked < out.Matched {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(time.Until(began.Add(time.Second))):
		}
	}
	return true, nil
}
