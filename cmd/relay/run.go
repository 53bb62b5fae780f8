package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
)

// gcPercent is Go's GOGC when the environment does not set it. Little is alive while
// deliveries flow, so a larger share of garbage costs some 10 MiB, and spares a tenth of the
// processor time that Go's 100 costs.
const gcPercent = 175

func newRun() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the daemon",
		Long: "Run the daemon: stream the outbox, deliver, retry, record.\n\n" +
			"SIGTERM or Ctrl-C drains and stops; a second one stops at once. SIGHUP reads the configuration\n" +
			"again: a faulty one is refused with its faults, and the old one stays in force. SIGPIPE is ignored:\n" +
			"log lines that nobody takes are counted in relay_log_dropped_total.\n" +
			"A second instance waits until the first one is gone, and takes over.",
		Example: "  relay run --config /etc/relay/relay.yaml\n  RELAY_DATABASE_URL=postgres://relay@db/app relay run",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, "database.url")
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(gcPercent)
			}
			// Go ends a program that writes to a standard stream without a reader. The reader of a log may come and go.
			signal.Ignore(syscall.SIGPIPE)
			lines := newLogQueue(os.Stderr)
			log, level := newLog(lines, isTerminal(os.Stderr), cfg.Log)
			catchLibraryLog(log)
			lines.tell = func(n int64) { log.Warn("log lines dropped, because the log did not take them", "lines", n) }
			go lines.run()
			defer lines.close(2 * time.Second)
			d, err := daemon.New(daemon.Options{Config: cfg, Log: log, Level: level, Version: version,
				LogDropped: lines.dropped.Load,
				Reload:     func() (*config.Config, error) { return loadConfig(cmd, "database.url") }})
			if err != nil {
				return err
			}
			log.Info("relay starts", "version", version, "config", cfg.File(), "http", d.Addr(), "api", d.APIAddr())
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			reloads, stop := context.WithCancel(cmd.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					select {
					case <-reloads.Done():
						return
					case <-hup:
						if err := d.Reload(); err != nil {
							log.Error("configuration not reloaded, the old one stays in force", "error", err)
						}
					}
				}
			}()
			err = d.Run(cmd.Context())
			stop()
			<-done
			if errors.Is(err, context.Canceled) {
				err = nil
			}
			log.Info("relay stopped")
			return err
		},
	}
}
