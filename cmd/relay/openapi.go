package main

import (
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/api"
)

func newOpenAPI() *cobra.Command {
	return &cobra.Command{
		Use: "openapi", Short: "Print the OpenAPI document of the tenants' API", Args: cobra.NoArgs,
		Long:    "Print the OpenAPI 3.1 document of the tenants' API, the same that a running relay serves at /openapi.json.",
		Example: "  relay openapi > openapi.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			document, err := api.Document()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(document)
			return err
		},
	}
}
