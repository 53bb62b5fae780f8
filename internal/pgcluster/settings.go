package pgcluster

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// ownSettings cannot be given in Options: a Cluster decides them at each start.
var ownSettings = []string{"port", "listen_addresses", "unix_socket_directories", "data_directory"}

// checkSettings refuses what would take the server away from its Cluster.
func checkSettings(settings map[string]string) error {
	for name := range settings {
		if slices.Contains(ownSettings, strings.ToLower(name)) {
			return fmt.Errorf("setting %s: decided by the cluster itself", name)
		}
		if !isSettingName(name) {
			return fmt.Errorf("setting %q: not a name of a PostgreSQL setting", name)
		}
	}
	return nil
}

func isSettingName(name string) bool {
	for _, r := range name {
		if r != '_' && r != '.' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}

// configLines are the lines that follow initdb's own in postgresql.conf; the last line for a name counts, so the
// given settings come behind the defaults and the own ones behind all.
func configLines(o Options, socketDir string, port int) string {
	var b strings.Builder
	set := func(name, value string) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''"))
	}
	set("wal_level", "logical")
	set("max_wal_senders", "20")
	set("max_replication_slots", "40")
	set("max_connections", "200")
	set("shared_buffers", "64MB")
	set("fsync", strconv.FormatBool(o.Fsync))
	set("timezone", "UTC")
	set("log_timezone", "UTC")
	set("log_line_prefix", "%m [%p] %q%d/%a ")
	set("logging_collector", "off")
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		set(name, o.Settings[name])
	}
	set("listen_addresses", "127.0.0.1")
	set("unix_socket_directories", socketDir)
	set("port", strconv.Itoa(port))
	return b.String()
}
