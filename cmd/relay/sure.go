package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// sure keeps a command from destroying anything that was not meant. All commands that destroy something have it.
type sure struct{ yes, dryRun bool }

func (s *sure) flags(c *cobra.Command) {
	c.Flags().BoolVar(&s.yes, "yes", false, "really; without it nothing is changed")
	c.Flags().BoolVar(&s.dryRun, "dry-run", false, "only tell what would be lost")
	before := c.PreRunE
	c.PreRunE = func(cmd *cobra.Command, args []string) error {
		if s.yes && s.dryRun {
			return usageError{errors.New("--dry-run and --yes exclude each other")}
		}
		if before != nil {
			return before(cmd, args)
		}
		return nil
	}
}

// ask reports whether to go on. lost says what would be lost, which is printed for --dry-run, and is the error without --yes.
func (s *sure) ask(cmd *cobra.Command, output, lost string) (bool, error) {
	switch {
	case s.dryRun:
		return false, say(cmd, output, lost, map[string]any{"dry_run": true, "would": lost})
	case !s.yes:
		return false, usageError{fmt.Errorf("%s: add --yes", lost)}
	}
	return true, nil
}
