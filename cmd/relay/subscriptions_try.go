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
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
)

// tried is an event, and whether a subscription would have got it.
type tried struct {
	EventID     uuid.UUID `json:"event_id"`
	Event       string    `json:"event"`
	AggregateID string    `json:"aggregate_id"`
	Timestamp   time.Time `json:"timestamp"`
	Matches     bool      `json:"matches"`
	Why         string    `json:"why,omitempty"` // it does not
}

func newSubscriptionsTry() *cobra.Command {
	var tenant, wanted, output string
	var events []string
	var last int
	c := &cobra.Command{
		Use: "try", Short: "Tell which of a tenant's latest events a subscription would have got", Args: cobra.NoArgs,
		Long:    "Tell which of a tenant's latest events a subscription would have got. Nothing is made, and nothing sent.",
		Example: `  relay subscriptions try --tenant acme --event 'payment.*' --filter '{"amount": {"$gte": 100}}' --last 20`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if tenant == "" || len(events) == 0 {
				return usageError{errors.New("--tenant and --event are required")}
			}
			if last < 1 || last > 10_000 {
				return usageError{fmt.Errorf("--last %d: expected 1 to 10000", last)}
			}
			if err := checkPatterns(events); err != nil {
				return err
			}
			f, err := givenFilter(wanted)
			if err != nil {
				return err
			}
			return withIdentity(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				catalog, err := outbox.NewCatalog(cfg.Catalog.Files...)
				if err != nil {
					return err
				}
				latest, err := (daemon.Retained{Settings: cfg, Catalog: catalog, DB: db}).Latest(ctx, tenant, last)
				if err != nil {
					return err
				}
				list := tryOn(&deliver.Subscription{Events: events, Filter: f}, latest)
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), items(list))
				}
				rows, matched := make([][]string, len(list)), 0
				for i, t := range list {
					answer := "no: " + t.Why
					if t.Matches {
						answer = "yes"
						matched++
					}
					rows[i] = []string{t.EventID.String(), printable(t.Event), printable(t.AggregateID), stamp(&t.Timestamp), printable(answer)}
				}
				if err := table(cmd.OutOrStdout(), "EVENT_ID EVENT AGGREGATE TIMESTAMP MATCHES", rows); err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d events\n", matched, len(list))
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&tenant, "tenant", "", "tenant whose events are looked at")
	f.StringArrayVar(&events, "event", nil, "event name or pattern; repeatable")
	f.StringVar(&wanted, "filter", "", "what the payload has to be like, as JSON")
	f.IntVar(&last, "last", 100, "how many events are looked at")
	addOutput(c, &output)
	return c
}

func tryOn(sub *deliver.Subscription, latest []outbox.Event) []tried {
	list := make([]tried, len(latest))
	for i := range latest {
		e := &latest[i]
		t := tried{EventID: e.ID, Event: e.Type, AggregateID: e.AggregateID, Timestamp: e.CreatedAt.UTC()}
		var keptOut, pointer string
		t.Matches, keptOut, pointer = sub.Wants(e)
		switch keptOut {
		case deliver.KeptOutByType:
			t.Why = "another type"
		case deliver.KeptOutByFilter:
			t.Why = "filter " + pointer
		}
		list[i] = t
	}
	return list
}
