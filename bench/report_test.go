package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestQuantile_TakesAValueThatWasMeasured(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		sorted []float64
		q      float64
		want   float64
	}{
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred, 0, 1},
		{[]float64{7}, 0.5, 7}, {[]float64{7}, 0.99, 7}, {[]float64{1, 2}, 0.99, 2}, {nil, 0.5, 0},
	} {
		if got := quantile(c.sorted, c.q); got != c.want {
			t.Errorf("quantile %g of %d values is %g, expected %g", c.q, len(c.sorted), got, c.want)
		}
	}
}

func TestMedianOf_IsTheMiddleOfTheRounds(t *testing.T) {
	t.Parallel()
	self := func(v float64) float64 { return v }
	for _, c := range []struct {
		rounds []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1}, 2.5}, {nil, 0}} {
		if got := medianOf(c.rounds, self); got != c.want {
			t.Errorf("median of %v is %g, expected %g", c.rounds, got, c.want)
		}
	}
}

func TestPerSecond_CountsFromTheFirstReceiptToTheLast(t *testing.T) {
	t.Parallel()
	a := arrivals{First: map[string]int64{"a": 1e9, "b": 15e8, "c": 3e9}}
	if got := perSecond(a); got != 1 {
		t.Errorf("3 events within 2 s are %g/s, expected 1", got)
	}
}

func TestReport_ShowsEachFigureBesideItsGoal(t *testing.T) {
	t.Parallel()
	var r report
	r.add(figure{Name: "speed", Unit: "events/s", Relay: 7000, Pipe: 10000}.atLeast(0.6))
	r.add(figure{Name: "p99", Unit: "ms", Relay: 9, Pipe: 3}.atMostTimes(2))
	r.add(figure{Name: "peak", Unit: "MiB", Relay: 40.26}.atMost(64))
	r.add(figure{Name: "rows", Unit: "rows/s", Relay: 19000}.noLess(20000))
	r.add(figure{Name: "repeats"})
	var b bytes.Buffer
	r.print(&b)
	for _, want := range []string{"speed (events/s)|7000|10000|0.70|>= 0.6 x = 6000|ok", "p99 (ms)|9.00|3.00|3.00|<= 2 x = 6.00|MISSED",
		"peak (MiB)|40.3|<= 64|ok", "rows (rows/s)|19000|>= 20000|MISSED", "repeats|0"} {
		found := false
		for line := range strings.Lines(b.String()) {
			found = found || strings.Join(cells(line), "|") == want
		}
		if !found {
			t.Errorf("no line %s in\n%s", want, b.String())
		}
	}
}

// cells splits a line of the table where there are two spaces or more.
func cells(line string) []string {
	var out []string
	for _, cell := range strings.Split(line, "  ") {
		if cell = strings.TrimSpace(cell); cell != "" {
			out = append(out, cell)
		}
	}
	return out
}

func TestParse_RefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--only", "drains"}, {"--only", ""}, {"-o", "yaml"}, {"--events", "1"}, {"--rate", "0"}, {"--gap", "99"}, {"extra"}} {
		if _, err := parse(args); !errors.Is(err, errUsage) {
			t.Errorf("%v: error is %v", args, err)
		}
	}
	if o, err := parse([]string{"--only", "idle,drain"}); err != nil || len(o.only) != 2 {
		t.Errorf("--only idle,drain gives %v, %v", o.only, err)
	}
}
