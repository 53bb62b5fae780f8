package duration

import (
	"math"
	"testing"
	"time"
)

func TestParse_KnowsDaysAndWeeks(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"250ms": 250 * time.Millisecond, "15s": 15 * time.Second, "1h30m": 90 * time.Minute, "0s": 0, "1.5s": 1500 * time.Millisecond,
		"2d": 48 * time.Hour, "90d": 90 * Day, "1.5d": 36 * time.Hour, "2w": 14 * Day, "1w2d3h": 9*Day + 3*time.Hour, "0d": 0, ".5d": 12 * time.Hour,
		"-1h": -time.Hour, "2562047h": 2562047 * time.Hour,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "15", "1.5", "x", "d", "1y", "-1d", "-1d2h", "1d-2h", "90 d", "1e3d", "nan", "99999999999999d", "106751d24h24h24h", "1d2", "1.2.3d"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: got %s, want it refused", text, got)
		}
	}
}

func TestFormat_ParsesAgain(t *testing.T) {
	for d, want := range map[time.Duration]string{168 * time.Hour: "168h", 90 * time.Minute: "1h30m", 0: "0s", 1500 * time.Millisecond: "1.5s", math.MaxInt64: "2562047h47m16.854775807s"} {
		if got := Format(d); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got, err := Parse(Format(d)); err != nil || got != d {
			t.Errorf("%s: got %s, %v", d, got, err)
		}
	}
}
