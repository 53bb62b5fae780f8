package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/secret"
)

func newSecrets() *cobra.Command {
	return group(&cobra.Command{
		Use: "secrets", Short: "Manage the keys that seal the secrets of subscriptions in the database",
		Long: "Manage the keys that seal the secrets of subscriptions in the database (AES-256-GCM, a Tink keyset). Without a\n" +
			"key they stand in relay.subscriptions as they are; both forms can be read beside each other.\n\n" +
			"The first time: generate-key into a file that the relay alone may read, let secrets.key_file name it for every relay\n" +
			"and for this command, SIGHUP to every relay, then seal. Without the keys the secrets are lost: keep a copy of the\n" +
			"file, and not in the backup of the database.",
		Example: "  (umask 077 && relay secrets generate-key > /etc/relay/keys.json)\n  relay secrets seal --config /etc/relay/relay.yaml",
	}, newSecretsGenerateKey(), newSecretsRotateKey(), newSecretsSeal(), newSecretsDropKeys())
}

func newSecretsGenerateKey() *cobra.Command {
	return &cobra.Command{
		Use: "generate-key", Short: "Print a new keyset with one key", Args: cobra.NoArgs,
		Long:    "Print a new keyset with one key, as JSON in a line. It is the key itself: let nobody but the relay read the file.",
		Example: "  (umask 077 && relay secrets generate-key > /etc/relay/keys.json)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := secret.GenerateKeyset()
			if err != nil {
				return err
			}
			text, err := set.Text()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text.Reveal())
			return err
		},
	}
}

// keysetReport is what may be said of a keyset.
type keysetReport struct {
	File    string       `json:"file"`
	Primary uint32       `json:"primary"`
	Keys    []secret.Key `json:"keys"`
}

func reportKeyset(cmd *cobra.Command, output, line, path string, set *secret.Keyset) error {
	r := keysetReport{File: path, Keys: set.Keys()}
	for _, k := range r.Keys {
		if k.Primary {
			r.Primary = k.ID
		}
	}
	return say(cmd, output, line, r)
}

// keyFileFlag adds --key-file, and openKeyset reads what it names.
func keyFileFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "key-file", "", "`file` that holds the keyset, which is replaced in one step, for its owner alone")
}

func openKeyset(cmd *cobra.Command, path string) (*secret.Keyset, error) {
	if path == "" {
		return nil, usageError{errors.New("--key-file is required")}
	}
	if err := secret.Exposed(path); err != nil {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", err)
	}
	return secret.ReadKeyset(path)
}

func newSecretsRotateKey() *cobra.Command {
	var path, output string
	var stage, promote bool
	c := &cobra.Command{
		Use: "rotate-key", Short: "Add a key to a keyset file, which seals from then on", Args: cobra.NoArgs,
		Long: "Add a key to a keyset file, which seals from then on; the others go on opening what they sealed.\n\n" +
			"With one relay: rotate-key, SIGHUP to the relay, then `relay secrets seal`, and `relay secrets drop-keys` for the old\n" +
			"key. With several, each must be able to open what another one seals before that is sealed:\n\n" +
			"  1. rotate-key --stage adds the key without using it. Copy the file to every relay, and SIGHUP each\n" +
			"  2. rotate-key --promote lets the newest key seal. Copy the file to every relay, and SIGHUP each\n" +
			"  3. relay secrets seal, once\n" +
			"  4. relay secrets drop-keys. Copy the file to every relay, and SIGHUP each\n\n" +
			"A relay that meets a secret of a key that it does not have lets the events of that subscription wait, says so, and\n" +
			"goes on with them when it has the key.",
		Example: "  relay secrets rotate-key --key-file /etc/relay/keys.json\n  relay secrets rotate-key --key-file /etc/relay/keys.json --stage",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if stage && promote {
				return usageError{errors.New("--stage and --promote exclude each other: every relay has to have the key in between")}
			}
			set, err := openKeyset(cmd, path)
			if err != nil {
				return err
			}
			var id uint32
			line := "key %d is added and seals from now on; next: SIGHUP to the relay, `relay secrets seal`"
			if promote {
				line = "key %d seals from now on; next: the file to every relay, SIGHUP, `relay secrets seal`"
				set, id, err = set.Promote()
			} else {
				if stage {
					line = "key %d is added and does not seal yet; next: the file to every relay, SIGHUP, then --promote"
				}
				set, id, err = set.Add(!stage)
			}
			if err != nil {
				return err
			}
			if err := set.Replace(path); err != nil {
				return err
			}
			return reportKeyset(cmd, output, fmt.Sprintf(line, id), path, set)
		},
	}
	keyFileFlag(c, &path)
	c.Flags().BoolVar(&stage, "stage", false, "add the key without using it")
	c.Flags().BoolVar(&promote, "promote", false, "use the newest key, and add none")
	addOutput(c, &output)
	return c
}

func newSecretsSeal() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "seal", Short: "Seal every secret in the database with the primary key", Args: cobra.NoArgs,
		Long: "Seal every secret in the database with the primary key of secrets.key: those that stand there as they are, and\n" +
			"those of older keys. It may be stopped and run again, and run beside relays: to one that has the key nothing\n" +
			"changes. So give the keyset to every relay first. The exit code is 1 when a secret could not be opened.",
		Example: "  relay secrets seal --config /etc/relay/relay.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				if err := cfg.Require("secrets.key"); err != nil {
					return err
				}
				store, err := subscriptions(cmd, cfg, db)
				if err != nil {
					return err
				}
				r, err := store.Seal(ctx)
				if err != nil {
					return fmt.Errorf("%w (%d sealed before that; run it again)", err, r.Sealed)
				}
				for _, l := range r.Locked {
					_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "subscription %s: %s\n", l.SubscriptionID, l.Reason)
				}
				line := fmt.Sprintf("%d subscriptions sealed with key %d, %d were already", r.Sealed, r.Key, r.Already)
				if r.Moved > 0 {
					line += fmt.Sprintf(", %d were changed by others meanwhile: run it again", r.Moved)
				}
				if err := say(cmd, output, line, r); err != nil {
					return err
				}
				if len(r.Locked) > 0 {
					return fmt.Errorf("the secrets of %d subscriptions could not be opened, and stay as they are", len(r.Locked))
				}
				return nil
			})
		},
	}
	addOutput(c, &output)
	return c
}

func newSecretsDropKeys() *cobra.Command {
	var path, output string
	var really sure
	c := &cobra.Command{
		Use: "drop-keys", Short: "Remove from a keyset file the keys that nothing in the database is sealed with", Args: cobra.NoArgs,
		Long: "Remove from a keyset file the keys that nothing in the database is sealed with; the primary key stays. Run\n" +
			"`relay secrets seal` first. A backup of the database from before needs the old keys: keep a copy as long as you\n" +
			"keep that.",
		Example: "  relay secrets drop-keys --key-file /etc/relay/keys.json --yes",
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := openKeyset(cmd, path)
			if err != nil {
				return err
			}
			return withDatabase(cmd, func(ctx context.Context, cfg *config.Config, db *pgxpool.Pool) error {
				store, err := subscriptions(cmd, cfg, db)
				if err != nil {
					return err
				}
				used, err := store.KeysInUse(ctx)
				if err != nil {
					return err
				}
				kept, dropped, err := set.Keep(func(id uint32) bool { return used[id] > 0 })
				if err != nil {
					return err
				}
				line := "no key is dropped: all are in use"
				if len(dropped) > 0 {
					slices.Sort(dropped)
					list := strings.Trim(fmt.Sprint(dropped), "[]")
					if ok, err := really.ask(cmd, output, "backups that are sealed with key "+list+" cannot be read without a copy of the file"); !ok {
						return err
					}
					if err := kept.Replace(path); err != nil {
						return err
					}
					line = fmt.Sprintf("dropped key %s; next: the file to every relay, SIGHUP", list)
				}
				return reportKeyset(cmd, output, line, path, kept)
			})
		},
	}
	keyFileFlag(c, &path)
	really.flags(c)
	addOutput(c, &output)
	return c
}
