package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/erase"
	"github.com/outbox-relay/relay/internal/outbox"
)

func newTenant() *cobra.Command {
	return group(&cobra.Command{
		Use: "tenant", Short: "Erase what is kept of a tenant",
		Example: "  relay tenant erase --tenant acme --dry-run\n  relay tenant erase --tenant acme --outbox --yes",
	}, newTenantErase())
}

// erasePatience is how long a relay that leads may take for each step of cancelling what waits.
const erasePatience = 30 * time.Second

func newTenantErase() *cobra.Command {
	var t erase.Tenant
	var really sure
	var output string
	c := &cobra.Command{
		Use: "erase --tenant T [--dry-run] [--outbox] [--yes]", Short: "Erase all that is kept of a tenant, for good", Args: cobra.NoArgs,
		Long: "Erase all that the relay keeps of a tenant: its subscriptions and tokens, what waits, the records and bodies of its\n" +
			"deliveries, replays, quarantined rows, and the record of changes, in which each call leaves one row that says who\n" +
			"erased the tenant, when, and how much that was. With --outbox its rows of outbox.events too. It cannot be undone.\n\n" +
			"It may run beside relays, which cancel what waits, and beside writers. An attempt that is on the wire may arrive.\n" +
			"When it is cut off, or something came meanwhile, call it again: it goes on. Stop what writes events and makes\n" +
			"subscriptions for the tenant first. Backups, logs and what receivers have got are not reached.",
		Example: "  relay tenant erase --tenant acme --dry-run\n  relay tenant erase --tenant acme --outbox --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if t.Name == "" {
				return usageError{errors.New("--tenant is required")}
			}
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				if t.Outbox && cfg.Outbox.Table != outbox.EraseTable {
					return usageError{fmt.Errorf("--outbox: only rows of %s can be erased, not of %s, which is yours", outbox.EraseTable, cfg.Outbox.Table)}
				}
				t.DB, t.Patience = db, erasePatience
				t.Settle = cfg.Deliver.HandoverAfter + 2*cfg.Deliver.Record.Interval + time.Second
				if !really.yes {
					r, err := t.Count(ctx)
					if err != nil {
						return err
					}
					if r.Rows() > 0 && !really.dryRun {
						return usageError{fmt.Errorf("%s; they would be erased for good: add --yes", erasedLine(&r))}
					}
					return sayErased(cmd, output, &t, true, r)
				}
				r, err := t.Erase(ctx)
				if said := sayErased(cmd, output, &t, false, r); err == nil {
					err = said
				}
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&t.Name, "tenant", "", "tenant to erase")
	f.BoolVar(&t.Outbox, "outbox", false, "its rows of outbox.events too")
	really.flags(c)
	waitFlag(c, &t.Wait)
	addOutput(c, &output)
	return c
}

func sayErased(cmd *cobra.Command, output string, t *erase.Tenant, dryRun bool, r erase.Report) error {
	line := "erased: " + erasedLine(&r)
	if dryRun {
		line = "kept: " + erasedLine(&r)
	}
	return say(cmd, output, line, struct {
		Tenant string `json:"tenant"`
		DryRun bool   `json:"dry_run"`
		erase.Report
	}{t.Name, dryRun, r})
}

func erasedLine(r *erase.Report) string {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{{r.Subscriptions, "subscriptions"}, {r.Waiting, "deliveries that wait"}, {r.Deliveries, "deliveries that ended"}, {r.Bodies, "bodies"},
		{r.Replays, "replays"}, {r.Quarantined, "quarantined rows"}, {r.Tokens, "tokens"}, {r.IdempotencyKeys, "idempotency keys"},
		{r.Changes, "changes"}} {
		parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
	}
	if r.Events != nil {
		parts = append(parts, fmt.Sprintf("%d rows of the outbox", *r.Events))
	}
	return strings.Join(parts, ", ")
}
