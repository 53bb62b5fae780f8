package pgtest

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// VersionsEnv names the environment variable that says where scripts/ensure-postgres-versions.sh puts its servers.
const VersionsEnv = "RELAY_PG_VERSIONS"

// BinDir is the folder of initdb and postgres of a major that scripts/ensure-postgres-versions.sh has installed (16, 17,
// 18), for pgcluster.Options. The test fails when it is not there. Tests that call it have the build tag matrix, and
// `make test-matrix` runs them.
func BinDir(t testing.TB, major int) string {
	t.Helper()
	dir, err := versionsDir()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, strconv.Itoa(major), "bin")
	if _, err := os.Stat(filepath.Join(bin, "postgres")); err != nil {
		t.Fatalf("%v; type: scripts/ensure-postgres-versions.sh", err)
	}
	return bin
}

// versionsDir is where the script puts its servers.
func versionsDir() (string, error) {
	if dir := os.Getenv(VersionsEnv); dir != "" {
		return dir, nil
	}
	if os.Getuid() == 0 {
		return "/var/cache/relay-postgres", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "relay-postgres"), nil
}
