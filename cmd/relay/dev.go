package main

import (
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/dev"
)

func newDev() *cobra.Command {
	o := dev.Options{LogLevel: slog.LevelWarn, Version: version}
	c := &cobra.Command{
		Use:   "dev",
		Short: "Watch it work: a throw-away PostgreSQL, the relay, a receiver and example modules",
		Long: "Start a throw-away PostgreSQL, the relay, a receiver that verifies signatures, and the example\n" +
			"modules, and show each row committed and each webhook arriving. Nothing of it stays.\n\n" +
			"With --exit-after it stops by itself, and the exit code is 0 only if every committed event\n" +
			"arrived and verified. It needs PostgreSQL's server binaries, and no running server.",
		Example: "  relay dev\n  relay dev --exit-after 20s",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Out = cmd.OutOrStdout()
			// When nobody watches any more, what was started is stopped and removed.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGPIPE)
			defer stop()
			return dev.Run(ctx, o)
		},
	}
	durationFlag(c.Flags(), &o.ExitAfter, "exit-after", 0, "stop by itself after this time")
	durationFlag(c.Flags(), &o.Every, "every", time.Second, "time between two calls of the example modules; 0 for none")
	return c
}
