// Package duration reads and writes lengths of time as people do: 250ms, 15s, 1h30m, 90d.
package duration

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Day and Week have always the same length here: no calendar and no summer time is looked at.
const (
	Day  = 24 * time.Hour
	Week = 7 * Day
)

// long is a part of a duration whose unit time.ParseDuration does not know.
var long = regexp.MustCompile(`([0-9]*\.?[0-9]+)([dw])`)

// Parse reads a duration: numbers, each with its unit, out of ns, us, ms, s, m, h, d and w.
func Parse(s string) (time.Duration, error) {
	wrong := fmt.Errorf("%q: expected a duration such as 250ms, 15s, 12h or 90d", s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], "0123456789.") { // a unit is missing, or everything
		return 0, wrong
	}
	total := 0.0
	for _, part := range long.FindAllStringSubmatch(s, -1) {
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0, wrong
		}
		unit := Day
		if part[2] == "w" {
			unit = Week
		}
		total += n * float64(unit)
	}
	rest := long.ReplaceAllString(s, "")
	if rest == "" {
		if total > math.MaxInt64-float64(Day) {
			return 0, wrong
		}
		return time.Duration(total), nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || rest != s && (d < 0 || strings.ContainsAny(rest, "+-")) || total+float64(d) > math.MaxInt64-float64(Day) && rest != s {
		return 0, wrong
	}
	return time.Duration(total) + d, nil
}

// Format is String without the zero units at its end: 168h, not 168h0m0s.
func Format(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
