package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/migrate"
)

// checkSchema tells a command apart from its database: an older binary may read
// a newer schema.
func checkSchema(ctx context.Context, db *pgxpool.Pool) error {
	if err := migrate.Check(ctx, db); err != nil && !errors.Is(err, migrate.ErrNewer) {
		return err
	}
	return nil
}

func newMigrate() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the schemas outbox and relay",
		Long: "Create or upgrade the schemas outbox and relay. It is safe to run again, by several at once, and on\n" +
			"a database that has data. The role needs CREATE on the database and owns what it makes.\n" +
			"Before, it looks whether the server has what a relay needs (wal_level, a free slot, rights of the roles) and\n" +
			"prints what lacks, with the statement. Objects of earlier migrations that are gone are made again.",
		Example: "  relay migrate --database-url postgres://owner@localhost/app\n  relay migrate status",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return migrateUp(cmd, output) },
	}
	addOutput(c, &output)
	c.AddCommand(newMigrateUp(), newMigrateStatus())
	return c
}

func newMigrateUp() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "up", Short: "Apply what is pending (the default)", Args: cobra.NoArgs,
		Example: "  relay migrate up\n  relay migrate up -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return migrateUp(cmd, output) },
	}
	addOutput(c, &output)
	return c
}

func migrateUp(cmd *cobra.Command, output string) error {
	cfg, err := loadConfig(cmd, "database.url")
	if err != nil {
		return err
	}
	warnings, err := preflight(cmd, cfg)
	if err != nil {
		return err
	}
	report, err := migrate.Up(cmd.Context(), cfg.Database.URL)
	err = health.During(health.Migrate, err)
	w := cmd.OutOrStdout()
	if output == formText { // what was applied stays applied when a later one fails
		for _, name := range report.Applied {
			_, _ = fmt.Fprintln(w, "applied", name)
		}
		for _, name := range report.Restored {
			_, _ = fmt.Fprintln(w, "restored", name)
		}
		for _, name := range report.Functions {
			_, _ = fmt.Fprintln(w, "replaced", name)
		}
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(report.Restored, func(name string) bool { return strings.HasPrefix(name, "table ") }) {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "warning: what was in the tables that were gone is lost: a table was restored empty, and rights that others had on it are to be granted again.\n"+
			"  The relay puts the publication right by itself when it starts; with cdc.recovery: manual, run `relay rescue`")
	}
	if output == formText && len(report.Applied)+len(report.Functions)+len(report.Restored) == 0 {
		_, _ = fmt.Fprintln(w, "nothing to do")
	}
	return say(cmd, output, fmt.Sprintf("schema is at version %d", report.Version), map[string]any{
		"applied": append([]string{}, report.Applied...), "functions": append([]string{}, report.Functions...), "restored": append([]string{}, report.Restored...), "version": report.Version,
		"warnings": append([]health.Condition{}, warnings...)})
}

// preflight looks for what keeps the schema from being made, which is an error, or a relay from running on it, which is
// printed.
func preflight(cmd *cobra.Command, cfg *config.Config) ([]health.Condition, error) {
	db, err := openDatabase(cmd, cfg)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	list, err := health.Preflight(cmd.Context(), db, daemon.Facts(cfg))
	if err != nil {
		return nil, err
	}
	var warnings []health.Condition
	for _, f := range list {
		if f.Migrate {
			return nil, health.NewFault(f.Condition)
		}
		warnings = append(warnings, f.Condition)
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: the relay will not run: %s\n  %s\n", f.Sentence, f.Remedy)
	}
	return warnings, nil
}

// migrationStep is a line of `relay migrate status`.
type migrationStep struct {
	Name      string     `json:"name"`
	Version   int64      `json:"version"` // 0 for a file of functions
	AppliedAt *time.Time `json:"applied_at"`
}

func newMigrateStatus() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "status", Short: "Tell what is applied and what is pending", Args: cobra.NoArgs,
		Long:    "Tell what is applied and what is pending. The exit code is 4 when something is.",
		Example: "  relay migrate status\n  relay migrate status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, "database.url")
			if err != nil {
				return err
			}
			list, err := migrate.Status(cmd.Context(), cfg.Database.URL)
			if err != nil {
				return err
			}
			pending := 0
			rows := make([][]string, 0, len(list))
			steps := make([]migrationStep, 0, len(list))
			for _, m := range list {
				at, step := "pending", migrationStep{Name: m.Name, Version: m.Version}
				if m.Pending() {
					pending++
				} else {
					at, step.AppliedAt = stamp(&m.AppliedAt), &m.AppliedAt
				}
				rows, steps = append(rows, []string{m.Name, at}), append(steps, step)
			}
			if output == formJSON {
				err = printJSON(cmd.OutOrStdout(), items(steps))
			} else {
				err = table(cmd.OutOrStdout(), "MIGRATION APPLIED", rows)
			}
			if err == nil && pending > 0 {
				err = unhealthyError{fmt.Errorf("%d pending; run `relay migrate`", pending)}
			}
			return err
		},
	}
	addOutput(c, &output)
	return c
}
