package pgcluster

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindBinDir_LooksInOrder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	env := fakeServer(t, filepath.Join(root, "env"))
	path := fakeServer(t, filepath.Join(root, "path"))
	config := fakeServer(t, filepath.Join(root, "config"))
	fakeServer(t, filepath.Join(root, "lib", "9", "bin"))
	newest := fakeServer(t, filepath.Join(root, "lib", "18", "bin"))
	fakeServer(t, filepath.Join(root, "lib", "17", "bin"))
	links := filepath.Join(root, "links")
	if err := os.Mkdir(links, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(path, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	client := filepath.Join(root, "client") // libpq's pg_config without a server
	if err := os.Mkdir(client, 0o755); err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct{ name, env, path, config, want string }{
		{"environment", env, path, config, env},
		{"PATH", "", path, config, path},
		{"the folder behind a link in PATH", "", links, config, path},
		{"pg_config", "", "", config, config},
		{"newest folder", "", "", "", newest},
		{"newest folder, pg_config of a client", "", "", client, newest},
	} {
		s := search{
			env: func(string) string { return c.env },
			lookPath: func(name string) (string, error) {
				if c.path == "" {
					return "", exec.ErrNotFound
				}
				return filepath.Join(c.path, name), nil
			},
			pgConfig: func() (string, error) {
				if c.config == "" {
					return "", exec.ErrNotFound
				}
				return c.config, nil
			},
			folders: []string{filepath.Join(root, "lib", "*", "bin")},
		}
		got, err := s.binDir()
		if err != nil || mustReal(t, got) != mustReal(t, c.want) {
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
}

func TestFindBinDir_SaysWhatToTypeWhenThereIsNone(t *testing.T) {
	t.Parallel()
	s := search{
		env:      func(string) string { return "" },
		lookPath: func(string) (string, error) { return "", exec.ErrNotFound },
		pgConfig: func() (string, error) { return "", exec.ErrNotFound },
		folders:  []string{filepath.Join(t.TempDir(), "*")},
	}
	_, err := s.binDir()
	if !errors.Is(err, ErrNoBinaries) || !strings.Contains(err.Error(), "install") && !strings.Contains(err.Error(), "apk add") {
		t.Errorf("error is %v", err)
	}
	s.env = func(string) string { return "/no/such/folder" }
	if _, err := s.binDir(); err == nil || !strings.Contains(err.Error(), "RELAY_PG_BIN=/no/such/folder") {
		t.Errorf("error is %v", err)
	}
}

func TestHowToInstall_NamesEachSystem(t *testing.T) {
	t.Parallel()
	got := installLine("linux", func(string) (string, error) { return "", exec.ErrNotFound })
	for _, want := range []string{"apt-get install", "dnf install", "apk add", "brew install"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	for goos, want := range map[string]string{"linux": "sudo apt-get install postgresql ", "darwin": "brew install postgresql@17 "} {
		if got := installLine(goos, func(name string) (string, error) { return name, nil }); !strings.HasPrefix(got, "type: "+want) {
			t.Errorf("on %s: %q", goos, got)
		}
	}
}

func TestMajorOf_ReadsFolderName(t *testing.T) {
	t.Parallel()
	for dir, want := range map[string]int{
		"/usr/lib/postgresql/17/bin": 17, "/usr/pgsql-16/bin": 16, "/opt/homebrew/opt/postgresql@18/bin": 18,
		"/usr/libexec/postgresql15": 15, "/usr/local/pgsql/bin": 0,
	} {
		if got := majorOf(dir); got != want {
			t.Errorf("majorOf(%s) = %d, want %d", dir, got, want)
		}
	}
}

func fakeServer(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustReal(t *testing.T, path string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return real
}
