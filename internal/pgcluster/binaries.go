package pgcluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// ErrNoBinaries says that no PostgreSQL server programs were found on this machine.
var ErrNoBinaries = errors.New("no PostgreSQL server programs found")

// BinDirEnv names the environment variable that says where initdb and postgres are, before any search.
const BinDirEnv = "RELAY_PG_BIN"

// installFolders are where distributions keep server programs away from PATH; scripts/ensure-postgres.sh looks
// in the same places.
var installFolders = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/pgsql-*/bin",          // Fedora, RHEL with the packages of postgresql.org
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin", // Homebrew on Intel
	"/usr/local/pgsql/bin",           // built from source
}

// FindBinDir returns the folder with initdb and postgres: RELAY_PG_BIN, PATH, what pg_config says, then the usual
// folders of distributions, newest major first. A RELAY_PG_BIN without the programs is an error, not a hint.
// The error that wraps ErrNoBinaries ends with what to type on this machine.
func FindBinDir() (string, error) {
	return search{
		env:      os.Getenv,
		lookPath: exec.LookPath,
		pgConfig: func() (string, error) {
			out, err := exec.Command("pg_config", "--bindir").Output()
			return strings.TrimSpace(string(out)), err
		},
		folders: installFolders,
	}.binDir()
}

// search is FindBinDir with its view of the machine, so that tests can bend it.
type search struct {
	env      func(string) string
	lookPath func(string) (string, error)
	pgConfig func() (string, error)
	folders  []string
}

func (s search) binDir() (string, error) {
	if dir := s.env(BinDirEnv); dir != "" {
		if !hasServer(dir) {
			return "", fmt.Errorf("%s=%s: no initdb and postgres in that folder", BinDirEnv, dir)
		}
		return dir, nil
	}
	if path, err := s.lookPath("postgres"); err == nil {
		// A link in PATH leads to the real folder, where initdb finds its share directory.
		if real, err := filepath.EvalSymlinks(path); err == nil && hasServer(filepath.Dir(real)) {
			return filepath.Dir(real), nil
		}
		if dir, err := filepath.Abs(filepath.Dir(path)); err == nil && hasServer(dir) {
			return dir, nil
		}
	}
	if dir, err := s.pgConfig(); err == nil && hasServer(dir) {
		return dir, nil
	}
	var found []string
	for _, pattern := range s.folders {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("search %s: %w", pattern, err)
		}
		for _, dir := range dirs {
			if hasServer(dir) {
				found = append(found, dir)
			}
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("%w; %s", ErrNoBinaries, howToInstall())
	}
	slices.SortStableFunc(found, func(a, b string) int { return majorOf(b) - majorOf(a) })
	return found[0], nil
}

// hasServer reports whether dir holds the two programs that a Cluster needs.
func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return dir != ""
}

// majorOf reads the number in a folder's name ("/usr/lib/postgresql/17/bin": 17), the last if there are several;
// without one it is 0.
func majorOf(dir string) int {
	major := 0
	for part := range strings.SplitSeq(dir, string(filepath.Separator)) {
		digits := strings.TrimLeft(part, "abcdefghijklmnopqrstuvwxyz@-")
		if n, err := strconv.Atoi(digits); err == nil {
			major = n
		}
	}
	return major
}

// howToInstall says what to type on this machine, or on each kind when it is none of the known.
func howToInstall() string { return installLine(runtime.GOOS, exec.LookPath) }

func installLine(goos string, lookPath func(string) (string, error)) string {
	commands := []struct{ manager, system, line string }{
		{"apt-get", "Debian, Ubuntu", "sudo apt-get install postgresql"},
		{"dnf", "Fedora, RHEL", "sudo dnf install postgresql-server"},
		{"apk", "Alpine", "sudo apk add postgresql"},
		{"brew", "macOS", "brew install postgresql@17"},
	}
	var all []string
	for _, c := range commands {
		if _, err := lookPath(c.manager); err == nil && (c.manager == "brew") == (goos == "darwin") {
			return fmt.Sprintf("type: %s (or set %s to the folder of initdb and postgres)", c.line, BinDirEnv)
		}
		all = append(all, c.system+": "+c.line)
	}
	return fmt.Sprintf("type (%s), or set %s to the folder of initdb and postgres", strings.Join(all, "; "), BinDirEnv)
}
