package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
)

func newDeliveries() *cobra.Command {
	return group(&cobra.Command{
		Use: "deliveries", Aliases: []string{"delivery"}, Short: "Look at deliveries, and try them again",
		Example: "  relay deliveries list --status DEAD\n  relay deliveries retry 01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0",
	}, newDeliveriesList(), newDeliveriesShow(), newDeliveriesRetry(), newDeliveriesTail())
}

// filterFlags adds the flags that narrow a list.
func filterFlags(c *cobra.Command) func() (deliver.Filter, error) {
	var status, tenant, event, subscription string
	f := c.Flags()
	f.StringVar(&status, "status", "", "PENDING, DELIVERED, DEAD or CANCELLED")
	f.StringVar(&tenant, "tenant", "", "only this tenant's")
	f.StringVar(&event, "event", "", "only this event type")
	f.StringVar(&subscription, "subscription", "", "only to this subscription")
	return func() (deliver.Filter, error) {
		out := deliver.Filter{Status: deliver.Status(strings.ToUpper(status)), TenantID: tenant, Event: event}
		known := []deliver.Status{"", deliver.StatusPending, deliver.StatusDelivered, deliver.StatusDead, deliver.StatusCancelled}
		if !slices.Contains(known, out.Status) {
			return out, usageError{fmt.Errorf("--status %s: expected PENDING, DELIVERED, DEAD or CANCELLED", status)}
		}
		if subscription != "" {
			id, err := parseID("--subscription", subscription)
			if err != nil {
				return out, err
			}
			out.Subscription = id
		}
		return out, nil
	}
}

// outlook says when a delivery ended, or what one that waits is waiting for.
func outlook(d *deliver.Record) string {
	switch {
	case d.Status != deliver.StatusPending:
		return stamp(d.EndedAt)
	case d.Waits:
		return "waits for an earlier one of its key"
	case d.NextAttemptAt == nil:
		return "on its way"
	}
	return "next attempt " + stamp(d.NextAttemptAt)
}

func deliveryRow(d *deliver.Record) []string {
	return []string{d.ID.String(), string(d.Status), printable(d.TenantID), printable(d.Event), printable(d.AggregateID),
		strconv.Itoa(d.Attempts), stamp(&d.CreatedAt), outlook(d), orDash(d.LastError)}
}

const deliveryHead = "ID STATUS TENANT EVENT AGGREGATE ATTEMPTS COMMITTED ENDED LAST_ERROR"

func printDeliveries(cmd *cobra.Command, list []deliver.Record) error {
	rows := make([][]string, len(list))
	for i := range list {
		rows[i] = deliveryRow(&list[i])
	}
	return table(cmd.OutOrStdout(), deliveryHead, rows)
}

func newDeliveriesList() *cobra.Command {
	var limit int
	var cursor, output string
	c := &cobra.Command{
		Use: "list", Short: "List deliveries, newest first", Args: cobra.NoArgs,
		Long: "List deliveries, newest first. What is on its way for the first time appears when it has ended, or after\n" +
			"deliver.handover_after.",
		Example: "  relay deliveries list --status PENDING --tenant acme --limit 20",
	}
	filter := filterFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := filter()
		if err != nil {
			return err
		}
		if limit < 1 || limit > 10000 {
			return usageError{fmt.Errorf("--limit %d: expected 1 to 10000", limit)}
		}
		f.Limit = limit
		if cursor != "" {
			if f.Before, err = parseID("--cursor", cursor); err != nil {
				return err
			}
		}
		return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
			list, err := (deliver.Records{DB: db}).List(ctx, f)
			if err != nil {
				return err
			}
			var next *uuid.UUID
			if len(list) == limit {
				next = &list[limit-1].ID
			}
			if output == formJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"items": append([]deliver.Record{}, list...), "next_cursor": next})
			}
			if err := printDeliveries(cmd, list); err != nil {
				return err
			}
			if next != nil {
				_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "there may be more: --cursor %s\n", next)
			}
			return nil
		})
	}
	c.Flags().IntVar(&limit, "limit", 50, "at most so many")
	c.Flags().StringVar(&cursor, "cursor", "", "go on after this id")
	addOutput(c, &output)
	return c
}

func newDeliveriesShow() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "show ID", Short: "Show one delivery and its failed attempts", Args: cobra.ExactArgs(1),
		Example: "  relay deliveries show 01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID("delivery", args[0])
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				d, err := (deliver.Records{DB: db}).Get(ctx, id)
				if err != nil {
					return err
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), d)
				}
				return showDelivery(cmd, d)
			})
		},
	}
	addOutput(c, &output)
	return c
}

func showDelivery(cmd *cobra.Command, d *deliver.Record) error {
	row := deliveryRow(d)
	last := "ended"
	if d.Status == deliver.StatusPending {
		last = "outlook"
	}
	w := cmd.OutOrStdout()
	if err := text(w, [2]string{"id", row[0]}, [2]string{"status", row[1]}, [2]string{"tenant", row[2]}, [2]string{"event", row[3]},
		[2]string{"event id", d.EventID.String()}, [2]string{"aggregate", printable(d.AggregateType) + " " + row[4]},
		[2]string{"subscription", d.SubscriptionID.String()}, [2]string{"attempts", row[5]}, [2]string{"committed", row[6]},
		[2]string{last, row[7]}, [2]string{"last error", row[8]}); err != nil {
		return err
	}
	if len(d.History) == 0 {
		return nil
	}
	var attempts []struct {
		N      int       `json:"n"`
		At     time.Time `json:"at"`
		Millis int64     `json:"duration_ms"`
		Status int       `json:"status"`
		Reason string    `json:"reason"`
		Detail string    `json:"detail"`
	}
	if err := json.Unmarshal(d.History, &attempts); err != nil {
		return fmt.Errorf("read failed attempts: %w", err)
	}
	rows := make([][]string, len(attempts))
	for i, a := range attempts {
		rows[i] = []string{strconv.Itoa(a.N), stamp(&a.At), strconv.FormatInt(a.Millis, 10) + "ms", printable(a.Reason), orDash(&a.Detail)}
	}
	_, _ = fmt.Fprintln(w)
	return table(w, "FAILED AT TOOK REASON DETAIL", rows)
}

// waitFlag adds --wait to a command that leaves a request for the daemon.
func waitFlag(c *cobra.Command, to *time.Duration) {
	c.Flags().DurationVar(to, "wait", 5*time.Second, "how long to wait for the running relay to do it")
}

// retried is what became of one request.
type retried struct {
	ID         string `json:"id"`
	CarriedOut bool   `json:"carried_out"`
	Result     string `json:"result"`
	refused    bool   // carried out, and nothing could be done
}

// ask leaves requests, waits for the leader to carry them out, and returns the
// targets of those that still wait.
func ask(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, kind string, targets []string, wait time.Duration) (map[string]bool, error) {
	if len(targets) == 0 {
		return nil, nil
	}
	asked, err := deliver.Ask(ctx, db, kind, targets)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	left, err := deliver.Await(limited, db, slices.Collect(maps.Values(asked)))
	if err != nil {
		return nil, err
	}
	waiting := make(map[string]bool, len(left))
	for target, id := range asked {
		if slices.Contains(left, id) {
			waiting[target] = true
		}
	}
	if len(waiting) > 0 {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d noted; no relay has carried that out yet, the next one that leads will\n", len(waiting))
	}
	return waiting, ctx.Err()
}

func printRetried(cmd *cobra.Command, output string, results []retried) error {
	refused := 0
	rows := make([][]string, len(results))
	for i, r := range results {
		rows[i] = []string{r.ID, r.Result}
		if r.refused {
			refused++
		}
	}
	var err error
	if output == formJSON {
		err = printJSON(cmd.OutOrStdout(), items(results))
	} else {
		err = table(cmd.OutOrStdout(), "ID RESULT", rows)
	}
	if err == nil && refused > 0 {
		err = fmt.Errorf("%d of %d could not be tried again", refused, len(results))
	}
	return err
}

func newDeliveriesRetry() *cobra.Command {
	var wait time.Duration
	var output string
	c := &cobra.Command{
		Use: "retry ID...", Short: "Try deliveries again now", Args: cobra.MinimumNArgs(1),
		Long: "Try deliveries again now: one that waits is due at once, a dead one begins its schedule anew. It keeps its\n" +
			"place in the order of its key.",
		Example: "  relay deliveries retry 01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0",
		RunE: func(cmd *cobra.Command, args []string) error {
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
		},
	}
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
		before, targets = append(before, d), append(targets, id.String())
	}
	waiting, err := ask(ctx, cmd, db, deliver.RequestRetryDelivery, targets, wait)
	if err != nil {
		return err
	}
	results := make([]retried, len(ids))
	for i, id := range ids {
		results[i] = retried{ID: targets[i], CarriedOut: !waiting[targets[i]], Result: "asked for"}
		if !results[i].CarriedOut {
			continue
		}
		d, err := records.Get(ctx, id)
		switch {
		case errors.Is(err, deliver.ErrNotFound):
			results[i].Result = "ended, and deliver.log keeps no record of it"
		case err != nil:
			return err
		case d.Status == deliver.StatusPending:
			results[i].Result = string(d.Status) + ", " + outlook(d)
		case before[i].EndedAt != nil && d.EndedAt.Equal(*before[i].EndedAt):
			results[i].Result, results[i].refused = string(d.Status)+", not tried again: its subscription or its body is gone", true
		default:
			results[i].Result = string(d.Status)
		}
	}
	return printRetried(cmd, output, results)
}
