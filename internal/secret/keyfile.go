package secret

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Exposed tells what is wrong with the mode of a file that holds a secret, nil when nobody but its owner may
// read it. A file that cannot be looked at is not its matter.
func Exposed(path string) error {
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return fmt.Errorf("others than the owner of %s may read it (mode %04o): chmod 600, and look who could", path, info.Mode().Perm())
}

// ReadKeyset reads the keyset that a file holds.
func ReadKeyset(path string) (*Keyset, error) {
	b, err := os.ReadFile(path) // #nosec G304 -- the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read keyset: %w", err)
	}
	set, err := parseKeyset(New(strings.TrimSpace(string(b))))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return set, nil
}

// Replace writes the keyset over the file that holds it, in one step, for its owner alone. The old file stays
// until the new one is on the disk, and its owner remains. A symbolic link stays one.
func (s *Keyset) Replace(path string) (err error) {
	text, err := s.Text()
	if err != nil {
		return err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return fmt.Errorf("replace keyset: %w", err)
	}
	before, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("replace keyset: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".keyset-*") // mode 0600
	if err != nil {
		return fmt.Errorf("replace keyset: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		if rm := os.Remove(f.Name()); rm != nil {
			err = errors.Join(err, fmt.Errorf("a copy of the keys is left in %s: %w", f.Name(), rm))
		}
	}()
	_, err = f.WriteString(text.Reveal() + "\n")
	if err == nil {
		err = own(f, before)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("replace keyset: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("replace keyset: %w", err)
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync() // not every file system can
		_ = dir.Close()
	}
	return nil
}
