package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/filter"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
)

func newSubscriptions() *cobra.Command {
	return group(&cobra.Command{
		Use: "subscriptions", Aliases: []string{"subscription", "subs"}, Short: "Manage who gets which events where",
		Long:    "Manage who gets which events where. A relay that runs takes a change in at once.",
		Example: "  relay subscriptions add --tenant acme --url https://hooks.example.com/x --event 'payment.*'\n  relay subscriptions list",
	}, newSubscriptionsAdd(), newSubscriptionsList(), newSubscriptionsShow(), newSubscriptionsRemove(),
		newSubscriptionsSwitch(true), newSubscriptionsSwitch(false), newSubscriptionsTest(), newSubscriptionsTry(), newSubscriptionsRotateSecret())
}

func newSubscriptionsAdd() *cobra.Command {
	var tenant, url, wanted, key, keyFile, headersFile, certificateFile, certificateKey, description, ordering, onDead, output string
	var events []string
	var rate float64
	var waits []time.Duration
	var timeout time.Duration
	c := &cobra.Command{
		Use: "add", Short: "Add a subscription and print its id", Args: cobra.NoArgs,
		Long: "Add a subscription and print its id. Events are whole names (payment.received), a name part with a\n" +
			"star (payment.*), or * for all. Without a secret one is made, and shown this once on stderr.",
		Example: "  relay subscriptions add --tenant acme --url https://hooks.example.com/x --event payment.received --event 'sales_order.*'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if tenant == "" || url == "" || len(events) == 0 {
				return usageError{errors.New("--tenant, --url and --event are required")}
			}
			if err := outbox.CheckTenant(tenant); err != nil {
				return usageError{fmt.Errorf("--tenant: %w", err)}
			}
			if ordering != deliver.OrderingKey && ordering != deliver.OrderingNone {
				return usageError{fmt.Errorf("--ordering %s: expected key or none", ordering)}
			}
			if onDead != deliver.OnDeadRelease && onDead != deliver.OnDeadHalt {
				return usageError{fmt.Errorf("--on-dead %s: expected release or halt", onDead)}
			}
			if err := deliver.CheckOnDead(onDead, ordering); err != nil {
				return usageError{fmt.Errorf("--on-dead %s needs --ordering key: %w", onDead, err)}
			}
			if err := checkPatterns(events); err != nil {
				return err
			}
			if err := deliver.CheckRate(rate); err != nil {
				return usageError{fmt.Errorf("--rate-limit %g: %w", rate, err)}
			}
			if len(waits) > deliver.MaxWaits {
				return usageError{fmt.Errorf("--retry-schedule: expected up to %d times, got %d", deliver.MaxWaits, len(waits))}
			}
			for _, d := range waits {
				if err := deliver.CheckWait(d); err != nil {
					return usageError{fmt.Errorf("--retry-schedule %s: %w", d, err)}
				}
			}
			f, err := givenFilter(wanted)
			if err != nil {
				return err
			}
			key, made, err := givenSecret(cmd, key, keyFile)
			if err != nil {
				return err
			}
			certificate, err := givenCertificate(cmd, certificateFile, certificateKey)
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				policy, err := egress.New(daemon.EgressOptions(cfg))
				if err != nil {
					return err
				}
				if _, err := policy.CheckURLOf(tenant, url); err != nil {
					var blocked *egress.BlockedError
					if errors.As(err, &blocked) && blocked.Rule == egress.RuleOwn { // which no setting changes
						return usageError{fmt.Errorf("--url: %w", err)}
					}
					var service *egress.UnderscoreError
					if errors.As(err, &service) {
						return usageError{fmt.Errorf("--url: %w; an entry %s in egress.allow lets it through", err, service.Host)}
					}
					return usageError{fmt.Errorf("--url: %w (egress.allow, egress.require_https and egress.http_tenants in the configuration decide)", err)}
				}
				if err := deliver.CheckTimeout(deliver.Timeout(timeout), cfg.Deliver.MaxTimeout); err != nil {
					return usageError{fmt.Errorf("--timeout %s: %w (deliver.max_timeout in the configuration is the longest)", timeout, err)}
				}
				headers, err := givenHeaders(headersFile, cfg.Egress.HeadersAllow)
				if err != nil {
					return err
				}
				warnUnknown(cmd, cfg, events)
				sub := deliver.NewSubscription(tenant, url, events, key)
				sub.Description, sub.Ordering, sub.OnDead, sub.Headers = description, ordering, onDead, headers
				sub.SetFilter(f)
				sub.RateLimit, sub.RetrySchedule, sub.Timeout, sub.ClientCertificate = rate, waits, deliver.Timeout(timeout), certificate
				if err := sub.CheckShown(); err != nil {
					return usageError{fmt.Errorf("--client-certificate: %w", err)}
				}
				store, err := subscriptions(cmd, cfg, db)
				if err != nil {
					return err
				}
				if err := store.Add(ctx, sub); err != nil {
					return err
				}
				if sub.Certificate != nil {
					for _, w := range sub.Certificate.Warnings(time.Now()) {
						_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", w)
					}
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), struct {
						*deliver.Subscription
						Secret string `json:"secret"`
					}{sub, key})
				}
				if made {
					_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "secret (shown this once): %s\n", key)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), sub.ID)
				return err
			})
		},
	}
	f := c.Flags()
	f.StringVar(&tenant, "tenant", "", "tenant whose events are wanted")
	f.StringVar(&url, "url", "", "where to post them")
	f.StringArrayVar(&events, "event", nil, "event name or pattern; repeatable")
	f.StringVar(&wanted, "filter", "", `what the payload has to be like, as JSON, such as {"currency": "EUR", "amount": {"$gte": 100}}; "relay subscriptions try" tries it`)
	f.StringVar(&key, "secret", "", "secret to sign with; other users of the machine may see a command line: prefer --secret-file")
	f.StringVar(&keyFile, "secret-file", "", "file that holds the secret")
	f.Float64Var(&rate, "rate-limit", 0, "attempts a second that it gets at most, 0.01 to 1000; 0: as many as it takes")
	durationsFlag(f, &waits, "retry-schedule", "wait before each attempt, as many attempts as items, such as 0s,5s,1m (default: deliver.retry.schedule)")
	durationFlag(f, &timeout, "timeout", 0, "time for one attempt, for a receiver that needs longer than others, such as 30s; up to deliver.max_timeout (default: deliver.timeout)")
	f.StringVar(&headersFile, "headers-file", "", "file with headers that its webhooks have besides ours, a line each: Name: value")
	f.StringVar(&certificateFile, "client-certificate", "", "file with a certificate (PEM) that its receiver is shown where it asks for one, and behind it those that lead to its authority")
	f.StringVar(&certificateKey, "client-key", "", "file with the key of --client-certificate (PEM)")
	f.StringVar(&description, "description", "", "a note for people")
	f.StringVar(&ordering, "ordering", deliver.OrderingKey, "key: events of one key arrive in commit order; none: each on its own")
	f.StringVar(&onDead, "on-dead", deliver.OnDeadRelease, "when an event is given up; release: the next of its key goes on; halt: it waits until the dead one is retried or discarded")
	addOutput(c, &output)
	return c
}

// checkPatterns tells what is wrong with the values of --event.
func checkPatterns(events []string) error {
	for _, e := range events {
		if err := deliver.CheckPattern(e); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// givenFilter reads a filter; nil for none.
func givenFilter(text string) (*filter.Filter, error) {
	if text == "" {
		return nil, nil
	}
	f, err := filter.Parse([]byte(text))
	if err != nil {
		return nil, usageError{fmt.Errorf("--filter: %w", err)}
	}
	return f, nil
}

// givenSecret is the secret that a command was given, or a new one. It warns of a weak one.
func givenSecret(cmd *cobra.Command, text, file string) (key string, made bool, err error) {
	flag := "--secret"
	switch {
	case cmd.Flags().Changed("secret") && cmd.Flags().Changed("secret-file"):
		return "", false, usageError{errors.New("--secret and --secret-file exclude each other")}
	case file != "":
		b, err := os.ReadFile(file) // #nosec G304 -- whoever runs the command names the file
		if err != nil {
			return "", false, fmt.Errorf("read secret: %w", err)
		}
		text, flag = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"), "--secret-file "+file // the end of its line
	case !cmd.Flags().Changed("secret"):
		text, made = signature.NewSecret(), true
	}
	weak, err := signature.Check(text)
	if err != nil {
		return "", false, usageError{fmt.Errorf("%s: %w (without it a good one is made)", flag, err)}
	}
	if weak != "" {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: the secret is weak: %s\n", weak)
	}
	return text, made, nil
}

// subscriptions is the store that reads and writes secrets as the configuration says.
func subscriptions(cmd *cobra.Command, cfg *config.Config, db *pgxpool.Pool) (deliver.Subscriptions, error) {
	keys, err := secret.NewKeyring(cfg.Secrets.Key)
	if err != nil {
		return deliver.Subscriptions{}, fmt.Errorf("secrets.key: %w", err)
	}
	if path := cfg.Origin("secrets.key").Via; path != "" {
		if err := secret.Exposed(path); err != nil {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", err)
		}
	}
	return deliver.Subscriptions{DB: db, Keys: keys}, nil
}

// givenHeaders reads a file of headers. allow are entries of egress.headers_allow.
func givenHeaders(file string, allow []string) (secret.Secret, error) {
	if file == "" {
		return secret.Secret{}, nil
	}
	b, err := os.ReadFile(file) // #nosec G304 -- whoever runs the command names the file
	if err != nil {
		return secret.Secret{}, fmt.Errorf("read headers: %w", err)
	}
	var list []deliver.Header
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		if !found {
			return secret.Secret{}, usageError{fmt.Errorf("--headers-file %s: header %d: expected a line such as X-Api-Key: value", file, len(list)+1)}
		}
		list = append(list, deliver.Header{Name: strings.TrimSpace(name), Value: strings.TrimSpace(value)})
	}
	headers, err := deliver.NewHeaders(list, allow...)
	if err != nil {
		return secret.Secret{}, usageError{fmt.Errorf("--headers-file %s: %w (egress.headers_allow in the configuration is what is allowed besides)", file, err)}
	}
	return headers, nil
}

// largestCertificate bounds what is read from a file, which could be a device.
const largestCertificate = 1 << 20

// givenCertificate reads the files of a client certificate and its key.
func givenCertificate(cmd *cobra.Command, certificateFile, keyFile string) (secret.Secret, error) {
	switch {
	case certificateFile == "" && keyFile == "":
		return secret.Secret{}, nil
	case certificateFile == "" || keyFile == "":
		return secret.Secret{}, usageError{errors.New("--client-certificate and --client-key belong together")}
	}
	read := func(path string) (string, error) {
		f, err := os.Open(path) // #nosec G304 -- whoever runs the command names the file
		if err != nil {
			return "", fmt.Errorf("read client certificate: %w", err)
		}
		defer func() { _ = f.Close() }()
		b, err := io.ReadAll(io.LimitReader(f, largestCertificate))
		if err != nil {
			return "", fmt.Errorf("read client certificate: %w", err)
		}
		return string(b), nil
	}
	certificate, err := read(certificateFile)
	if err != nil {
		return secret.Secret{}, err
	}
	key, err := read(keyFile)
	if err != nil {
		return secret.Secret{}, err
	}
	made, err := deliver.NewClientCertificate(certificate, key, time.Now())
	var wrong *deliver.CertificateError
	switch {
	case errors.As(err, &wrong) && wrong.Part == deliver.KeyPart:
		return secret.Secret{}, usageError{fmt.Errorf("--client-key %s: %s", keyFile, wrong.Reason)}
	case errors.As(err, &wrong):
		return secret.Secret{}, usageError{fmt.Errorf("--client-certificate %s: %s", certificateFile, wrong.Reason)}
	case err != nil:
		return secret.Secret{}, err
	}
	if err := secret.Exposed(keyFile); err != nil {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", err)
	}
	return made, nil
}

// warnUnknown says which patterns match no event type of the catalog.
func warnUnknown(cmd *cobra.Command, cfg *config.Config, patterns []string) {
	catalog, err := outbox.NewCatalog(cfg.Catalog.Files...)
	if err != nil {
		return // the daemon refuses such a configuration; a subscription does not depend on it
	}
	types := catalog.Types()
	for _, p := range deliver.Unmatched(patterns, types) {
		nearest, best := "", 4
		for _, t := range types {
			if d := levenshtein.ComputeDistance(p, t.Name); d < best {
				nearest, best = t.Name, d
			}
		}
		hint := "; `relay events` lists the catalog"
		if nearest != "" {
			hint = fmt.Sprintf("; did you mean %s?", nearest)
		}
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: no event type of the catalog matches %q%s\n", p, hint)
	}
}

func subscriptionRow(s *deliver.Subscription) []string {
	state := "active"
	switch {
	case !s.Active:
		state = "disabled"
	case s.FailingSince != nil:
		state = "failing"
	}
	return []string{s.ID.String(), printable(s.TenantID), state, strings.Join(s.Events, ","), printable(s.URL), stamp(s.FailingSince),
		orDash(s.DisabledReason)}
}

// prospect says what becomes of an endpoint that fails, "" when it works.
func prospect(cfg *config.Config, s *deliver.Subscription) string {
	switch after := cfg.Deliver.DisableAfter; {
	case !s.Active || s.FailingSince == nil:
		return ""
	case after == 0:
		return "its events wait; deliver.disable_after is 0s, so it is never disabled"
	default:
		end := s.FailingSince.Add(after)
		return "disabled after " + stamp(&end) + ", unless it takes an event before; its events wait"
	}
}

// secretState says how a subscription's secret is stored.
func secretState(s *deliver.Subscription) string {
	key, sealed := s.SecretKey()
	switch {
	case s.Locked != nil:
		return "does not open with this configuration: " + s.Locked.Error()
	case sealed:
		return fmt.Sprintf("sealed with key %d", key)
	}
	return "stored as it is"
}

// certificateState says what is shown of a client certificate.
func certificateState(c *deliver.Certificate) string {
	if c == nil {
		return "-"
	}
	return fmt.Sprintf("%s, %s until %s, SHA-256 %s", printable(c.Subject), c.State(time.Now()), stamp(&c.NotAfter), c.Fingerprint)
}

// ownTimeout is the timeout of the subscription's own.
func ownTimeout(s *deliver.Subscription) string {
	if s.Timeout == 0 {
		return "-"
	}
	return s.Timeout.String()
}

func rotationState(what string, at *time.Time) string {
	if at == nil {
		return "-"
	}
	return what + " " + stamp(at)
}

func newSubscriptionsList() *cobra.Command {
	var tenant, output string
	c := &cobra.Command{
		Use: "list", Short: "List subscriptions", Args: cobra.NoArgs,
		Example: "  relay subscriptions list --tenant acme\n  relay subscriptions list -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				store, err := subscriptions(cmd, cfg, db)
				if err != nil {
					return err
				}
				list, err := store.List(ctx, tenant)
				if err != nil {
					return err
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), items(list))
				}
				rows := make([][]string, len(list))
				for i := range list {
					rows[i] = subscriptionRow(&list[i])
				}
				return table(cmd.OutOrStdout(), "ID TENANT STATE EVENTS URL FAILING_SINCE REASON", rows)
			})
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only this tenant's")
	addOutput(c, &output)
	return c
}

func newSubscriptionsShow() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "show ID", Short: "Show one subscription", Args: cobra.ExactArgs(1),
		Example: "  relay subscriptions show 01a21045-e54f-72f6-866b-2636175a6f62",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSubscription(cmd, args[0], func(_ context.Context, cfg *config.Config, _ deliver.Subscriptions, s *deliver.Subscription) error {
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), s)
				}
				row, next := subscriptionRow(s), prospect(cfg, s)
				wanted := "-"
				if s.Filter != nil {
					wanted = printable(s.Filter.String())
				}
				return text(cmd.OutOrStdout(), [2]string{"id", row[0]}, [2]string{"tenant", row[1]}, [2]string{"state", row[2]},
					[2]string{"events", row[3]}, [2]string{"filter", wanted}, [2]string{"url", row[4]}, [2]string{"failing since", row[5]}, [2]string{"prospect", orDash(&next)},
					[2]string{"warned", stamp(s.WarnedAt)}, [2]string{"reason", row[6]}, [2]string{"secret", secretState(s)}, [2]string{"next secret", rotationState("staged", s.NextStagedAt)},
					[2]string{"previous secret", rotationState("signs until", s.PreviousExpiresAt)}, [2]string{"client certificate", certificateState(s.Certificate)}, [2]string{"ordering", s.Ordering}, [2]string{"on dead", s.OnDead},
					[2]string{"timeout", ownTimeout(s)},
					[2]string{"description", printable(s.Description)}, [2]string{"created", stamp(&s.CreatedAt)}, [2]string{"updated", stamp(&s.UpdatedAt)})
			})
		},
	}
	addOutput(c, &output)
	return c
}

func withSubscription(cmd *cobra.Command, arg string, f func(context.Context, *config.Config, deliver.Subscriptions, *deliver.Subscription) error) error {
	id, err := parseID("subscription", arg)
	if err != nil {
		return err
	}
	return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
		store, err := subscriptions(cmd, cfg, db)
		if err != nil {
			return err
		}
		s, err := store.Get(ctx, id)
		if err != nil {
			return err
		}
		return f(ctx, cfg, store, s)
	})
}

func newSubscriptionsRemove() *cobra.Command {
	var really sure
	var output string
	c := &cobra.Command{
		Use: "remove ID", Short: "Remove a subscription; what waits for it is cancelled", Args: cobra.ExactArgs(1),
		Example: "  relay subscriptions remove 01a21045-e54f-72f6-866b-2636175a6f62 --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSubscription(cmd, args[0], func(ctx context.Context, _ *config.Config, store deliver.Subscriptions, s *deliver.Subscription) error {
				waiting, err := store.Waiting(ctx, s.ID)
				if err != nil {
					return err
				}
				lost := fmt.Sprintf("subscription %s of %s to %s is gone for good when removed, with its secret, and %d deliveries that wait are cancelled",
					s.ID, printable(s.TenantID), printable(s.URL), waiting)
				if ok, err := really.ask(cmd, output, lost); !ok {
					return err
				}
				if err := store.Remove(ctx, s.ID); err != nil {
					return err
				}
				return say(cmd, output, "removed "+s.ID.String(), map[string]any{"id": s.ID, "removed": true})
			})
		},
	}
	really.flags(c)
	addOutput(c, &output)
	return c
}

func newSubscriptionsSwitch(on bool) *cobra.Command {
	name, short, long, done := "disable", "Disable a subscription; its events are kept and wait",
		"Disable a subscription: its events are kept and wait until it is enabled. One that is disabled already keeps its reason,\n"+
			"unless --reason gives another.", "disabled"
	if on {
		name, short, long, done = "enable", "Enable a subscription; what waited is delivered",
			"Enable a subscription, or say of an active one that its endpoint works again: its failures are forgotten, its circuit is\n"+
				"closed, and what waits for it is due now and sent slowly at first.", "enabled"
	}
	var reason, output string
	c := &cobra.Command{
		Use: name + " ID", Short: short, Long: long, Args: cobra.ExactArgs(1),
		Example: "  relay subscriptions " + name + " 01a21045-e54f-72f6-866b-2636175a6f62",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSubscription(cmd, args[0], func(ctx context.Context, _ *config.Config, store deliver.Subscriptions, s *deliver.Subscription) error {
				why := reason
				if !on && !s.Active && !cmd.Flags().Changed("reason") {
					why = "" // it keeps the one that it has
				}
				if err := store.SetActive(ctx, s.ID, on, why); err != nil {
					return err
				}
				now, err := store.Get(ctx, s.ID)
				if err != nil {
					return err
				}
				return say(cmd, output, switched(s, now, done), now)
			})
		},
	}
	if !on {
		c.Flags().StringVar(&reason, "reason", "disabled by the operator", "why, for the tenant to see")
	}
	addOutput(c, &output)
	return c
}

// switched says what became of a subscription that was enabled or disabled.
func switched(was, now *deliver.Subscription, done string) string {
	switch {
	case !was.Active && !now.Active:
		return "disabled already: " + now.ID.String() + " (" + orDash(now.DisabledReason) + ")"
	case was.Active && now.Active && was.FailingSince != nil:
		return done + " " + now.ID.String() + ": what it failed by since " + stamp(was.FailingSince) + " is forgotten, and what waits for it is due now"
	}
	return done + " " + now.ID.String()
}

// warnDisabled says that an endpoint that takes a test event gets no others.
func warnDisabled(cmd *cobra.Command, s *deliver.Subscription) {
	if !s.Active {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: the subscription is disabled (%s): its events wait until `relay subscriptions enable %s`\n",
			orDash(s.DisabledReason), s.ID)
	}
}

// testResult is what an endpoint did with a test event.
type testResult struct {
	SubscriptionID uuid.UUID      `json:"subscription_id"`
	Success        bool           `json:"success"`
	StatusCode     int            `json:"status_code"` // 0: no answer
	Reason         deliver.Reason `json:"reason,omitempty"`
	Detail         string         `json:"detail,omitempty"`
	Cause          string         `json:"cause,omitempty"` // the whole error
	DurationMicros int64          `json:"duration_us"`
}

func newSubscriptionsTest() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "test ID", Short: "Post a signed test event to a subscription's endpoint", Args: cobra.ExactArgs(1),
		Long: "Post a signed event of type relay.test, on the way that deliveries take: the same egress rule, timeouts\n" +
			"and signature. The exit code is 1 when the endpoint did not take it. Nothing is recorded.",
		Example: "  relay subscriptions test 01a21045-e54f-72f6-866b-2636175a6f62",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withSubscription(cmd, args[0], func(ctx context.Context, cfg *config.Config, _ deliver.Subscriptions, s *deliver.Subscription) error {
				signer, err := s.Signer(time.Now())
				if err != nil {
					return err
				}
				warnDisabled(cmd, s)
				out, err := postTest(ctx, cfg, s, signer)
				if err != nil {
					return err
				}
				if output == formJSON {
					if err := printJSON(cmd.OutOrStdout(), newTestResult(s, out)); err != nil {
						return err
					}
				}
				if err = refusal(out); err == nil && output == formText {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), answered(out))
				}
				return err
			})
		},
	}
	addOutput(c, &output)
	return c
}

func newTestResult(s *deliver.Subscription, out deliver.Outcome) testResult {
	return testResult{s.ID, out.Success(), out.StatusCode, out.Reason, out.Detail, out.Cause, out.Duration.Microseconds()}
}

func took(out deliver.Outcome) time.Duration { return out.Duration.Round(100 * time.Microsecond) }

// answered says how an endpoint took a test event.
func answered(out deliver.Outcome) string {
	return fmt.Sprintf("HTTP %d %s in %s", out.StatusCode, http.StatusText(out.StatusCode), took(out))
}

// refusal says how an endpoint did not take a test event; nil when it did.
func refusal(out deliver.Outcome) error {
	switch {
	case out.Aborted:
		return errors.New("interrupted before the endpoint answered")
	case !out.Success():
		why := printable(out.Detail)
		if out.Cause != "" {
			why += ": " + printable(out.Cause)
		}
		return fmt.Errorf("the endpoint did not take the test event: %s: %s (after %s)", out.Reason, why, took(out))
	}
	return nil
}

func postTest(ctx context.Context, cfg *config.Config, s *deliver.Subscription, signer *signature.Signer) (deliver.Outcome, error) {
	policy, err := egress.New(daemon.EgressOptions(cfg))
	if err != nil {
		return deliver.Outcome{}, err
	}
	return daemon.PostTest(ctx, policy, daemon.NewPoster(policy, cfg, version), s, signer, cfg.Deliver.MaxTimeout)
}
