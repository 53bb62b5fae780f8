package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/outbox"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check and print the configuration", Example: "  relay config check --config relay.yaml"}
	var output string
	print := &cobra.Command{
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
	addOutput(print, &output)
	c.AddCommand(
		&cobra.Command{Use: "check", Short: "Check the configuration; the exit code is 3 when it is faulty", Args: cobra.NoArgs,
			Example: "  relay config check --config relay.yaml",
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := loadConfig(cmd)
				if err != nil {
					return err
				}
				if _, err := outbox.NewCatalog(cfg.Catalog.Files...); err != nil {
					return configError{err}
				}
				from := cfg.File()
				if from == "" {
					from = "no file, defaults and environment"
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok (%s)\n", from)
				return err
			}},
		print,
		&cobra.Command{Use: "schema", Short: "Print the JSON Schema of the configuration file", Args: cobra.NoArgs,
			Example: "  relay config schema > relay.schema.json",
			RunE: func(cmd *cobra.Command, _ []string) error {
				b, err := config.Schema()
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
				return err
			}})
	return c
}

func newEvents() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "events", Short: "List the event types of the catalog", Args: cobra.NoArgs,
		Long:    "List the event types of the catalog: the built-in ones and those of catalog.files. -o json has schemas and examples.",
		Example: "  relay events\n  relay events -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			catalog, err := outbox.NewCatalog(cfg.Catalog.Files...)
			if err != nil {
				return configError{err}
			}
			if output == formJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"items": catalog.Types()})
			}
			var rows [][]string
			for _, t := range catalog.Types() {
				rows = append(rows, []string{t.Name, t.Description})
			}
			return table(cmd.OutOrStdout(), "EVENT DESCRIPTION", rows)
		},
	}
	addOutput(c, &output)
	return c
}
