package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	c := &cobra.Command{
		Use: "deliveries", Aliases: []string{"delivery"}, Short: "Look at deliveries, and try them again",
		Example: "  relay deliveries list --status DEAD\n  relay deliveries retry 01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0",
	}
	c.AddCommand(newDeliveriesList(), newDeliveriesShow(), newDeliveriesRetry(), newDeliveriesTail())
	return c
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

func deliveryRow(d *deliver.Record) []string {
	when := stamp(d.EndedAt)
	if d.Status == deliver.StatusPending {
		when = "next " + stamp(d.NextAttemptAt)
		if d.Waits {
			when = "waits for an earlier one"
		}
	}
	return []string{d.ID.String(), string(d.Status), printable(d.TenantID), printable(d.Event), printable(d.AggregateID),
		strconv.Itoa(d.Attempts), stamp(&d.CreatedAt), when, orDash(d.LastError)}
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
	w := cmd.OutOrStdout()
	if err := text(w, [2]string{"id", row[0]}, [2]string{"status", row[1]}, [2]string{"tenant", row[2]}, [2]string{"event", row[3]},
		[2]string{"event id", d.EventID.String()}, [2]string{"aggregate", printable(d.AggregateType) + " " + row[4]},
		[2]string{"subscription", d.SubscriptionID.String()}, [2]string{"attempts", row[5]}, [2]string{"committed", row[6]},
		[2]string{"ended", row[7]}, [2]string{"last error", row[8]}); err != nil {
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
		rows[i] = []string{strconv.Itoa(a.N), stamp(&a.At), strconv.FormatInt(a.Millis, 10) + "ms", a.Reason, printable(a.Detail)}
	}
	_, _ = fmt.Fprintln(w)
	return table(w, "FAILED AT TOOK REASON DETAIL", rows)
}

// waitFlag adds --wait to a command that leaves a request for the daemon.
func waitFlag(c *cobra.Command, to *time.Duration) {
	c.Flags().DurationVar(to, "wait", 5*time.Second, "how long to wait for the running relay to do it")
}

// ask leaves requests and waits for the leader to carry them out.
func ask(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, kind string, targets []string, wait time.Duration) error {
	var ids []int64
	for _, t := range targets {
		id, err := deliver.Ask(ctx, db, kind, t)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for _, id := range ids {
		done, err := deliver.Await(ctx, db, id)
		if err != nil {
			return err
		}
		if !done {
			_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "the request is noted; no relay has carried it out yet, the next one that leads will")
			return nil
		}
	}
	return nil
}

func newDeliveriesRetry() *cobra.Command {
	var wait time.Duration
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
				records := deliver.Records{DB: db}
				var targets []string
				for _, id := range ids {
					d, err := records.Get(ctx, id)
					if err != nil {
						return err
					}
					if d.Status == deliver.StatusDelivered || d.Status == deliver.StatusCancelled {
						return fmt.Errorf("delivery %s is %s: only PENDING and DEAD ones can be tried again", id, d.Status)
					}
					targets = append(targets, id.String())
				}
				if err := ask(ctx, cmd, db, deliver.RequestRetryDelivery, targets, wait); err != nil {
					return err
				}
				for _, id := range ids {
					d, err := records.Get(ctx, id)
					if err != nil && !errors.Is(err, deliver.ErrNotFound) {
						return err
					}
					status := "not recorded"
					if err == nil {
						status = string(d.Status)
					}
					_, _ = fmt.Fprintln(cmd.OutOrStdout(), id, status)
				}
				return nil
			})
		},
	}
	waitFlag(c, &wait)
	return c
}

func newDeliveriesTail() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "tail", Short: "Print deliveries as they are recorded, until Ctrl-C", Args: cobra.NoArgs,
		Example: "  relay deliveries tail --tenant acme",
	}
	filter := filterFlags(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := filter()
		if err != nil {
			return err
		}
		f.Limit = 1000
		return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
			return tail(ctx, cmd, deliver.Records{DB: db}, f, output)
		})
	}
	addOutput(c, &output)
	return c
}

func tail(ctx context.Context, cmd *cobra.Command, records deliver.Records, f deliver.Filter, output string) error {
	seen := make(map[uuid.UUID]string)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		list, err := records.List(ctx, f)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		now := make(map[uuid.UUID]string, len(list))
		for i := range slices.Backward(list) {
			d := &list[i]
			state := fmt.Sprint(d.Status, d.Attempts)
			now[d.ID] = state
			if first || seen[d.ID] == state {
				continue
			}
			if output == formJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(d); err != nil {
					return err
				}
				continue
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(deliveryRow(d), "  ")); err != nil {
				return err
			}
		}
		seen = now
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
