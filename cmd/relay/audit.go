package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
)

func newAudit() *cobra.Command {
	var from, to, output string
	c := &cobra.Command{
		Use: "audit", Short: "Compare the rows of the outbox with what is on record of their deliveries", Args: cobra.NoArgs,
		Long: "Look at every row that is still in the outbox, by its created_at, and at each subscription that it matches:\n" +
			"each delivery must be on record, as ended or waiting. Rows that no marker of the running relay proves yet are\n" +
			"counted and left alone. It needs deliver.log all; else what left no record is proved by the markers alone.\n" +
			"The exit code is 4 when something is missing.",
		Example: "  relay audit --from 24h\n  relay audit --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			begin, err := when("--from", from, now)
			if err != nil {
				return err
			}
			end, err := when("--to", to, now)
			if err != nil {
				return err
			}
			if !begin.Before(end) {
				return usageError{fmt.Errorf("--from %s is not before --to %s", from, to)}
			}
			return withIdentity(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				o, err := daemon.AuditOptions(cfg)
				if err != nil {
					return configError{err}
				}
				o.From, o.To = begin, end
				rep, err := audit.MakeReport(ctx, db, o)
				if err != nil {
					return err
				}
				return printAudit(cmd, rep, output)
			})
		},
	}
	c.Flags().StringVar(&from, "from", "168h", "start of the window: a time such as 2026-11-20T00:00:00Z, or how long ago, such as 12h or 30d")
	c.Flags().StringVar(&to, "to", "0s", "end of the window, as --from")
	addOutput(c, &output)
	return c
}

func printAudit(cmd *cobra.Command, r *audit.Report, output string) error {
	var err error
	if output == formJSON {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		pairs := [][2]string{{"window", stamp(&r.From) + " to " + stamp(&r.To)}, {"committed", strconv.Itoa(r.Committed)},
			{"in progress", strconv.Itoa(r.InProgress)}, {"nobody wants", strconv.Itoa(r.Unmatched)},
			{"say nothing", strconv.Itoa(r.Suppressed)}, {"no events", strconv.Itoa(r.NoEvents)},
			{"deliveries", strconv.Itoa(r.Deliveries)}, {"on record", strconv.Itoa(r.Recorded)},
			{"proved without record", strconv.Itoa(r.Proved)}, {"missing", strconv.Itoa(r.Missing)}}
		for _, m := range r.Named {
			pairs = append(pairs, [2]string{"  " + m.EventID.String(), fmt.Sprintf("%s of %s, for subscription %s", printable(m.Event), stamp(&m.CreatedAt), m.SubscriptionID)})
		}
		err = text(cmd.OutOrStdout(), pairs...)
	}
	if err == nil && r.Missing > 0 {
		return unhealthyError{fmt.Errorf("%d deliveries are missing: `relay replay` sends rows again that are still in the table", r.Missing)}
	}
	return err
}
