package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

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
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the schemas outbox and relay",
		Long: "Create or upgrade the schemas outbox and relay. It is safe to run again, by several at once, and on\n" +
			"a database that has data. The role needs CREATE on the database and owns what it makes.",
		Example: "  relay migrate --database-url postgres://owner@localhost/app\n  relay migrate status",
		Args:    cobra.NoArgs,
		RunE:    migrateUp,
	}
	c.AddCommand(
		&cobra.Command{Use: "up", Short: "Apply what is pending (the default)", Example: "  relay migrate up",
			Args: cobra.NoArgs, RunE: migrateUp},
		newMigrateStatus())
	return c
}

func migrateUp(cmd *cobra.Command, _ []string) error {
	cfg, err := loadConfig(cmd, "database.url")
	if err != nil {
		return err
	}
	report, err := migrate.Up(cmd.Context(), cfg.Database.URL)
	w := cmd.OutOrStdout()
	for _, name := range report.Applied {
		_, _ = fmt.Fprintln(w, "applied", name)
	}
	for _, name := range report.Functions {
		_, _ = fmt.Fprintln(w, "replaced", name)
	}
	if err != nil {
		return err
	}
	if len(report.Applied)+len(report.Functions) == 0 {
		_, _ = fmt.Fprintln(w, "nothing to do")
	}
	_, err = fmt.Fprintf(w, "schema is at version %d\n", report.Version)
	return err
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
			for _, m := range list {
				at := "pending"
				if m.Pending() {
					pending++
				} else {
					at = stamp(&m.AppliedAt)
				}
				rows = append(rows, []string{m.Name, at})
			}
			if output == formJSON {
				err = printJSON(cmd.OutOrStdout(), list)
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
