package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/duration"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/token"
)

func newToken() *cobra.Command {
	return group(&cobra.Command{
		Use: "token", Short: "Tokens of the REST API: create, list, revoke",
		Example: "  relay token create --tenant acme --expires 90d\n  relay token list --tenant acme",
	}, newTokenCreate(), newTokenList(), newTokenRevoke())
}

func newTokenCreate() *cobra.Command {
	var tenant, expires, description, output string
	var readOnly, operator bool
	c := &cobra.Command{
		Use: "create (--tenant T [--read-only] | --operator)", Short: "Create a token and print it, this once", Args: cobra.NoArgs,
		Long: "Create a token and print it. It is not kept and cannot be shown again. A tenant's token is good for what belongs\n" +
			"to that tenant alone; an operator's for status and metrics where they are not open, and for nothing of a tenant's.",
		Example: "  relay token create --tenant acme --expires 90d --description 'the shop'\n  relay token create --operator > operator.token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			role := token.RoleTenantWrite
			switch {
			case operator && (tenant != "" || readOnly):
				return usageError{errors.New("--operator excludes --tenant and --read-only")}
			case operator:
				role = token.RoleOperator
			case tenant == "":
				return usageError{errors.New("--tenant or --operator is required")}
			case outbox.CheckTenant(tenant) != nil:
				return usageError{fmt.Errorf("--tenant: %w", outbox.CheckTenant(tenant))}
			case readOnly:
				role = token.RoleTenantRead
			}
			until, err := expiry(expires, time.Now())
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				t, text, err := token.Store{DB: db}.Create(ctx, role, tenant, description, until)
				if err != nil {
					return err
				}
				return say(cmd, output, text.Reveal(), struct {
					*token.Token
					Text string `json:"token"`
				}{t, text.Reveal()})
			})
		},
	}
	f := c.Flags()
	f.StringVar(&tenant, "tenant", "", "tenant that it is for")
	f.BoolVar(&readOnly, "read-only", false, "it may look, and change nothing")
	f.BoolVar(&operator, "operator", false, "it is an operator's, of no tenant")
	f.StringVar(&expires, "expires", "", "how long it is good, such as 90d or 12h (default: until it is revoked)")
	f.StringVar(&description, "description", "", "a note for people")
	addOutput(c, &output)
	return c
}

// expiry is the end of a time span from now that may be in days; zero for none.
func expiry(span string, now time.Time) (time.Time, error) {
	if span == "" {
		return time.Time{}, nil
	}
	d, err := duration.Parse(span)
	if err != nil || d <= 0 {
		return time.Time{}, usageError{fmt.Errorf("--expires %q: expected a time span such as 90d or 12h", span)}
	}
	return now.Add(d), nil
}

func newTokenList() *cobra.Command {
	var tenant, output string
	c := &cobra.Command{
		Use: "list", Short: "List tokens, oldest first", Args: cobra.NoArgs, Example: "  relay token list --tenant acme -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				list, err := token.Store{DB: db}.List(ctx, tenant)
				if err != nil {
					return err
				}
				if output == formJSON {
					return printJSON(cmd.OutOrStdout(), items(list))
				}
				rows := make([][]string, len(list))
				for i, t := range list {
					rows[i] = []string{t.ID.String(), string(t.Role), orDash(t.TenantID), tokenState(t, time.Now()), stamp(t.ExpiresAt),
						stamp(t.LastUsedAt), printable(t.Description)}
				}
				return table(cmd.OutOrStdout(), "ID ROLE TENANT STATE EXPIRES USED DESCRIPTION", rows)
			})
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only those of a tenant")
	addOutput(c, &output)
	return c
}

func tokenState(t *token.Token, now time.Time) string {
	switch {
	case t.RevokedAt != nil:
		return "revoked"
	case t.ExpiresAt != nil && !now.Before(*t.ExpiresAt):
		return "expired"
	}
	return "good"
}

func newTokenRevoke() *cobra.Command {
	var really sure
	var output string
	c := &cobra.Command{
		Use: "revoke ID...", Short: "Revoke tokens, for good", Args: cobra.MinimumNArgs(1),
		Long:    "Revoke tokens. Relays that run refuse them within " + token.CacheFor.String() + ". It cannot be undone: create a new one.",
		Example: "  relay token revoke 01a21045-e54f-72f6-866b-2636175a6f62 --yes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withDatabase(cmd, func(ctx context.Context, _ *config.Config, db *pgxpool.Pool) error {
				ids := make([]uuid.UUID, len(args))
				for i, a := range args {
					var err error
					if ids[i], err = parseID("token", a); err != nil {
						return err
					}
				}
				if ok, err := really.ask(cmd, output, "calls with these tokens fail for good when they are revoked: "+strings.Join(args, ", ")); !ok {
					return err
				}
				for _, id := range ids {
					if err := (token.Store{DB: db}).Revoke(ctx, id); err != nil {
						return err
					}
					if err := say(cmd, output, id.String()+" revoked", map[string]string{"id": id.String(), "state": "revoked"}); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	really.flags(c)
	addOutput(c, &output)
	return c
}
