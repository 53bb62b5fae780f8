package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
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
		Use: "deliveries", Aliases: []string{"delivery"}, Short: "Look at deliveries, try them again, discard dead ones",
		Example: "  relay deliveries list --status DEAD\n  relay deliveries retry 01a21045-eb52-7b6f-9a8d-0c6a35a1d2f0",
	}, newDeliveriesList(), newDeliveriesShow(), newDeliveriesRetry(), newDeliveriesDiscard(), newDeliveriesTail())
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
	case d.Halts:
		return stamp(d.EndedAt) + ", its key waits"
	case d.Status != deliver.StatusPending:
		return stamp(d.EndedAt)
	case d.Held:
		return "waits until its subscription is enabled"
	case d.Waits:
		return "waits for an earlier one of its key"
	case d.NextAttemptAt == nil:
		return "on its way"
	}
	return "next attempt " + stamp(d.NextAttemptAt)
}

func deliveryRow(d *deliver.Record) []string {
	return []string{d.ID.String(), string(d.Status), printable(d.TenantID), printable(d.Event), printable(d.AggregateID),
		d.SubscriptionID.String(), host(d.URL), strconv.Itoa(d.Attempts), stamp(&d.CreatedAt), outlook(d), orDash(d.LastError)}
}

// host is whom a delivery goes to, in short.
func host(address *string) string {
	if address == nil {
		return "removed"
	}
	u, err := url.Parse(*address)
	if err != nil || u.Host == "" {
		return printable(*address)
	}
	return printable(u.Host)
}

func orRemoved(address *string) string {
	if address == nil {
		return "-, its subscription was removed"
	}
	return printable(*address)
}

const deliveryHead = "ID STATUS TENANT EVENT AGGREGATE SUBSCRIPTION HOST ATTEMPTS COMMITTED ENDED LAST_ERROR"

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
		Use: "show ID", Short: "Show one delivery and its attempts", Args: cobra.ExactArgs(1),
		Long: "Show one delivery and its attempts: when each began, how long it took and what it spent that on, its result,\n" +
			"the address that was dialed, and the first bytes of an answer that was a failure. An attempt that has no number\n" +
			"cost none, because the endpoint asked for fewer of them (429), or because it tried before its time whether a failing\n" +
			"endpoint works again; of such tries in a row the last is shown, and how many they were.",
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
		[2]string{"subscription", row[5]}, [2]string{"url", orRemoved(d.URL)}, [2]string{"attempts", row[7]},
		[2]string{"committed", row[8]}, [2]string{last, row[9]}, [2]string{"last error", row[10]}); err != nil {
		return err
	}
	if d.Sequence != nil {
		if err := text(w, [2]string{"sequence", strconv.FormatInt(*d.Sequence, 10)}); err != nil {
			return err
		}
	}
	if d.Replay != nil {
		if err := text(w, [2]string{"replay", strconv.FormatInt(*d.Replay, 10)}); err != nil {
			return err
		}
	}
	attempts, err := attemptsOf(d)
	if err != nil || len(attempts) == 0 {
		return err
	}
	rows := make([][]string, len(attempts))
	for i, a := range attempts {
		n, result := "-", "taken"
		if a.N > 0 {
			n = strconv.Itoa(a.N)
		}
		if a.Reason != "" {
			result = string(a.Reason)
		}
		if a.Resent {
			result += ", sent twice"
		}
		if a.Cause != "" && a.Detail != "" {
			a.Detail += " (" + a.Cause + ")"
		}
		if a.Probes > 0 {
			n = fmt.Sprintf("- (%d)", a.Probes)
		}
		rows[i] = []string{n, stamp(&a.At), strconv.FormatInt(a.Millis, 10) + "ms", phases(a.Phases), printable(result), orDash(&a.Detail),
			orDash(&a.Address), orDash(&a.Answer)}
	}
	_, _ = fmt.Fprintln(w)
	return table(w, "ATTEMPT BEGAN TOOK OF_WHICH RESULT DETAIL ADDRESS ANSWER", rows)
}

// attemptsOf is the history of a delivery. One that was taken at once has none, and its record says the same.
func attemptsOf(d *deliver.Record) ([]deliver.Attempt, error) {
	var attempts []deliver.Attempt
	if len(d.History) > 0 {
		if err := json.Unmarshal(d.History, &attempts); err != nil {
			return nil, fmt.Errorf("read attempts: %w", err)
		}
		return attempts, nil
	}
	if d.Status != deliver.StatusDelivered || d.EndedAt == nil || d.DurationMicros == nil {
		return nil, nil
	}
	took := time.Duration(*d.DurationMicros) * time.Microsecond
	a := deliver.Attempt{N: 1, At: d.EndedAt.Add(-took), Millis: took.Milliseconds()}
	if d.LastStatusCode != nil {
		a.Status = *d.LastStatusCode
		a.Detail = "HTTP " + strconv.Itoa(a.Status)
	}
	return append(attempts, a), nil
}

// phases says what an attempt spent its time on.
func phases(p deliver.Phases) string {
	var parts []string
	for _, part := range []struct {
		name  string
		micro int64
	}{{"dns", p.DNS}, {"connect", p.Connect}, {"tls", p.TLS}, {"first byte", p.FirstByte}} {
		if part.micro > 0 {
			parts = append(parts, fmt.Sprintf("%s %.1fms", part.name, float64(part.micro)/1000))
		}
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}
