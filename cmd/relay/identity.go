package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/progress"
)

func newIdentity() *cobra.Command {
	return group(&cobra.Command{
		Use: "identity", Short: "The database, slot, publication and table that belong together: look, move on purpose",
		Long: "Database, slot, publication and outbox table are recorded together at the first start. A relay that is\n" +
			"started for any other combination is refused, because rows that are committed meanwhile would be missed.",
		Example: "  relay identity show\n  relay identity move --dry-run",
	}, newIdentityShow(), newIdentityMove())
}

func newIdentityShow() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "show", Short: "Compare what is on record with what is configured", Args: cobra.NoArgs,
		Long:    "Compare what is on record with what is configured. The exit code is 4 when the two differ.",
		Example: "  relay identity show\n  relay identity show -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				r, err := daemon.ReadIdentity(ctx, db, cfg)
				if err != nil {
					return err
				}
				if output == formJSON {
					err = printJSON(cmd.OutOrStdout(), r)
				} else {
					rows := [][]string{identityRow("configured", &r.Configured)}
					if r.Recorded != nil {
						rows = append(rows, identityRow("recorded", r.Recorded))
					}
					err = table(cmd.OutOrStdout(), "IDENTITY DATABASE SLOT PUBLICATION TABLE", rows)
				}
				if err == nil && !r.Matches {
					err = unhealthyError{errors.New(r.Detail)}
				}
				return err
			})
		},
	}
	addOutput(c, &output)
	return c
}

func identityRow(name string, i *daemon.Identity) []string {
	row := []string{name, i.Database, i.Slot, i.Publication, i.Table}
	for at := range row {
		if row[at] == "" { // recorded by an older relay
			row[at] = "-"
		}
	}
	return row
}

func newIdentityMove() *cobra.Command {
	var dryRun, yes, leave bool
	var output string
	c := &cobra.Command{
		Use: "move", Short: "Record that the relay reads what is configured now", Args: cobra.NoArgs,
		Long: "Record that the relay reads the table, by the slot and the publication, that are configured now. Every relay\n" +
			"of this database must be stopped. The next start makes the slot anew and reads, as a rescue does, the rows of\n" +
			"the table that are not on record; rows of the table before are not read any more. When some of those are not\n" +
			"delivered yet, the move is refused: start the relay once more with its old settings, or add --leave-rows. A\n" +
			"slot that is given up is dropped. Drop a publication that is given up yourself.",
		Example: "  relay identity move --dry-run\n  relay identity move --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dryRun == yes {
				return usageError{errors.New("expected --dry-run, which tells what a move does, or --yes")}
			}
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				if dryRun {
					m, err := daemon.PlanMove(ctx, db, cfg)
					if err != nil {
						return err
					}
					return printMove(cmd, m, output)
				}
				m, err := daemon.MoveIdentity(ctx, db, cfg, leave)
				if errors.Is(err, daemon.ErrRowsLeft) {
					return unhealthyError{fmt.Errorf("%s rows of %s are not known to be recorded, and nobody reads them after the move: start the relay "+
						"once more with its old settings, or add --leave-rows", rowCount(m.Left), m.From.Table)}
				}
				if err != nil {
					return err
				}
				return printMove(cmd, m, output)
			})
		},
	}
	f := c.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "tell what a move does; change nothing")
	f.BoolVar(&yes, "yes", false, "really")
	f.BoolVar(&leave, "leave-rows", false, "leave rows of the table before that are not delivered")
	addOutput(c, &output)
	return c
}

func rowCount(n *int) string {
	if n == nil {
		return "an unknown number of"
	}
	return strconv.Itoa(*n)
}

func printMove(cmd *cobra.Command, m *daemon.Move, output string) error {
	if output == formJSON {
		return printJSON(cmd.OutOrStdout(), m)
	}
	name := func(i daemon.Identity) string {
		if i.IsZero() {
			return "slot " + i.Slot
		}
		return fmt.Sprintf("table %s, publication %s, slot %s, database %s", i.Table, i.Publication, i.Slot, i.Database)
	}
	pairs := [][2]string{{"from", name(m.From)}, {"to", name(m.To)}, {"rows left", rowCount(m.Left)}, {"rows to read", strconv.Itoa(m.Read)}}
	if m.DroppedSlot != "" {
		pairs = append(pairs, [2]string{"dropped slot", m.DroppedSlot})
	}
	if m.Moved {
		pairs = append(pairs, [2]string{"moved", "the next `relay run` reads the rows"})
	}
	return text(cmd.OutOrStdout(), pairs...)
}

// withIdentity is withDatabase for commands that read the outbox: of a table that the relay of this database does not
// read, what they tell would mean nothing.
func withIdentity(cmd *cobra.Command, f func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error) error {
	return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
		err := daemon.CheckIdentity(ctx, db, cfg)
		if errors.Is(err, progress.ErrOtherIdentity) {
			return configError{err}
		}
		if err != nil {
			return err
		}
		return f(ctx, cfg, db)
	})
}
