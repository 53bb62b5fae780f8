// Command ledger tries to break the promises of the relay, and tells whether it has.
//
// It runs the built binary against a PostgreSQL server of its own, under writers that keep a shadow of the outbox,
// receivers that write down what they got before they answer, and a nemesis that kills, freezes, cuts and restarts.
// Then it lets all of it come to rest and compares. Everything that was seen lies in a report, which can be checked
// again: see docs/reliability.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/test/ledger/check"
	"github.com/outbox-relay/relay/test/ledger/history"
	"github.com/outbox-relay/relay/test/process"
)

// Exit codes.
const (
	codeFailed = 1 // the run could not be made
	codeUsage  = 2
	codeBroken = 4 // a promise was broken
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(ledger(ctx, os.Args[1:], os.Stdout))
}

func ledger(ctx context.Context, args []string, out io.Writer) int {
	if len(args) > 0 && args[0] == "recheck" {
		return recheck(args[1:], out)
	}
	if len(args) > 0 && args[0] == "mutants" {
		return runMutants(ctx, args[1:], out)
	}
	flags := flag.NewFlagSet("ledger", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprint(out, "usage: ledger [flags] | ledger recheck DIR | ledger mutants [flags]\n\n")
		flags.PrintDefaults()
	}
	seed := flags.Uint64("seed", 0, "number that decides what is done; 0: by the clock, and printed")
	length := flags.Duration("for", 3*time.Minute, "how long writers write")
	name := flags.String("profile", "soak", "what is done: "+strings.Join(slices.Sorted(maps.Keys(profiles())), ", "))
	report := flags.String("report", "", "directory for the report, which is kept; empty: kept only when something is wrong")
	rate := flags.Float64("rate", 250, "events a second")
	writers := flags.Int("writers", 8, "writers")
	keys := flags.Int("keys", 12, "ordering keys of each tenant")
	drain := flags.Duration("drain", 2*time.Minute, "longest time until all has come to rest")
	binary := flags.String("binary", os.Getenv("RELAY_E2E_BINARY"), "relay to test; empty: built for the run, with the race detector")
	defect := flags.String("defect", "", "defect to plant into the relay (a binary with the tag faultpoints)")
	if err := flags.Parse(args); err != nil {
		return codeUsage
	}
	p, ok := profiles()[*name]
	if !ok || flags.NArg() > 0 {
		flags.Usage()
		return codeUsage
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	fmt.Fprintf(out, "ledger: seed %d\n", *seed)
	work, err := newWorkplace(*report, *binary, out)
	if err != nil {
		fmt.Fprintln(out, err)
		return codeFailed
	}
	defer work.close()
	result, err := run(ctx, options{Seed: *seed, For: *length, Profile: p, Binary: work.binary, Dir: work.report, Rate: *rate,
		Writers: *writers, Keys: *keys, Drain: *drain, Defect: *defect, BinDir: os.Getenv(pgcluster.BinDirEnv),
		Log: func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }})
	if err != nil {
		work.keep = true
		fmt.Fprintln(out, "ledger:", err)
		return codeFailed
	}
	return work.judge(result)
}

// workplace is where a run lies: the binary and the report.
type workplace struct {
	out    io.Writer
	dir    string // removed in the end
	report string
	binary string
	keep   bool
}

func newWorkplace(report, binary string, out io.Writer) (*workplace, error) {
	w := &workplace{out: out, report: report, binary: binary, keep: report != ""}
	var err error
	if w.dir, err = os.MkdirTemp("", "relay-ledger-"); err != nil {
		return nil, fmt.Errorf("make a directory for the run: %w", err)
	}
	if w.report == "" {
		w.report = filepath.Join(w.dir, "report")
	}
	if err := os.MkdirAll(w.report, 0o700); err != nil {
		return nil, fmt.Errorf("make the report: %w", err)
	}
	if left, err := os.ReadDir(w.report); err != nil || len(left) > 0 {
		return nil, errors.Join(fmt.Errorf("the report %s is not empty", w.report), err)
	}
	if w.binary == "" {
		w.binary = filepath.Join(w.dir, "relay")
		if err := process.Build(w.binary, nil, "-race", "-tags", "faultpoints"); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *workplace) close() {
	if w.keep && strings.HasPrefix(w.report, w.dir) {
		fmt.Fprintf(w.out, "report: %s\n", w.report)
		_ = os.Remove(filepath.Join(w.dir, "relay"))
		return
	}
	_ = os.RemoveAll(w.dir)
}

// judge prints a result and turns it into an exit code.
func (w *workplace) judge(result *check.Result) int {
	result.Print(w.out)
	if len(result.Violations) > 0 {
		w.keep = true
		return codeBroken
	}
	return 0
}

// recheck judges a kept report.
func recheck(args []string, out io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(out, "usage: ledger recheck DIR")
		return codeUsage
	}
	h, err := history.Load(args[0])
	if err != nil {
		fmt.Fprintln(out, "ledger:", err)
		return codeFailed
	}
	result := check.Check(h)
	result.Print(out)
	if len(result.Violations) > 0 {
		return codeBroken
	}
	return 0
}
