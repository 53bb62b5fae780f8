package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/progress"
)

func newRescue() *cobra.Command {
	var dryRun bool
	var wait time.Duration
	var output string
	c := &cobra.Command{
		Use: "rescue", Short: "Recover from a missing, lost or foreign slot", Args: cobra.NoArgs,
		Long: "Ask the running relay to make the slot (and the publication, when it is missing) anew, and to deliver the rows\n" +
			"that the stream did not show from the table. With cdc.recovery automatic it does that by itself, and this\n" +
			"command has nothing to do; with manual it waits for it. It is also how a relay is told that a server with\n" +
			"another identity (restored elsewhere, upgraded) is its server now.",
		Example: "  relay rescue --dry-run\n  relay rescue --wait 10m",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withIdentity(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				if dryRun {
					return printGap(ctx, cmd, cfg, db, output)
				}
				return askRescue(ctx, cmd, cfg, db, wait, output)
			})
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "tell what is found and how many rows would be read; change nothing")
	durationFlag(c.Flags(), &wait, "wait", time.Minute, "so long for the relay to end it")
	addOutput(c, &output)
	return c
}

func printGap(ctx context.Context, cmd *cobra.Command, cfg *config.Config, db *pgxpool.Pool, output string) error {
	gap, err := daemon.ReadGap(ctx, db, cfg)
	if err != nil {
		return err
	}
	if output == formJSON {
		return printJSON(cmd.OutOrStdout(), gap)
	}
	fault := gap.Fault
	if fault == "" {
		fault = "none that the database shows"
	}
	pairs := [][2]string{{"fault", printable(fault)}, {"proved up to", stamp(gap.MarkerAt)},
		{"rows since", strconv.Itoa(gap.Rows)}, {"on record", strconv.Itoa(gap.Recorded)},
		{"would be read", strconv.Itoa(gap.Rows - gap.Recorded)}}
	for _, e := range gap.Events {
		pairs = append(pairs, [2]string{"  " + printable(e.Event), strconv.Itoa(e.Rows)})
	}
	return text(cmd.OutOrStdout(), pairs...)
}

// rescued is what became of a request to rescue.
type rescued struct {
	CarriedOut bool               `json:"carried_out"`
	Incident   *progress.Incident `json:"incident"` // null: there was nothing to rescue
}

func askRescue(ctx context.Context, cmd *cobra.Command, cfg *config.Config, db *pgxpool.Pool, wait time.Duration, output string) error {
	before, err := progress.Incidents(ctx, db, cfg.CDC.Slot, 1)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	waiting, err := ask(limited, cmd, db, deliver.RequestRescue, []string{cfg.CDC.Slot}, wait)
	if err != nil && limited.Err() == nil {
		return err
	}
	res := rescued{CarriedOut: len(waiting) == 0 && err == nil}
	for res.CarriedOut {
		now, err := progress.Incidents(ctx, db, cfg.CDC.Slot, 1)
		if err != nil {
			return err
		}
		if len(now) == 0 || len(before) > 0 && now[0].ID == before[0].ID {
			break
		}
		res.Incident = &now[0]
		if now[0].EndedAt != nil {
			break
		}
		select {
		case <-limited.Done():
			return printRescued(cmd, res, output)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return printRescued(cmd, res, output)
}

func printRescued(cmd *cobra.Command, r rescued, output string) error {
	if output == formJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	switch {
	case !r.CarriedOut:
		return unhealthyError{fmt.Errorf("no relay has begun the rescue yet: the next one that runs will; see `relay status`")}
	case r.Incident == nil:
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "nothing to rescue: the relay streams")
		return err
	}
	return text(cmd.OutOrStdout(), incidentPairs(*r.Incident)...)
}

func incidentPairs(i progress.Incident) [][2]string {
	end := "still going on"
	if i.EndedAt != nil {
		end = fmt.Sprintf("%s: %d rows read, %d delivered or parked", stamp(i.EndedAt), i.RowsRead, i.RowsSent)
	}
	return [][2]string{{i.Kind, printable(i.Detail)}, {"began", stamp(&i.BeganAt)}, {"ended", end}}
}
