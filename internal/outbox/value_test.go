package outbox

import (
	"errors"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestParseTimestamp_ReadsWhatPostgresPrints(t *testing.T) {
	for text, want := range map[string]string{
		"2026-11-24 10:00:00.123456+00":   "2026-11-24T10:00:00.123456Z",
		"2026-11-24 10:00:00+00":          "2026-11-24T10:00:00Z",
		"2026-11-24 10:00:00.5":           "2026-11-24T10:00:00.5Z",
		"2026-11-24 10:00:00":             "2026-11-24T10:00:00Z",
		"2026-11-24T10:00:00.123456789Z":  "2026-11-24T10:00:00.123456789Z",
		"2026-11-24 15:30:00+05:30":       "2026-11-24T10:00:00Z",
		"2026-11-24 07:00:00-03":          "2026-11-24T10:00:00Z",
		"1890-01-01 00:53:28+00:53:28":    "1890-01-01T00:00:00Z",
		"2024-02-29 23:59:59.999999+00":   "2024-02-29T23:59:59.999999Z",
		"0001-01-01 00:00:00+00":          "0001-01-01T00:00:00Z",
		"9999-12-31 23:59:59.999999+00":   "9999-12-31T23:59:59.999999Z",
		"10000-01-01 00:30:00+01":         "9999-12-31T23:30:00Z",
		"0001-12-31 23:00:00.000001-0100": "",
	} {
		got, err := parseTimestamp([]byte(text))
		if want == "" {
			if err == nil {
				t.Errorf("%s is accepted", text)
			}
			continue
		}
		if err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%s: got %s, %v, want %s", text, got.Format(time.RFC3339Nano), err, want)
		}
	}
}

func TestParseTimestamp_RefusesTheRest(t *testing.T) {
	for text, want := range map[string]error{
		"infinity":                     errInfinity,
		"-infinity":                    errInfinity,
		"0044-03-15 12:00:00+00 BC":    errYear,
		"4713-01-01 00:00:00+00 BC":    errYear,
		"0001-01-01 00:30:00+01":       errYear,
		"0000-06-01 00:00:00+00":       errYear,
		"9999-12-31 23:30:00-01":       errYear,
		"294276-12-31 23:59:59.999+00": errYear,
		"":                             errTimestamp,
		"2026":                         errTimestamp,
		"2026-11-24":                   errTimestamp,
		"2026-02-29 00:00:00+00":       errTimestamp,
		"1900-02-29 00:00:00+00":       errTimestamp,
		"2026-04-31 00:00:00+00":       errTimestamp,
		"2026-13-01 00:00:00+00":       errTimestamp,
		"2026-00-01 00:00:00+00":       errTimestamp,
		"2026-01-00 00:00:00+00":       errTimestamp,
		"2026-01-01 24:00:00+00":       errTimestamp,
		"2026-01-01 00:60:00+00":       errTimestamp,
		"2026-01-01 00:00:60+00":       errTimestamp,
		"2026-01-01 00:00:00.+00":      errTimestamp,
		"2026-01-01 00:00:00+99":       errTimestamp,
		"2026-01-01 00:00:00+00 AD":    errTimestamp,
		"2026-01-01 00:00:00+00x":      errTimestamp,
		" 2026-01-01 00:00:00+00":      errTimestamp,
		"24.11.2026 10:00:00.5 CET":    errTimestamp,
		"-2026-01-01 00:00:00+00":      errTimestamp,
	} {
		if got, err := parseTimestamp([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{
		"2026-11-24 10:00:00.123456+00", "infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "294276-12-31 23:59:59+00",
		"1890-01-01 00:53:28+00:53:28", "2024-02-29T00:00:00Z", "2026-11-24 10:00:00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseTimestamp(text)
		if err != nil {
			return
		}
		rendered := got.Format(time.RFC3339Nano)
		again, err := time.Parse(time.RFC3339Nano, rendered)
		if err != nil || !again.Equal(got) || got.Location() != time.UTC {
			t.Fatalf("%q became %s, which reads as %v, %v", text, rendered, again, err)
		}
		// What RFC 3339 shares with the form of PostgreSQL must mean the same to both.
		if want, err := time.Parse("2006-01-02 15:04:05.999999999Z07:00", string(text)); err == nil && !want.Equal(got) {
			t.Fatalf("%q: got %v, the standard library says %v", text, got, want)
		}
	})
}

func FuzzUUID(f *testing.F) {
	f.Add([]byte("0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11"))
	f.Add([]byte("0190B6F0-7C1E-7CC2-9D35-4A3E6D2F8B11"))
	f.Add([]byte("{0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11}"))
	f.Add([]byte("0190b6f07c1e7cc29d354a3e6d2f8b11"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := parseUUID(text)
		want, wantErr := uuid.ParseBytes(text)
		if len(text) != 36 {
			if err == nil {
				t.Fatalf("%q is accepted", text)
			}
			return
		}
		if (err == nil) != (wantErr == nil) || err == nil && got != want {
			t.Fatalf("%q: got %v, %v, the library says %v, %v", text, got, err, want, wantErr)
		}
		if err == nil && string(appendUUID(nil, got)) != want.String() {
			t.Fatalf("%v renders as %s", want, appendUUID(nil, got))
		}
	})
}

func TestParseXID_ReadsAll64Bits(t *testing.T) {
	for _, n := range []uint64{0, 1, 9, 10, 742, math.MaxUint32, math.MaxUint64 - 1, math.MaxUint64} {
		if got, err := parseXID([]byte(strconv.FormatUint(n, 10))); err != nil || got != n {
			t.Errorf("%d: got %d, %v", n, got, err)
		}
	}
	for _, s := range []string{"", "-1", "+1", "1.0", "x", "18446744073709551616", "99999999999999999999", "000000000000000000001"} {
		if got, err := parseXID([]byte(s)); err == nil {
			t.Errorf("%q: got %d", s, got)
		}
	}
}
