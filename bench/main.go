// Command bench measures the whole path, from commit to receipt, beside the limit of the same machine in the same
// run.
//
// Each scenario runs twice: with the relay, and with `pipe`, a bare pgoutput reader that feeds 64 workers of a bare
// signed POST loop, without matching, order or records. PostgreSQL (with fsync), the measured program and the
// receiver are processes of their own; the writers live in this one. A figure says something beside the other one of
// its row; alone it is a figure of this machine. docs/performance.md tells what is measured, and how.
//
// A goal that is missed is a result, and the exit code is 0. It is 1 when something broke or an event was lost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errUsage says that the command line was wrong.
var errUsage = errors.New("wrong usage")

// scenarios are what --only chooses from, in the order in which they run.
var scenarios = []string{"drain", "steady", "idle", "isolation", "rescue", "api"}

// usual are those that run unless something else is asked for: the others take minutes.
var usual = scenarios[:3]

// options are the command line.
type options struct {
	only   []string
	events int // rows of the backlog
	gap    int // rows that a rescue reads
	// deliveries on record that the tenants' API is called over
	deliveries int
	rate       int           // rows a second of the steady load
	seconds    int           // length of the steady load and of the idle time
	writers    int           // connections that write
	rounds     int           // how often drain and steady are run; figures are medians, latencies pooled
	limit      time.Duration // upper bound of the whole run
	output     string
	file       string // what -o json writes
	trouble    string // part of the names of isolation's troubles that are run
	profile    string // folder for what perf records of the relay
	verbose    bool
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := f.String("only", strings.Join(usual, ","), "scenarios to run, of "+strings.Join(scenarios, ","))
	f.IntVar(&o.events, "events", 50000, "rows to drain")
	f.IntVar(&o.gap, "gap", 200_000, "rows that a rescue reads")
	f.IntVar(&o.deliveries, "deliveries", 10_000_000, "deliveries on record that the tenants' API is called over")
	f.IntVar(&o.rate, "rate", 500, "rows a second of the steady load")
	f.IntVar(&o.seconds, "seconds", 20, "length of the steady load and of the idle time")
	f.IntVar(&o.writers, "writers", 4, "connections that write")
	f.IntVar(&o.rounds, "rounds", 1, "how often drain and steady run, relay and pipe in turns")
	f.DurationVar(&o.limit, "limit", 15*time.Minute, "give up after this time")
	f.StringVar(&o.output, "o", "text", "json writes the figures to a file too")
	f.StringVar(&o.file, "file", filepath.Join("bin", "bench.json"), "the file that -o json writes")
	f.StringVar(&o.trouble, "trouble", "", "of isolation, only the load without trouble and the troubles whose name has this in it")
	f.StringVar(&o.profile, "profile", "", "record the relay with perf (Linux) into this folder")
	f.BoolVar(&o.verbose, "v", false, "show what the relay logs")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, fmt.Errorf("%w: %w", errUsage, err)
	}
	for _, name := range strings.Split(*only, ",") {
		if !slices.Contains(scenarios, name) {
			return o, fmt.Errorf("%w: --only %s: expected a list of %s", errUsage, name, strings.Join(scenarios, ", "))
		}
		o.only = append(o.only, name)
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%w: unexpected argument %s", errUsage, f.Arg(0))
	case o.output != "text" && o.output != "json":
		return o, fmt.Errorf("%w: -o %s: expected text or json", errUsage, o.output)
	case min(o.rate, o.seconds, o.writers, o.rounds) < 1 || o.events < 2 || o.gap < 100 || o.deliveries < 1000*apiDays:
		return o, fmt.Errorf("%w: numbers must be positive", errUsage)
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	// The bench runs itself for the processes that it measures with.
	switch {
	case len(args) == 1 && args[0] == "receiver":
		return receive(ctx)
	case len(args) == 4 && args[0] == "pipe":
		return pipe(ctx, args[1], args[2], args[3])
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("not done within %s", o.limit))
	defer cancel()
	b := &bench{options: o}
	err = errors.Join(b.all(ctx), b.close())
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	if err != nil {
		return err
	}
	b.report.print(os.Stdout)
	if o.output == "json" {
		if err := b.report.write(o.file); err != nil {
			return err
		}
		fmt.Printf("\nwritten to %s\n", o.file)
	}
	return nil
}
