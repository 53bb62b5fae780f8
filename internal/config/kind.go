package config

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	durations "github.com/outbox-relay/relay/internal/duration"
	secrets "github.com/outbox-relay/relay/internal/secret"
)

// mismatch is why a text is not a value of a kind. Empty fields leave what the kind says by itself.
type mismatch struct {
	got      string // instead of the quoted text
	expected string // instead of the kind's expected
	nearest  string
}

// kind is how texts become values of one type: the same for file, environment and flags.
type kind[T any] struct {
	expected string
	parse    func(string) (T, *mismatch)
	text     func(T) string // canonical, parses again
	plain    func(T) any    // for YAML and JSON: string, bool, int64 or float64
	schema   map[string]any
}

// duration is a time with a unit, between two bounds that belong to it.
func duration(low, high time.Duration) kind[time.Duration] {
	expected := fmt.Sprintf("a duration with its unit between %s and %s", durations.Format(low), durations.Format(high))
	return kind[time.Duration]{
		expected: expected,
		parse: func(s string) (time.Duration, *mismatch) {
			d, err := durations.Parse(s)
			if err != nil {
				return 0, &mismatch{nearest: nearestDuration(s, low, high)}
			}
			if d < low || d > high {
				return 0, &mismatch{}
			}
			return d, nil
		},
		text:  durations.Format,
		plain: func(d time.Duration) any { return durations.Format(d) },
		schema: map[string]any{
			"type":    "string",
			"pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d|w))+$`,
		},
	}
}

// nearestDuration guesses what was meant by a number without unit, and by one with a blank or the word for days and weeks.
func nearestDuration(s string, low, high time.Duration) string {
	unit := time.Second
	for _, long := range []struct {
		suffix string
		unit   time.Duration
	}{{"days", durations.Day}, {"day", durations.Day}, {"d", durations.Day}, {"weeks", durations.Week}, {"week", durations.Week}, {"w", durations.Week}} {
		if rest, ok := strings.CutSuffix(s, long.suffix); ok {
			s, unit = rest, long.unit
			break
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || math.IsNaN(n) || n < 0 || n > float64(math.MaxInt64/unit) {
		return ""
	}
	if d := time.Duration(n * float64(unit)); d >= low && d <= high {
		return durations.Format(d)
	}
	return ""
}

// size is a Size between two bounds that belong to it.
func size(low, high Size) kind[Size] {
	return kind[Size]{
		expected: fmt.Sprintf("a size with its unit (KiB, MiB, GiB) between %s and %s", low, high),
		parse: func(s string) (Size, *mismatch) {
			n, err := ParseSize(s)
			if err != nil {
				return 0, &mismatch{nearest: nearestSize(s, low, high)}
			}
			if n < low || n > high {
				return 0, &mismatch{}
			}
			return n, nil
		},
		text:   Size.String,
		plain:  func(n Size) any { return n.String() },
		schema: map[string]any{"type": "string", "pattern": `^[0-9]+ *(B|KiB|MiB|GiB|TiB)$`},
	}
}

// nearestSize guesses what was meant by decimal, short and lower-case units, and by none.
func nearestSize(s string, low, high Size) string {
	digits := strings.TrimRight(s, "bikmgtBIKMGT ")
	unit := map[string]string{
		"": "B", "b": "B", "k": "KiB", "kb": "KiB", "kib": "KiB", "m": "MiB", "mb": "MiB", "mib": "MiB",
		"g": "GiB", "gb": "GiB", "gib": "GiB", "t": "TiB", "tb": "TiB", "tib": "TiB",
	}[strings.TrimSpace(strings.ToLower(s[len(digits):]))]
	n, err := ParseSize(digits + unit)
	if err != nil || n < low || n > high {
		return ""
	}
	return n.String()
}

// integer is a whole decimal number between two bounds that belong to it.
func integer[T int | uint16](low, high T) kind[T] {
	expected := fmt.Sprintf("a whole number between %d and %d", low, high)
	if low == high {
		expected = fmt.Sprintf("%d", low)
	}
	return kind[T]{
		expected: expected,
		parse: func(s string) (T, *mismatch) {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil || n < int64(low) || n > int64(high) {
				return 0, &mismatch{}
			}
			return T(n), nil
		},
		text:   func(n T) string { return strconv.FormatInt(int64(n), 10) },
		plain:  func(n T) any { return int64(n) },
		schema: map[string]any{"type": "integer", "minimum": low, "maximum": high},
	}
}

// share is a number between 0 and 1.
func share() kind[float64] {
	return kind[float64]{
		expected: "a number between 0 and 1",
		parse: func(s string) (float64, *mismatch) {
			n, err := strconv.ParseFloat(s, 64)
			if err != nil || !(n >= 0 && n <= 1) { // the negation also refuses NaN
				return 0, &mismatch{}
			}
			return n, nil
		},
		text:   func(n float64) string { return strconv.FormatFloat(n, 'g', -1, 64) },
		plain:  func(n float64) any { return n },
		schema: map[string]any{"type": "number", "minimum": 0, "maximum": 1},
	}
}

func boolean() kind[bool] {
	return kind[bool]{
		expected: "true or false",
		parse: func(s string) (bool, *mismatch) {
			switch s {
			case "true":
				return true, nil
			case "false":
				return false, nil
			}
			nearest := map[string]string{
				"yes": "true", "on": "true", "1": "true", "y": "true", "t": "true", "true": "true",
				"no": "false", "off": "false", "0": "false", "n": "false", "f": "false", "false": "false",
			}[strings.ToLower(s)]
			return false, &mismatch{nearest: nearest}
		},
		text:   strconv.FormatBool,
		plain:  func(b bool) any { return b },
		schema: map[string]any{"type": "boolean"},
	}
}

// oneOf is one of a few words, spelled exactly.
func oneOf[T ~string](words ...T) kind[T] {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	expected := strings.Join(names, ", ")
	if i := strings.LastIndex(expected, ", "); i >= 0 {
		expected = expected[:i] + " or " + expected[i+2:]
	}
	return kind[T]{
		expected: expected,
		parse: func(s string) (T, *mismatch) {
			for _, w := range words {
				if s == string(w) {
					return w, nil
				}
			}
			return "", &mismatch{nearest: nearest(s, names)}
		},
		text:   func(w T) string { return string(w) },
		plain:  func(w T) any { return string(w) },
		schema: map[string]any{"type": "string", "enum": names},
	}
}

// level is a level of the log, by its lower-case name.
func level() kind[slog.Level] {
	words := oneOf("debug", "info", "warn", "error")
	text := func(l slog.Level) string { return strings.ToLower(l.String()) }
	return kind[slog.Level]{
		expected: words.expected,
		parse: func(s string) (slog.Level, *mismatch) {
			word, m := words.parse(s)
			if m != nil {
				return 0, m
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(word)); err != nil {
				return 0, &mismatch{}
			}
			return l, nil
		},
		text:   text,
		plain:  func(l slog.Level) any { return text(l) },
		schema: words.schema,
	}
}

// words is text that a function accepts.
func words(expected string, schema map[string]any, accept func(string) *mismatch) kind[string] {
	full := map[string]any{"type": "string"}
	for k, v := range schema {
		full[k] = v
	}
	return kind[string]{
		expected: expected,
		parse:    func(s string) (string, *mismatch) { return s, accept(s) },
		text:     func(s string) string { return s },
		plain:    func(s string) any { return s },
		schema:   full,
	}
}

// tenant is the id of a tenant, as rows of the outbox have it.
func tenant() kind[string] {
	return words("a tenant's id, of 1 to 255 bytes without control characters", map[string]any{"minLength": 1, "maxLength": 255}, func(s string) *mismatch {
		if s == "" || len(s) > 255 || strings.ContainsFunc(s, unicode.IsControl) {
			return &mismatch{}
		}
		return nil
	})
}

// keyset is a Tink keyset, of which nothing is ever shown.
func keyset() kind[secrets.Secret] {
	return kind[secrets.Secret]{
		expected: "a Tink keyset for AES-256-GCM in JSON, as `relay secrets generate-key` makes it",
		parse: func(s string) (secrets.Secret, *mismatch) {
			key := secrets.New(s)
			if _, err := secrets.NewKeyring(key); err != nil {
				return secrets.Secret{}, &mismatch{got: "a text of no use (" + strings.TrimPrefix(err.Error(), secrets.ErrKeyset.Error()+": ") + ")"}
			}
			return key, nil
		},
		text:   secrets.Secret.Reveal,
		plain:  func(secrets.Secret) any { return mask },
		schema: map[string]any{"type": "string"},
	}
}
