package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/outbox"
)

func newConfig() *cobra.Command {
	return group(&cobra.Command{
		Use: "config", Short: "Check and print the configuration", Example: "  relay config check --config relay.yaml",
	}, newConfigCheck(), newConfigPrint(), newConfigSchema())
}

func newConfigCheck() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "check", Short: "Check the configuration; the exit code is 3 when it is faulty", Args: cobra.NoArgs,
		Example: "  relay config check --config relay.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			if _, err := outbox.NewCatalog(cfg.Catalog.Files...); err != nil {
				return configError{err}
			}
			if _, err := egress.New(daemon.EgressOptions(cfg)); err != nil {
				return configError{err}
			}
			from := cfg.File()
			if from == "" {
				from = "no file, defaults and environment"
			}
			return say(cmd, output, fmt.Sprintf("ok (%s)", from), map[string]any{"ok": true, "file": cfg.File()})
		},
	}
	addOutput(c, &output)
	return c
}

func newConfigPrint() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "print", Short: "Print every setting with where it comes from, secrets hidden", Args: cobra.NoArgs,
		Example: "  relay config print --config relay.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			if output == formJSON {
				return config.PrintJSON(cmd.OutOrStdout(), cfg)
			}
			return config.Print(cmd.OutOrStdout(), cfg)
		},
	}
	addOutput(c, &output)
	return c
}

func newConfigSchema() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the configuration file", Args: cobra.NoArgs,
		Example: "  relay config schema > relay.schema.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
			return err
		},
	}
}
