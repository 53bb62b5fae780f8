package main

import (
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/outbox-relay/relay/internal/duration"
)

// durationValue is a flag that takes what every other door takes: 15s, 12h, 90d.
type durationValue struct{ to *time.Duration }

func (v durationValue) String() string {
	if v.to == nil {
		return ""
	}
	return duration.Format(*v.to)
}

func (durationValue) Type() string { return "duration" }

func (v durationValue) Set(s string) (err error) {
	*v.to, err = duration.Parse(s)
	return err
}

// durationFlag adds a flag that is a duration.
func durationFlag(f *pflag.FlagSet, to *time.Duration, name string, value time.Duration, usage string) {
	*to = value
	f.Var(durationValue{to}, name, usage)
}

// durationsValue is a list of durations. The first use of the flag replaces what was there, further ones add.
type durationsValue struct {
	to    *[]time.Duration
	given *bool
}

func (v durationsValue) String() string {
	if v.to == nil || len(*v.to) == 0 {
		return ""
	}
	parts := make([]string, len(*v.to))
	for i, d := range *v.to {
		parts[i] = duration.Format(d)
	}
	return strings.Join(parts, ",")
}

func (durationsValue) Type() string { return "durations" }

func (v durationsValue) Set(s string) error {
	if !*v.given {
		*v.to, *v.given = nil, true
	}
	if s == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		d, err := duration.Parse(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		*v.to = append(*v.to, d)
	}
	return nil
}

// durationsFlag adds a flag that is a list of durations, separated by commas.
func durationsFlag(f *pflag.FlagSet, to *[]time.Duration, name, usage string) {
	f.Var(durationsValue{to, new(bool)}, name, usage)
}
