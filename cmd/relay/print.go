package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/postgres"
)

// Output forms.
const (
	formText = "text"
	formJSON = "json"
)

// addOutput gives a command the flag -o.
func addOutput(c *cobra.Command, to *string) {
	c.Flags().StringVarP(to, "output", "o", formText, "form of the output: text or json")
	before := c.PreRunE
	c.PreRunE = func(cmd *cobra.Command, args []string) error {
		if *to != formText && *to != formJSON {
			return usageError{fmt.Errorf("-o %s: expected text or json", *to)}
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table prints rows in columns.
func table(w io.Writer, head string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if _, err := fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t")); err != nil {
		return err
	}
	for _, r := range rows {
		if _, err := fmt.Fprintln(t, strings.Join(r, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

// text prints labelled values.
func text(w io.Writer, pairs ...[2]string) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, p := range pairs {
		if _, err := fmt.Fprintf(t, "%s\t%s\n", p[0], p[1]); err != nil {
			return err
		}
	}
	return t.Flush()
}

func stamp(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000Z")
}

// printable keeps foreign text from moving the cursor or breaking the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return '\uFFFD'
		}
		return r
	}, s)
}

func orDash(s *string) string {
	if s == nil || *s == "" {
		return "-"
	}
	return printable(*s)
}

func parseID(what, s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err != nil {
		return id, usageError{fmt.Errorf("%s %q: expected an id such as 01a21045-e54f-72f6-866b-2636175a6f62", what, s)}
	}
	return id, nil
}

// withDatabase opens the configured database for a command and checks its schema.
func withDatabase(cmd *cobra.Command, f func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error) error {
	cfg, err := loadConfig(cmd, "database.url")
	if err != nil {
		return err
	}
	db, err := openDatabase(cmd, cfg)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := checkSchema(cmd.Context(), db); err != nil {
		return err
	}
	return f(cmd.Context(), cfg, db)
}

// openDatabase makes a pool that connects when it is first used.
func openDatabase(cmd *cobra.Command, cfg *config.Config) (*pgxpool.Pool, error) {
	db, err := postgres.Open(cmd.Context(), cfg.Database.URL, postgres.Options{Application: "relay " + cmd.Name(), Connections: 2})
	if err != nil {
		return nil, fmt.Errorf("database.url: %s", config.Redact(err.Error()))
	}
	return db, nil
}

// say prints what a command did: a line, or the object that says the same.
func say(cmd *cobra.Command, output, line string, object any) error {
	if output == formJSON {
		return printJSON(cmd.OutOrStdout(), object)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), line)
	return err
}

// items is a list as it is printed with -o json.
func items[T any](list []T) map[string]any {
	return map[string]any{"items": append([]T{}, list...)}
}

// group makes a command that only holds others help with misspelt ones.
func group(c *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	c.AddCommand(subs...)
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	return c
}

// misspelt is the error for a word that is no subcommand of the group before it, which is told before the flags behind the word:
// they belong to the command that was meant.
func misspelt(root *cobra.Command, args []string) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	c, rest, err := root.Find(args)
	if err != nil || !c.HasSubCommands() {
		return nil
	}
	for i := 0; i < len(rest); i++ {
		word := rest[i]
		switch {
		case word == "--", strings.HasPrefix(word, "__"): // what a shell asks for completion
			return nil
		case !strings.HasPrefix(word, "-"):
			return unknownCommand(c, word)
		case strings.Contains(word, "="):
		default:
			f := c.Flag(strings.TrimLeft(word, "-"))
			if f == nil {
				return nil
			}
			if f.NoOptDefVal == "" {
				i++ // its value
			}
		}
	}
	return nil
}

// flagError names the flag that was meant.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError{err}
	}
	name := unknown.GetSpecifiedName()
	nearest, best := "", max(2, len(name)/3)+1
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if d := levenshtein.ComputeDistance(name, f.Name); !f.Hidden && d < best {
			nearest, best = f.Name, d
		}
	})
	if nearest != "" && len(name) > 1 {
		err = fmt.Errorf("%w; did you mean --%s?", err, nearest)
	}
	return usageError{fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath())}
}

// unknownCommand is the error for a word that is no subcommand.
func unknownCommand(cmd *cobra.Command, word string) error {
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	hint := ""
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		for i := range near {
			near[i] = cmd.CommandPath() + " " + near[i]
		}
		hint = fmt.Sprintf("; did you mean `%s`?", strings.Join(near, "` or `"))
	}
	return usageError{fmt.Errorf("unknown command %q for %q%s (see `%s --help`)", word, cmd.CommandPath(), hint, cmd.CommandPath())}
}
