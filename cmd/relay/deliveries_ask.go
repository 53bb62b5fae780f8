package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
)

func newDeliveriesRetry() *cobra.Command {
	var wait time.Duration
	var output string
	var many retryAll
	c := &cobra.Command{
		Use: "retry (ID... | --all)", Short: "Try deliveries again now", Args: cobra.ArbitraryArgs,
		Long: "Try deliveries again now: one that waits is due at once, a dead one begins its schedule anew. It keeps its\n" +
			"place in the order of its key. With --all, every one that the other flags leave, oldest first and so many a\n" +
			"second; interrupted, it goes on when it is called again.",
		Example: "  relay deliveries retry 01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0\n" +
			"  relay deliveries retry --all --subscription 01a21045-e54f-72f6-866b-2636175a6f62 --event 'payment.received' --yes",
	}
	filter := filterFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		f, err := filter()
		if err != nil {
			return err
		}
		if err := many.check(cmd, args, &f); err != nil {
			return err
		}
		if many.all {
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				return many.run(ctx, cmd, cfg, db, f, wait, output)
			})
		}
		var ids []uuid.UUID
		for _, a := range args {
			id, err := parseID("delivery", a)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
			return retryDeliveries(ctx, cmd, db, ids, wait, output)
		})
	}
	many.flags(c)
	waitFlag(c, &wait)
	addOutput(c, &output)
	return c
}

func retryDeliveries(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, ids []uuid.UUID, wait time.Duration, output string) error {
	records := deliver.Records{DB: db}
	var targets []string
	var before []*deliver.Record
	for _, id := range ids {
		d, err := records.Get(ctx, id)
		if err != nil {
			return err
		}
		if d.Status == deliver.StatusDelivered || d.Status == deliver.StatusCancelled {
			return fmt.Errorf("delivery %s is %s: only PENDING and DEAD ones can be tried again", id, d.Status)
		}
		if d.Held && d.Status == deliver.StatusPending {
			return fmt.Errorf("delivery %s waits because its subscription is disabled: `relay subscriptions enable %s` sends all that waits", id, d.SubscriptionID)
		}
		before, targets = append(before, d), append(targets, id.String())
	}
	q := asked{kind: deliver.RequestRetryDelivery, targets: targets, wait: wait, could: "tried again"}
	return q.askFor(ctx, cmd, db, output, func(i int) (string, bool, error) {
		d, err := records.Get(ctx, ids[i])
		switch {
		case errors.Is(err, deliver.ErrNotFound):
			return "ended, and deliver.log keeps no record of it", false, nil
		case err != nil:
			return "", false, err
		case d.Status == deliver.StatusPending:
			return string(d.Status) + ", " + outlook(d), false, nil
		case before[i].EndedAt != nil && d.EndedAt.Equal(*before[i].EndedAt):
			return string(d.Status) + ", not tried again: its subscription or its body is gone", true, nil
		}
		return string(d.Status), false, nil
	})
}

func newDeliveriesDiscard() *cobra.Command {
	var wait time.Duration
	var really sure
	var output string
	c := &cobra.Command{
		Use: "discard ID...", Short: "Give up dead deliveries that halt their key", Args: cobra.MinimumNArgs(1),
		Long: "Give up dead deliveries of subscriptions that were added with --on-dead halt: they become CANCELLED and will\n" +
			"never be sent, and the later events of their keys, which wait behind them, go on. To send one instead, use\n" +
			"`relay deliveries retry`.",
		Example: "  relay deliveries discard 01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0 --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := deliveryIDs(args)
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				return discardDeliveries(ctx, cmd, db, ids, wait, &really, output)
			})
		},
	}
	really.flags(c)
	waitFlag(c, &wait)
	addOutput(c, &output)
	return c
}

func deliveryIDs(args []string) ([]uuid.UUID, error) {
	var ids []uuid.UUID
	for _, a := range args {
		id, err := parseID("delivery", a)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func discardDeliveries(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, ids []uuid.UUID, wait time.Duration, really *sure, output string) error {
	records := deliver.Records{DB: db}
	var targets, lost []string
	for _, id := range ids {
		d, err := records.Get(ctx, id)
		if err != nil {
			return err
		}
		if !d.Halts {
			return fmt.Errorf("delivery %s is %s and holds nothing up: only a dead one that its key waits behind can be discarded", id, d.Status)
		}
		targets = append(targets, id.String())
		lost = append(lost, fmt.Sprintf("%s (%s of %s for subscription %s)", id, printable(d.Event), printable(d.TenantID), d.SubscriptionID))
	}
	if ok, err := really.ask(cmd, output, "these are never sent when discarded: "+strings.Join(lost, ", ")); !ok {
		return err
	}
	q := asked{kind: deliver.RequestDiscardDelivery, targets: targets, wait: wait, could: "discarded"}
	return q.askFor(ctx, cmd, db, output, func(i int) (string, bool, error) {
		d, err := records.Get(ctx, ids[i])
		if err != nil {
			return "", false, err
		}
		if d.Status != deliver.StatusCancelled {
			return string(d.Status) + ", not discarded: somebody retried it, or its subscription is gone", true, nil
		}
		return "discarded", false, nil
	})
}
