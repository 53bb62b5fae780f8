package pgcluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ofOneRun are the files and folders whose contents mean nothing to a server that starts on a copy.
var ofOneRun = []string{"postmaster.pid", "postmaster.opts", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots",
	"pg_stat_tmp", "pg_subtrans"}

// copyData copies a data directory, of a server that may be running, without what belongs to one run and without the
// contents of the folders in leaveOut. What the server removes meanwhile is left out. The copy belongs to the server's user.
func (c *Cluster) copyData(from, to string, leaveOut ...string) error {
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if entry.IsDir() {
			if err := os.MkdirAll(target, 0o700); err != nil {
				return err
			}
			if err := c.give(target); err != nil {
				return err
			}
			if slices.Contains(ofOneRun, name) || slices.Contains(leaveOut, name) || strings.HasPrefix(entry.Name(), "pgsql_tmp") {
				return filepath.SkipDir
			}
			return nil
		}
		if slices.Contains(ofOneRun, name) || !entry.Type().IsRegular() {
			return nil
		}
		return c.copyFile(path, target)
	})
	if err != nil {
		return fmt.Errorf("copy data directory: %w", err)
	}
	return nil
}

func (c *Cluster) copyFile(from, to string) error {
	source, err := os.Open(from) // #nosec G304 -- in a directory of ours
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) // #nosec G304 -- in a directory of ours
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		return errors.Join(err, target.Close())
	}
	return errors.Join(target.Close(), c.give(to))
}

// writeFile writes a file of the server's user.
func (c *Cluster) writeFile(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil { // #nosec G703 -- in a directory of ours
		return err
	}
	return c.give(path)
}
