package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
)

func newQuarantine() *cobra.Command {
	return group(&cobra.Command{
		Use: "quarantine", Short: "Rows that could not become events: look, try again, discard",
		Example: "  relay quarantine list\n  relay quarantine retry --all",
	}, newQuarantineList(), newQuarantineShow(), newQuarantineRetry(), newQuarantineDiscard())
}

func quarantineNumbers(args []string) ([]int64, error) {
	var ids []int64
	for _, a := range args {
		id, err := strconv.ParseInt(a, 10, 64)
		if err != nil || id < 1 {
			return nil, usageError{fmt.Errorf("quarantined row %q: expected a number from `relay quarantine list`", a)}
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// listed is a list as text; nil for none.
func listed(list []string) *string {
	if len(list) == 0 {
		return nil
	}
	text := strings.Join(list, ", ")
	return &text
}

func newQuarantineList() *cobra.Command {
	var limit int
	var output string
	c := &cobra.Command{
		Use: "list", Short: "List quarantined rows, oldest first", Args: cobra.NoArgs, Example: "  relay quarantine list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usageError{fmt.Errorf("--limit %d: expected at least 1", limit)}
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				list, err := (outbox.Quarantine{DB: db}).List(ctx, limit)
				if err != nil {
					return err
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), items(list))
				}
				rows := make([][]string, len(list))
				for i, q := range list {
					rows[i] = []string{strconv.FormatInt(q.ID, 10), q.Reason, orDash(q.TenantID), orDash(q.EventType), stamp(&q.CommittedAt), printable(q.Detail)}
				}
				return table(cmd.OutOrStdout(), "ID REASON TENANT EVENT COMMITTED DETAIL", rows)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 100, "at most so many")
	addOutput(c, &output)
	return c
}

func newQuarantineShow() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "show ID", Short: "Show one quarantined row with its bytes", Args: cobra.ExactArgs(1), Example: "  relay quarantine show 7",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := quarantineNumbers(args)
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				quarantine := outbox.Quarantine{DB: db}
				q, err := quarantine.Get(ctx, ids[0])
				if err != nil {
					return err
				}
				if q.Raw, err = quarantine.NameTypes(ctx, q.Raw); err != nil {
					return err
				}
				if output == formJSON {
					row := any(json.RawMessage(q.Raw))
					if !json.Valid(q.Raw) { // kept by other hands
						row = q.Raw
					}
					return printJSON(cmd.OutOrStdout(), struct {
						*outbox.Quarantined
						Row any `json:"row"`
					}{q, row})
				}
				row := printable(string(q.Raw))
				if q.Raw == nil {
					row = "not kept here: it is in the outbox, under its id"
				}
				return text(cmd.OutOrStdout(), [2]string{"id", strconv.FormatInt(q.ID, 10)}, [2]string{"reason", q.Reason},
					[2]string{"detail", printable(q.Detail)}, [2]string{"event id", orDash(q.EventID)}, [2]string{"tenant", orDash(q.TenantID)},
					[2]string{"event", orDash(q.EventType)}, [2]string{"committed", stamp(&q.CommittedAt)},
					[2]string{"place", fmt.Sprintf("row %d of the transaction at %s", q.RowIndex, q.CommitLSN)}, [2]string{"only for", orDash(listed(q.OnlyFor))}, [2]string{"row", row})
			})
		},
	}
	addOutput(c, &output)
	return c
}

func newQuarantineRetry() *cobra.Command {
	var all bool
	var wait time.Duration
	var output string
	c := &cobra.Command{
		Use: "retry (ID... | --all)", Short: "Map quarantined rows again, after the catalog was mended",
		Long: "Map quarantined rows again, by the catalog that the running relay has (SIGHUP makes it read its files\n" +
			"again). A row that is an event now is delivered; any other stays, with its new reason.",
		Example: "  relay quarantine retry 7 8\n  relay quarantine retry --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := quarantineNumbers(args)
			if err != nil {
				return err
			}
			if all == (len(ids) > 0) {
				return usageError{errors.New("expected the numbers of rows, or --all")}
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				return retryQuarantined(ctx, cmd, db, ids, all, wait, output)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all quarantined rows")
	waitFlag(c, &wait)
	addOutput(c, &output)
	return c
}

// maxRetryAll bounds what --all asks for at once.
const maxRetryAll = 100_000

func retryQuarantined(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, ids []int64, all bool, wait time.Duration, output string) error {
	q := outbox.Quarantine{DB: db}
	if all {
		list, err := q.List(ctx, maxRetryAll)
		if err != nil {
			return err
		}
		for _, e := range list {
			ids = append(ids, e.ID)
		}
	}
	var targets []string
	for _, id := range ids {
		if !all {
			if _, err := q.Get(ctx, id); err != nil {
				return err
			}
		}
		targets = append(targets, strconv.FormatInt(id, 10))
	}
	a := asked{kind: deliver.RequestRetryQuarantine, targets: targets, wait: wait, could: "tried again"}
	return a.askFor(ctx, cmd, db, output, func(i int) (string, bool, error) {
		e, err := q.Get(ctx, ids[i])
		switch {
		case errors.Is(err, outbox.ErrNotQuarantined):
			return "released", false, nil
		case err != nil:
			return "", false, err
		}
		return "stays: " + e.Reason + ": " + printable(e.Detail), false, nil
	})
}

func newQuarantineDiscard() *cobra.Command {
	var really sure
	var output string
	c := &cobra.Command{
		Use: "discard ID...", Short: "Delete quarantined rows for good", Args: cobra.MinimumNArgs(1),
		Long:    "Delete quarantined rows for good: they will never be delivered.",
		Example: "  relay quarantine discard 7 --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := quarantineNumbers(args)
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				lost := make([]string, len(ids))
				for i, id := range ids {
					q, err := (outbox.Quarantine{DB: db}).Get(ctx, id)
					if err != nil {
						return err
					}
					lost[i] = fmt.Sprintf("%d (%s of %s, %s)", id, orDash(q.EventType), orDash(q.TenantID), q.Reason)
				}
				if ok, err := really.ask(cmd, output, "these rows are gone for good when discarded: "+strings.Join(lost, ", ")); !ok {
					return err
				}
				for _, id := range ids {
					if err := (outbox.Quarantine{DB: db}).Discard(ctx, id); err != nil {
						return err
					}
					if output == formText {
						_, _ = fmt.Fprintln(cmd.OutOrStdout(), "discarded", id)
					}
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), map[string]any{"discarded": ids})
				}
				return nil
			})
		},
	}
	really.flags(c)
	addOutput(c, &output)
	return c
}
