package config

import (
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
		if slices.ContainsFunc(bound, func(section string) bool { return strings.HasPrefix(key, section) }) {
			out = append(out, key)
		}
	}
	return out
}
