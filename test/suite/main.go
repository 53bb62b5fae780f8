// Command suite runs go test commands one after the other, also after one of them has failed, and ends with the names of
// what failed.
//
//	suite [-runs N] [-load] -- go test ./... [-- go test -tags faultpoints ./internal/faultpoint]...
//
// Each command is a step. What it prints is what `go test` prints: the output of the tests that failed and a line for each
// package. With -load, another process keeps every core busy for as long as the tests run. With -runs, all steps are run
// N times, and a table of the runs comes before the names. It exits with 1 when anything failed, 2 when it was called
// wrongly, and 130 when it was interrupted.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == burnArgument {
		burn(os.Stdin)
		return
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// pass is one run of all steps.
type pass struct {
	took     time.Duration
	failures []failure
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("suite", flag.ContinueOnError)
	flags.SetOutput(stderr)
	runs := flags.Int("runs", 1, "how many times all steps are run")
	load := flags.Bool("load", false, "keep every core busy while the tests run")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	steps, err := split(flags.Args())
	if err == nil && *runs < 1 {
		err = errors.New("-runs must be at least 1")
	}
	if err != nil {
		fmt.Fprintln(stderr, "suite:", err)
		return 2
	}

	// Ctrl-C ends the tests, and this program says how far they came. The go command and its tests are a process group of
	// their own, so that SIGTERM, which the go command would not hand on, ends them as well.
	var interrupted atomic.Bool
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	current := new(atomic.Pointer[os.Process])
	go func() {
		for range signals {
			interrupted.Store(true)
			if p := current.Load(); p != nil {
				_ = syscall.Kill(-p.Pid, syscall.SIGINT) // it may have ended
			}
		}
	}()

	if *load {
		stop, err := startLoad()
		if err != nil {
			fmt.Fprintln(stderr, "suite:", err)
			return 1
		}
		defer stop()
		fmt.Fprintf(stdout, "load: %d busy cores\n", runtime.NumCPU())
	}
	var passes []pass
	for n := 1; n <= *runs && !interrupted.Load(); n++ {
		if *runs > 1 {
			fmt.Fprintf(stdout, "== run %d of %d\n", n, *runs)
		}
		began := time.Now()
		var p pass
		for _, step := range steps {
			if interrupted.Load() {
				break
			}
			if len(steps) > 1 {
				fmt.Fprintf(stdout, "# %s\n", strings.Join(step, " "))
			}
			failures, err := runStep(step, stdout, stderr, current)
			if err != nil {
				failures = append(failures, failure{Note: err.Error()})
			}
			for _, f := range failures {
				f.Step = strings.Join(step, " ")
				p.failures = append(p.failures, f)
			}
		}
		p.took = time.Since(began)
		passes = append(passes, p)
	}
	failed := report(stdout, steps, passes, *runs)
	switch {
	case interrupted.Load():
		fmt.Fprintln(stdout, "FAIL\tinterrupted")
		return 130
	case failed:
		return 1
	}
	return 0
}

// split cuts arguments at each "--" into commands.
func split(args []string) ([][]string, error) {
	var steps [][]string
	for {
		end := slices.Index(args, "--")
		step := args
		if end >= 0 {
			step = args[:end]
		}
		if !slices.Contains(step, "test") {
			return nil, fmt.Errorf("step %q is no go test command", strings.Join(step, " "))
		}
		steps = append(steps, step)
		if end < 0 {
			return steps, nil
		}
		args = args[end+1:]
	}
}

// runStep runs one go test command, prints what it says, and returns what failed.
func runStep(step []string, stdout, stderr io.Writer, current *atomic.Pointer[os.Process]) ([]failure, error) {
	at := slices.Index(step, "test") + 1 // after "go", and what may come before it, as in env RELAY_PG_BIN=/path go test
	args := slices.Insert(slices.Clone(step), at, "-json")
	cmd := exec.Command(args[0], args[1:]...) // #nosec G204 -- the Makefile says what to run
	cmd.Stderr = stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	current.Store(cmd.Process)
	defer current.Store(nil)
	r := newReader(stdout, slices.Contains(step, "-v"))
	readErr := r.read(out)
	failures := r.failures()
	err = cmd.Wait()
	switch {
	case readErr != nil:
		return failures, readErr
	case err != nil && len(failures) == 0: // a flag that go test does not know, no packages: it said so on stderr
		return failures, err
	}
	return failures, nil
}

// report prints a table of the runs, when there were several, and the names of what failed in the form that go test has.
// It reports whether anything failed.
func report(out io.Writer, steps [][]string, passes []pass, runs int) bool {
	type entry struct {
		failure
		runs []int
	}
	var all []*entry
	for n, p := range passes {
		for _, f := range p.failures {
			i := slices.IndexFunc(all, func(e *entry) bool {
				return e.Step == f.Step && e.Package == f.Package && e.Test == f.Test && e.Note == f.Note
			})
			if i < 0 {
				all = append(all, &entry{failure: f})
				i = len(all) - 1
			}
			all[i].runs = append(all[i].runs, n+1)
		}
	}
	if runs > 1 {
		fmt.Fprintf(out, "\n%-6s %-10s %s\n", "run", "took", "result")
		for n, p := range passes {
			result := "ok"
			if len(p.failures) > 0 {
				result = fmt.Sprintf("FAIL, %d named below", len(p.failures))
			}
			fmt.Fprintf(out, "%-6d %-10s %s\n", n+1, p.took.Round(time.Second), result)
		}
	}
	if len(all) == 0 {
		return false
	}
	fmt.Fprintln(out, "\nwhat failed:")
	for _, step := range steps {
		name := strings.Join(step, " ")
		said := len(steps) == 1
		for _, e := range all {
			if e.Step != name {
				continue
			}
			if !said {
				fmt.Fprintf(out, "# %s\n", name)
				said = true
			}
			line := e.String()
			if runs > 1 {
				line += " in run " + strings.Trim(strings.ReplaceAll(fmt.Sprint(e.runs), " ", ", "), "[]")
			}
			fmt.Fprintln(out, line)
		}
	}
	fmt.Fprintln(out, "FAIL")
	return true
}
