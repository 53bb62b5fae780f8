package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// machine says where the figures come from.
type machine struct {
	Date       string `json:"date"`
	OS         string `json:"os"`
	Cores      int    `json:"cores"`
	Processor  string `json:"processor,omitempty"`
	Load       string `json:"load,omitempty"` // average over a minute before the run, what other programs do
	PostgreSQL string `json:"postgresql"`
	Go         string `json:"go"`
	Commit     string `json:"commit,omitempty"`
}

// figure is one row of the result. Pipe is the figure that stands beside: of the bare path, or of the relay without
// trouble. Zero means that there is none, an empty Goal that
// there is none.
type figure struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit,omitempty"`
	Relay float64 `json:"relay"`
	Pipe  float64 `json:"pipe,omitempty"`
	Goal  string  `json:"goal,omitempty"`
	Met   bool    `json:"met,omitempty"`
}

// atLeast sets the goal of a share of the bare path.
func (f figure) atLeast(share float64) figure {
	f.Goal, f.Met = fmt.Sprintf(">= %g x = %s", share, number(share*f.Pipe)), f.Relay >= share*f.Pipe
	return f
}

// atMostTimes sets the goal of a multiple of the bare path.
func (f figure) atMostTimes(times float64) figure {
	f.Goal, f.Met = fmt.Sprintf("<= %g x = %s", times, number(times*f.Pipe)), f.Relay <= times*f.Pipe
	return f
}

// atMost sets an absolute goal.
func (f figure) atMost(limit float64) figure {
	f.Goal, f.Met = fmt.Sprintf("<= %g", limit), f.Relay <= limit
	return f
}

// noLess sets an absolute goal.
func (f figure) noLess(limit float64) figure {
	f.Goal, f.Met = fmt.Sprintf(">= %g", limit), f.Relay >= limit
	return f
}

// report is the result of a run.
type report struct {
	Machine machine  `json:"machine"`
	Rounds  int      `json:"rounds"`
	Figures []figure `json:"figures"`
}

func (r *report) add(f figure) { r.Figures = append(r.Figures, f) }

func (r *report) print(w io.Writer) {
	m := r.Machine
	rows := [][]string{{"", "relay", "beside", "ratio", "goal", ""}}
	for _, f := range r.Figures {
		bare, ratio, verdict := "", "", ""
		if f.Pipe != 0 {
			bare, ratio = number(f.Pipe), strconv.FormatFloat(f.Relay/f.Pipe, 'f', 2, 64)
		}
		if f.Goal != "" {
			verdict = "MISSED"
			if f.Met {
				verdict = "ok"
			}
		}
		name := f.Name
		if f.Unit != "" {
			name += " (" + f.Unit + ")"
		}
		rows = append(rows, []string{name, number(f.Relay), bare, ratio, f.Goal, verdict})
	}
	var about []string
	for _, part := range []string{m.Date + " UTC", m.OS, fmt.Sprintf("%d cores", m.Cores), m.Processor, "PostgreSQL " + m.PostgreSQL, m.Go, m.Commit} {
		if part != "" {
			about = append(about, part)
		}
	}
	fmt.Fprintf(w, "\n%s\n", strings.Join(about, ", "))
	if m.Load != "" {
		fmt.Fprintf(w, "load before the run: %s\n", m.Load)
	}
	if r.Rounds > 1 {
		fmt.Fprintf(w, "medians of %d rounds, latencies pooled\n", r.Rounds)
	}
	fmt.Fprintln(w)
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 || i > 3 {
				line.WriteString(cell + pad + "  ")
			} else {
				line.WriteString(pad + cell + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// write keeps the report as JSON.
func (r *report) write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}

// number shows three digits, or all before the point.
func number(v float64) string {
	if math.Abs(v) >= 100 || v == 0 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// quantile takes from sorted values the one below which a share q of them lies; q 1 is the largest. Without values it
// is 0.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// medianOf is the median of one figure over all rounds; of two it is the mean.
func medianOf[T any](rounds []T, of func(T) float64) float64 {
	var v []float64
	for _, r := range rounds {
		v = append(v, of(r))
	}
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
