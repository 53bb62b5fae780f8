package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/migrate"
)

func newMigrate() *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "Create or upgrade the schemas outbox and relay", Example: "  relay migrate", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, "database.url")
			if err != nil {
				return err
			}
			report, err := migrate.Up(cmd.Context(), cfg.Database.URL)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "schema at version %d, applied %v\n", report.Version, report.Applied)
			return err
		},
	}
}
