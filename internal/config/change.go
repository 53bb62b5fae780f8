package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Changed returns the keys whose values differ, in the order of Keys.
func Changed(old, new *Config) []string {
	var keys []string
	for _, s := range settings {
		if !slices.Equal(s.texts(old), s.texts(new)) {
			keys = append(keys, s.key)
		}
	}
	return keys
}

// bound are the sections and keys that connections, the slot, sockets and the recorder are made from at the
// start.
var bound = []string{"database.", "cdc.", "outbox.", "http.", "deliver.record.", "deliver.log", "api.max_connections", "auth.", "log.format"}

// NeedsRestart returns those of the keys that a running daemon can't take over; it reloads the rest on
// SIGHUP.
func NeedsRestart(keys []string) []string {
	var out []string
	for _, key := range keys {
		if isBound(key) {
			out = append(out, key)
		}
	}
	return out
}

func isBound(key string) bool {
	return slices.ContainsFunc(bound, func(section string) bool { return strings.HasPrefix(key, section) })
}

// Reloaded returns what a daemon that was started with old runs under when it is given next: next, but for the keys that
// need a restart.
func Reloaded(old, next *Config) *Config {
	c := *next
	c.origins = maps.Clone(next.origins)
	for i := range settings {
		s := &settings[i]
		if !isBound(s.key) {
			continue
		}
		if _, m := s.assign(&c, s.texts(old)); m != nil {
			panic(fmt.Sprintf("%s: %q, which was loaded, is no value", s.key, s.texts(old)))
		}
		c.origins[s.key] = old.origins[s.key]
	}
	return &c
}
