// Command relay is the transactional outbox relay for PostgreSQL.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/health"
)

// version is set by the linker.
var version = "dev"

// Exit codes, the same for every command.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitConfig    = 3
	exitUnhealthy = 4
)

// usageError is a fault in how a command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// configError is a fault in a file that the configuration names.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// unhealthyError says that what was checked is not as it should be.
type unhealthyError struct{ error }

func (e unhealthyError) Unwrap() error { return e.error }

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	go untilSignal(cancel)
	os.Exit(execute(ctx, newRoot(), os.Args[1:]))
}

// untilSignal ends a context at the first signal, and the process at once at the second, however soon that comes.
func untilSignal(cancel context.CancelFunc) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	cancel()
	again := <-signals
	signal.Reset(os.Interrupt, syscall.SIGTERM)
	if self, err := os.FindProcess(os.Getpid()); err != nil || self.Signal(again) != nil {
		os.Exit(exitFailed)
	}
}

// execute runs a command and returns the exit code.
func execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := misspelt(root, args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		return 0
	}
	var (
		faulty    *config.Error
		file      configError
		usage     usageError
		unhealthy unhealthyError
	)
	fmt.Fprintf(root.ErrOrStderr(), "relay: %s\n", explain(root, err))
	switch {
	case errors.As(err, &faulty), errors.As(err, &file):
		return exitConfig
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &unhealthy):
		return exitUnhealthy
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "relay",
		Short: "Deliver committed outbox rows of PostgreSQL as signed webhooks",
		Long: "relay tails an outbox table through logical replication and delivers each committed row,\n" +
			"signed, at least once, to every webhook subscription that matches it.",
		Example:       "  relay migrate --database-url postgres://localhost/app\n  relay run --config /etc/relay/relay.yaml",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	root.SetVersionTemplate("relay {{.Version}}\n")
	config.AddFlags(root.PersistentFlags())
	root.SetFlagErrorFunc(flagError)
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), inheritedFlags, globalFlags, 1))
	root.AddCommand(newRun(), newDev(), newMigrate(), newSubscriptions(), newSecrets(), newDeliveries(), newReplay(), newQuarantine(), newAudit(), newRescue(), newIdentity(), newEvents(), newToken(), newTenant(), newOpenAPI(),
		newStatus(), newConfig(), newVersion())
	root.Args = cobra.ArbitraryArgs
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	for _, c := range root.Commands() {
		usageArgs(c)
	}
	return root
}

// The usage of a command lists its own flags; those of every command stand on one page.
const (
	inheritedFlags = `Global Flags:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}`
	globalFlags = `Global flags: {{globalFlags .}}; relay --help explains them`
)

func init() {
	cobra.AddTemplateFunc("globalFlags", func(c *cobra.Command) string {
		var names []string
		c.InheritedFlags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, "--"+f.Name)
			}
		})
		return strings.Join(names, ", ")
	})
}

// usageArgs makes wrong arguments exit as wrong usage.
func usageArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			switch {
			case err == nil:
				return nil
			case strings.HasPrefix(err.Error(), "unknown command"): // cobra's words for arguments where none are taken
				return usageError{fmt.Errorf("%s takes no arguments, got %q (see `%[1]s --help`)", cmd.CommandPath(), args[0])}
			}
			return usageError{fmt.Errorf("%w (see `%s --help`)", err, cmd.CommandPath())}
		}
	}
	if c.RunE == nil && c.HasSubCommands() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		}
	}
	for _, sub := range c.Commands() {
		usageArgs(sub)
	}
}

// loadConfig reads the configuration for a command and requires the keys.
func loadConfig(cmd *cobra.Command, keys ...string) (*config.Config, error) {
	cfg, err := config.Load(config.LoadOptions{Flags: cmd.Flags(), Environ: os.Environ()})
	if err != nil {
		return nil, err
	}
	root := cmd.Root()
	root.SetContext(context.WithValue(root.Context(), factsKey{}, daemon.Facts(cfg)))
	return cfg, cfg.Require(keys...)
}

// factsKey is the key of the names that a command's configuration has, for what explain says.
type factsKey struct{}

// explain is an error with the way out, when it is PostgreSQL's or of the way to it.
func explain(root *cobra.Command, err error) string {
	var facts health.Facts
	if ctx := root.Context(); ctx != nil {
		facts, _ = ctx.Value(factsKey{}).(health.Facts)
	}
	return explainWith(facts, err)
}

func explainWith(facts health.Facts, err error) string {
	_, server := errors.AsType[*pgconn.PgError](err)
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	_, fault := errors.AsType[*health.Fault](err)
	if !server && !connect && !fault {
		return err.Error()
	}
	c := health.Diagnose(err, facts)
	if c.Remedy == "" || strings.Contains(c.Sentence, c.Remedy) {
		return c.Sentence
	}
	return c.Sentence + "\n" + c.Remedy
}
