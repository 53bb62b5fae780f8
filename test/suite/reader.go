package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// failure is one thing that failed: a test, or what a package did outside of its tests. An empty package is a step that
// did not come to its tests.
type failure struct {
	Step, Package, Test string
	// Note says how, where it is not by the test's own judgement: a panic, a race, a time limit, no build.
	Note string
}

// String is the failure as a line of go test's kind: --- FAIL for a test, FAIL for the rest.
func (f failure) String() string {
	line := "FAIL\t" + f.Package
	switch {
	case f.Test != "":
		line = "--- FAIL: " + f.Package + " " + f.Test
	case f.Package == "":
		line = "FAIL\t" + f.Step
	}
	if f.Note != "" {
		line += " (" + f.Note + ")"
	}
	return line
}

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
}

// reader turns the events of one go test command into what the command prints without -json, and keeps the failures.
type reader struct {
	out      io.Writer
	verbose  bool
	packages map[string]*testedPackage
	failed   []failure
}

// testedPackage is what a package has printed and not ended yet. Output of a test is dropped when it passes.
type testedPackage struct {
	output []string // of no test
	tests  map[string]*runningTest
	order  []string
	failed []string
}

type runningTest struct {
	output []string
	paused bool
}

func newReader(out io.Writer, verbose bool) *reader {
	return &reader{out: out, verbose: verbose, packages: make(map[string]*testedPackage)}
}

func (r *reader) failures() []failure { return r.failed }

// read reads events to the end. Lines that are no events are printed.
func (r *reader) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		var e event
		switch {
		case line == "":
		case line[0] == '{' && json.Unmarshal([]byte(line), &e) == nil && e.Action != "":
			r.handle(e)
		default:
			fmt.Fprint(r.out, line)
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (r *reader) handle(e event) {
	if e.Package == "" { // build-output, build-fail
		fmt.Fprint(r.out, e.Output)
		return
	}
	p := r.packages[e.Package]
	if p == nil {
		p = &testedPackage{tests: make(map[string]*runningTest)}
		r.packages[e.Package] = p
	}
	if e.Test == "" {
		r.handlePackage(p, e)
		return
	}
	t := p.tests[e.Test]
	if t == nil {
		t = new(runningTest)
		p.tests[e.Test] = t
		p.order = append(p.order, e.Test)
	}
	switch e.Action {
	case "output":
		if r.verbose {
			fmt.Fprint(r.out, e.Output)
		}
		if !isFraming(e.Output) {
			t.output = append(t.output, e.Output)
		}
	case "pause":
		t.paused = true
	case "cont", "run":
		t.paused = false
	case "pass", "skip":
		// What comes after the verdict is of the test binary: a panic, or its time limit.
		for i, line := range t.output {
			if strings.HasPrefix(strings.TrimLeft(line, " "), "--- ") {
				p.output = append(p.output, t.output[i+1:]...)
				break
			}
		}
		p.forget(e.Test)
	case "fail":
		p.failed = append(p.failed, e.Test)
		note := ""
		if containsRace(t.output) {
			note = "data race"
		} else if cause := panicked.FindString(strings.Join(t.output, "")); cause != "" {
			note = cause
		}
		r.printTest(t)
		// A parent fails with its subtests; the subtests are the names.
		if !slices.ContainsFunc(p.failed, func(name string) bool { return strings.HasPrefix(name, e.Test+"/") }) || note != "" {
			r.failed = append(r.failed, failure{Package: e.Package, Test: e.Test, Note: note})
		}
		p.forget(e.Test)
	}
}

func (p *testedPackage) forget(test string) {
	delete(p.tests, test)
	p.order = slices.DeleteFunc(p.order, func(name string) bool { return name == test })
}

// printTest prints the output of a test that failed or did not end, its verdict first, as go test does.
func (r *reader) printTest(t *runningTest) {
	if r.verbose {
		return
	}
	for _, verdict := range []bool{true, false} {
		for _, line := range t.output {
			if strings.HasPrefix(strings.TrimLeft(line, " "), "--- FAIL") == verdict {
				fmt.Fprint(r.out, line)
			}
		}
	}
}

var (
	timedOut = regexp.MustCompile(`(?m)^panic: test timed out after (\S+)`)
	running  = regexp.MustCompile(`(?m)^\t\t(Test\S+|Fuzz\S+|Example\S*) \(\S+\)$`)
	panicked = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*|SIGQUIT: .*|signal: .*)$`)
)

func (r *reader) handlePackage(p *testedPackage, e event) {
	switch e.Action {
	case "output":
		if r.verbose {
			fmt.Fprint(r.out, e.Output)
		}
		p.output = append(p.output, e.Output)
	case "pass", "skip":
		if !r.verbose {
			// go test says nothing else of a package that passed.
			for _, line := range p.output {
				if strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "?   \t") {
					fmt.Fprint(r.out, line)
				}
			}
		}
		delete(r.packages, e.Package)
	case "fail":
		r.failPackage(p, e)
		delete(r.packages, e.Package)
	}
}

// failPackage names what a package failed of besides the tests that say so themselves: the build, tests that did not end,
// and what happened outside of tests.
func (r *reader) failPackage(p *testedPackage, e event) {
	var said strings.Builder
	for _, name := range p.order {
		for _, line := range p.tests[name].output {
			said.WriteString(line)
		}
		r.printTest(p.tests[name])
	}
	for _, line := range p.output {
		said.WriteString(line)
		if !r.verbose {
			fmt.Fprint(r.out, line)
		}
	}
	text := said.String()
	before := len(r.failed)
	name := func(test, note string) {
		r.failed = append(r.failed, failure{Package: e.Package, Test: test, Note: note})
	}
	timeout := timedOut.FindStringSubmatch(text)
	cause := panicked.FindString(text)
	switch {
	case e.FailedBuild != "":
		name("", "build failed")
	case timeout != nil:
		_, list, _ := strings.Cut(text, "running tests:\n")
		list, _, _ = strings.Cut(list, "\n\n")
		var names []string
		for _, m := range running.FindAllStringSubmatch(list, -1) {
			names = append(names, m[1])
		}
		for _, test := range leaves(names) {
			name(test, "running when the package timed out after "+timeout[1])
		}
	default:
		note := "did not end"
		if cause != "" {
			note += ": " + cause
		}
		for _, test := range leaves(p.order) {
			if !p.tests[test].paused {
				name(test, note)
			}
		}
	}
	if len(r.failed) == before && (len(p.failed) == 0 || timeout != nil) {
		note := cause
		switch {
		case timeout != nil:
			note = "timed out after " + timeout[1]
		case containsRace(p.output):
			note = "data race outside of a test"
		case strings.Contains(text, "[setup failed]"):
			note = "setup failed"
		}
		name("", note)
	}
}

// leaves leaves out tests of which a subtest is there.
func leaves(tests []string) []string {
	return slices.DeleteFunc(slices.Clone(tests), func(name string) bool {
		return slices.ContainsFunc(tests, func(other string) bool { return strings.HasPrefix(other, name+"/") })
	})
}

func containsRace(output []string) bool {
	return slices.ContainsFunc(output, func(line string) bool { return strings.Contains(line, "WARNING: DATA RACE") })
}

// isFraming reports whether a line is only there because -json makes the tests verbose.
func isFraming(line string) bool {
	for _, mark := range []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME"} {
		if strings.HasPrefix(strings.TrimLeft(line, " "), mark) {
			return true
		}
	}
	return false
}
