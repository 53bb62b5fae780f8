//go:build faultpoints

package faultpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Enabled tells whether this build can be hurt.
const Enabled = true

// ExitCode is what the relay ends with at a point whose action is exit.
const ExitCode = 86

// action is what happens at a point.
type action struct {
	kind  string
	sleep time.Duration
	at    int64 // number of the passing
	again bool  // and at each later one
	seen  atomic.Int64
}

var (
	actions = mustParse(os.Getenv("RELAY_FAULTPOINTS"))
	planted = mustKnow(Defect(os.Getenv("RELAY_DEFECT")))
)

func mustParse(text string) map[Point]*action {
	found, err := parse(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, "RELAY_FAULTPOINTS:", err)
		os.Exit(2)
	}
	return found
}

func mustKnow(d Defect) Defect {
	if d != "" && !slices.Contains(Defects(), d) {
		fmt.Fprintf(os.Stderr, "RELAY_DEFECT: there is no defect %q\n", d)
		os.Exit(2)
	}
	return d
}

// parse reads point=action[:duration]@number[+], separated by semicolons.
func parse(text string) (map[Point]*action, error) {
	found := make(map[Point]*action)
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, rest, _ := strings.Cut(part, "=")
		if !slices.Contains(Points(), Point(name)) {
			return nil, fmt.Errorf("there is no point %q", name)
		}
		what, number, counted := strings.Cut(rest, "@")
		a := &action{at: 1}
		if counted {
			number, a.again = strings.CutSuffix(number, "+")
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("%q: the number of a passing is 1 or more", part)
			}
			a.at = n
		}
		kind, duration, timed := strings.Cut(what, ":")
		a.kind = kind
		switch {
		case kind == "sleep" && timed:
			var err error
			if a.sleep, err = time.ParseDuration(duration); err != nil {
				return nil, fmt.Errorf("%q: %w", part, err)
			}
		case timed || kind != "exit" && kind != "panic" && kind != "error":
			return nil, fmt.Errorf("%q: the action is exit, panic, error or sleep:DURATION", part)
		}
		found[Point(name)] = a
	}
	return found, nil
}

// due tells whether this passing is the one, or one of those.
func (a *action) due() bool {
	n := a.seen.Add(1)
	return n == a.at || a.again && n > a.at
}

// Hit is a place that a test may choose.
func Hit(p Point) { _ = Fail(p, nil) }

// Fail is Hit where an error can be returned: it returns err, or the error that the test wants.
func Fail(p Point, err error) error {
	a := actions[p]
	if a == nil || !a.due() {
		return err
	}
	switch a.kind {
	case "exit":
		os.Exit(ExitCode)
	case "panic":
		panic("fault point " + string(p))
	case "sleep":
		time.Sleep(a.sleep)
	case "error":
		return fmt.Errorf("fault point %s", p)
	}
	return err
}

// Planted tells whether a defect is planted.
func Planted(d Defect) bool { return d == planted }
