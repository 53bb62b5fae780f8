package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/duration"
	"github.com/outbox-relay/relay/internal/outbox"
)

// replayArgs is how `relay replay` was called.
type replayArgs struct {
	subscription, from, to, output string
	events                         []string
	rate                           int
	dryRun, wait                   bool
}

func newReplay() *cobra.Command {
	var a replayArgs
	c := &cobra.Command{
		Use: "replay --subscription ID --from TIME", Short: "Send retained events again, or for the first time to a new subscription", Args: cobra.NoArgs,
		Long: "Send the events that the outbox still holds, of one subscription and a stretch of time, again or for the first\n" +
			"time. They go to its URL of now, signed with its secret of now, with the webhook-id and the body that they\n" +
			"always had, in the order of their keys, beside live events and never in their way. TIME is as in\n" +
			"2026-01-31T15:04:05Z, or how long ago as in 12h or 30d, and is compared with created_at.\n\n" +
			"The running relay carries it out, and goes on after a restart. The same request while it runs is the same\n" +
			"replay; one that is over can be asked for again.",
		Example: "  relay replay --subscription 01a21045-e54f-72f6-866b-2636175a6f62 --from 30d --dry-run\n" +
			"  relay replay --subscription 01a21045-e54f-72f6-866b-2636175a6f62 --from 24h --to 2h --event 'payment.*' --rate 20",
	}
	f := c.Flags()
	f.StringVar(&a.subscription, "subscription", "", "send to this subscription")
	f.StringVar(&a.from, "from", "", "first time, or how long ago")
	f.StringVar(&a.to, "to", "", "time before which it ends, or how long ago (default now)")
	f.StringArrayVar(&a.events, "event", nil, "only this event type, or those of a pattern such as 'payment.*'; may be repeated")
	f.IntVar(&a.rate, "rate", 0, "rows a second (default replay.rate)")
	f.BoolVar(&a.dryRun, "dry-run", false, "only count")
	f.BoolVar(&a.wait, "wait", false, "show its progress until it is over (default on a terminal)")
	addOutput(c, &a.output)
	c.AddCommand(newReplayList(), newReplayShow(), newReplayCancel())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("wait") {
			out, isFile := cmd.OutOrStdout().(*os.File)
			a.wait = isFile && isTerminal(out) && a.output == formText
		}
		return replay(cmd, &a)
	}
	return c
}

// when reads a time, or how long before now one was.
func when(flag, s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	if d, err := duration.Parse(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return now, usageError{fmt.Errorf("%s %q: expected a time such as 2026-01-31T15:04:05Z, or how long ago, such as 12h or 30d", flag, s)}
}

// check tells what is wrong with the arguments, as far as it can be known without
// the database.
func (a *replayArgs) check() (uuid.UUID, error) {
	if a.subscription == "" || a.from == "" {
		return uuid.Nil, usageError{errors.New("expected --subscription and --from")}
	}
	id, err := parseID("--subscription", a.subscription)
	if err != nil {
		return id, err
	}
	if err := checkPatterns(a.events); err != nil {
		return id, err
	}
	if a.rate < 0 || a.rate > 100_000 {
		return id, usageError{fmt.Errorf("--rate %d: expected 1 to 100000", a.rate)}
	}
	for flag, s := range map[string]string{"--from": a.from, "--to": a.to} {
		if _, err := when(flag, s, time.Now()); err != nil && s != "" {
			return id, err
		}
	}
	slices.Sort(a.events)
	a.events = slices.Compact(a.events)
	return id, nil
}

// replayed is the answer of `relay replay`.
type replayed struct {
	ID             *int64                `json:"id"` // nil: nothing was asked for
	AlreadyRunning bool                  `json:"already_running"`
	SubscriptionID string                `json:"subscription_id"`
	From           time.Time             `json:"from"`
	To             time.Time             `json:"to"`
	Rate           int                   `json:"rate"`
	Found          int64                 `json:"found"` // those that it would skip are among them
	Events         []deliver.ReplayCount `json:"events"`
	Skipped        int64                 `json:"skipped"`
	Skips          []deliver.ReplaySkip  `json:"skips"` // the first of those
}

func replay(cmd *cobra.Command, a *replayArgs) error {
	id, err := a.check()
	if err != nil {
		return err
	}
	return withIdentity(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
		sub, err := (deliver.Subscriptions{DB: db}).Get(ctx, id)
		if err != nil {
			return err
		}
		var now time.Time // by the clock that created_at is from
		if err := db.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&now); err != nil {
			return fmt.Errorf("ask for the time: %w", err)
		}
		out := replayed{SubscriptionID: id.String(), To: now, Rate: a.rate}
		if out.From, err = when("--from", a.from, now); err != nil {
			return err
		}
		if a.to != "" {
			if out.To, err = when("--to", a.to, now); err != nil {
				return err
			}
		}
		if !out.From.Before(out.To) {
			return usageError{fmt.Errorf("--from %s is not before --to %s", stamp(&out.From), stamp(&out.To))}
		}
		if out.Rate == 0 {
			out.Rate = cfg.Replay.Rate
		}
		catalog, err := outbox.NewCatalog(cfg.Catalog.Files...)
		if err != nil {
			return err
		}
		found, err := daemon.Retained{Settings: cfg, Catalog: catalog, DB: db}.Count(ctx, sub, a.events, out.From, out.To)
		if err != nil {
			return err
		}
		out.Events, out.Found, out.Skipped, out.Skips = found.Events, found.Rows, found.Skipped, found.Skips
		if !a.dryRun && out.Found > out.Skipped {
			id, already, err := (deliver.Replays{DB: db}).Ask(ctx, deliver.ReplayRequest{Subscription: id, Events: a.events,
				From: out.From, To: out.To, Rate: out.Rate, Found: out.Found,
				Spec: strings.Join(append([]string{a.from, a.to}, a.events...), " ")})
			if err != nil {
				return err
			}
			out.ID, out.AlreadyRunning = &id, already
		}
		if err := printReplayed(cmd, a, sub, &out); err != nil || out.ID == nil || !a.wait {
			return err
		}
		return followReplay(ctx, cmd, db, *out.ID)
	})
}

func printReplayed(cmd *cobra.Command, a *replayArgs, sub *deliver.Subscription, out *replayed) error {
	if out.ID != nil && !sub.Active {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "the subscription is disabled (%s): the replay waits until `relay subscriptions enable %s`, %.0f h at most\n",
			orDash(sub.DisabledReason), sub.ID, deliver.ReplayPatience.Hours())
	}
	if a.output == formJSON {
		return printJSON(cmd.OutOrStdout(), out)
	}
	rows := make([][]string, 0, len(out.Events)+1)
	for _, e := range out.Events {
		rows = append(rows, []string{printable(e.Event), strconv.FormatInt(e.Rows, 10)})
	}
	if err := table(cmd.OutOrStdout(), "EVENT ROWS", append(rows, []string{"all", strconv.FormatInt(out.Found, 10)})); err != nil {
		return err
	}
	if err := printSkips(cmd.OutOrStdout(), out.Skipped, out.Skips); err != nil {
		return err
	}
	line := "nothing is retained that it would send"
	switch {
	case out.ID != nil && out.AlreadyRunning:
		line = fmt.Sprintf("replay %d of this request is running already", *out.ID)
	case out.ID != nil:
		line = fmt.Sprintf("replay %d: %d a second; relay replay show %d", *out.ID, out.Rate, *out.ID)
	case out.Found > 0 && out.Found == out.Skipped:
		line = "not asked for: it would skip every row"
	case out.Found > 0:
		line = fmt.Sprintf("not asked for; at %d a second it takes %s", out.Rate, (time.Duration(out.Found/int64(out.Rate)) * time.Second).String())
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}

// printSkips lists rows that a replay skips, of so many in all.
func printSkips(w io.Writer, all int64, skips []deliver.ReplaySkip) error {
	if len(skips) == 0 {
		return nil
	}
	rows := make([][]string, len(skips))
	for i, s := range skips {
		rows[i] = []string{printable(s.EventID), s.Reason, printable(s.Detail)}
	}
	if err := table(w, "SKIPPED REASON DETAIL", rows); err != nil {
		return err
	}
	if more := all - int64(len(skips)); more > 0 {
		_, err := fmt.Fprintf(w, "and %d more\n", more)
		return err
	}
	return nil
}

// followReplay shows a replay's progress until it is over.
func followReplay(ctx context.Context, cmd *cobra.Command, db *pgxpool.Pool, id int64) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	said := ""
	for {
		r, err := (deliver.Replays{DB: db}).Get(ctx, id)
		if err != nil {
			return err
		}
		if line := replayProgress(r); line != said {
			said = line
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "replay %d: %s\n", id, line)
		}
		switch {
		case r.State == deliver.ReplayCancelled:
			return fmt.Errorf("replay %d was cancelled: %s", id, orDash(r.Detail))
		case r.State == deliver.ReplayDone && r.Dead > 0:
			return fmt.Errorf("%d of %d deliveries died; relay deliveries list --status DEAD --subscription %s", r.Dead, r.Queued, r.SubscriptionID)
		case r.State == deliver.ReplayDone && r.Delivered == 0:
			return fmt.Errorf("replay %d: %s; relay replay show %d", id, orDash(r.Detail), id)
		case r.State == deliver.ReplayDone:
			return nil
		}
		select {
		case <-ctx.Done():
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "replay %d goes on without you; relay replay cancel %d --yes ends it\n", id, id)
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// replayProgress says in one line how far a replay is.
func replayProgress(r *deliver.ReplayRecord) string {
	line := fmt.Sprintf("%s, %d of %d delivered", strings.ToLower(r.State), r.Delivered, r.Found)
	for _, part := range []struct {
		n    int64
		what string
	}{{r.Waiting(), "waiting"}, {r.Dead, "dead"}, {r.Cancelled, "cancelled"}, {r.Skipped, "skipped"}} {
		if part.n > 0 {
			line += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	switch {
	case r.State != deliver.ReplayRunning && r.Detail != nil:
		line += "; " + *r.Detail
	case r.Cancelling:
		line += "; is to be cancelled by the next relay that leads"
	case r.State == deliver.ReplayRunning && r.Disabled != nil && *r.Disabled != "":
		line += "; waits for its subscription to be enabled"
	}
	return line
}

func replayID(arg string) (int64, error) {
	id, err := strconv.ParseInt(arg, 10, 64)
	if err != nil || id < 1 {
		return 0, usageError{fmt.Errorf("replay %q: expected a number from `relay replay list`", arg)}
	}
	return id, nil
}

func newReplayList() *cobra.Command {
	var limit int
	var output string
	c := &cobra.Command{
		Use: "list", Short: "List replays, newest first", Args: cobra.NoArgs, Example: "  relay replay list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usageError{fmt.Errorf("--limit %d: expected at least 1", limit)}
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				list, err := (deliver.Replays{DB: db}).List(ctx, limit)
				if err != nil {
					return err
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), items(list))
				}
				rows := make([][]string, len(list))
				for i := range list {
					r := &list[i]
					rows[i] = []string{strconv.FormatInt(r.ID, 10), r.SubscriptionID.String(), stamp(&r.From), stamp(&r.To), stamp(&r.CreatedAt), replayProgress(r)}
				}
				return table(cmd.OutOrStdout(), "ID SUBSCRIPTION FROM TO ASKED PROGRESS", rows)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 50, "at most so many")
	addOutput(c, &output)
	return c
}

func newReplayShow() *cobra.Command {
	var wait bool
	var output string
	c := &cobra.Command{
		Use: "show ID", Short: "Show one replay and how far it is", Args: cobra.ExactArgs(1), Example: "  relay replay show 7\n  relay replay show 7 --wait",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := replayID(args[0])
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				if wait {
					if err := followReplay(ctx, cmd, db, id); err != nil {
						return err
					}
				}
				r, err := (deliver.Replays{DB: db}).Get(ctx, id)
				if err != nil {
					return err
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), r)
				}
				events := strings.Join(r.Events, " ")
				if events == "" {
					events = "all of the subscription"
				}
				if err := text(cmd.OutOrStdout(), [2]string{"id", args[0]}, [2]string{"subscription", r.SubscriptionID.String()},
					[2]string{"tenant", printable(r.TenantID)}, [2]string{"events", printable(events)}, [2]string{"from", stamp(&r.From)},
					[2]string{"to", stamp(&r.To)}, [2]string{"rate", strconv.Itoa(r.Rate) + "/s"}, [2]string{"progress", replayProgress(r)},
					[2]string{"detail", orDash(r.Detail)}, [2]string{"asked", stamp(&r.CreatedAt)}, [2]string{"last step", stamp(&r.UpdatedAt)},
					[2]string{"ended", stamp(r.EndedAt)}); err != nil {
					return err
				}
				return printSkips(cmd.OutOrStdout(), r.Skipped, r.Skips)
			})
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "show its progress until it is over")
	addOutput(c, &output)
	return c
}

func newReplayCancel() *cobra.Command {
	var wait time.Duration
	var really sure
	var output string
	c := &cobra.Command{
		Use: "cancel ID", Short: "End a replay and everything of it that waits", Args: cobra.ExactArgs(1),
		Long:    "End a replay and everything of it that waits. What was sent was sent; an attempt on the wire may still arrive.",
		Example: "  relay replay cancel 7 --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := replayID(args[0])
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				replays := deliver.Replays{DB: db}
				before, err := replays.Get(ctx, id)
				if err != nil {
					return err
				}
				lost := fmt.Sprintf("what waits of replay %d is not sent when it is cancelled (%s)", id, replayProgress(before))
				if ok, err := really.ask(cmd, output, lost); !ok {
					return err
				}
				if _, err := replays.Cancel(ctx, id); err != nil {
					return err
				}
				limited, cancel := context.WithTimeout(ctx, wait)
				defer cancel()
				r, err := replays.Get(ctx, id)
				for err == nil && r.State == deliver.ReplayRunning {
					select {
					case <-limited.Done():
						return say(cmd, output, "noted: "+replayProgress(r), r)
					case <-time.After(50 * time.Millisecond):
					}
					r, err = replays.Get(ctx, id)
				}
				if err != nil {
					return err
				}
				return say(cmd, output, replayProgress(r), r)
			})
		},
	}
	really.flags(c)
	waitFlag(c, &wait)
	addOutput(c, &output)
	return c
}
