package pgcluster

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user that the server runs as. The zero credential means: this process's own user.
type account struct {
	uid, gid   int
	credential *syscall.Credential
}

// serverAccount is this process's user, or, because PostgreSQL refuses root, one without privileges.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	return unprivileged(user.Lookup)
}

// unprivileged finds the user for a server that root starts.
func unprivileged(lookup func(string) (*user.User, error)) (account, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("read uid of user %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("read gid of user %s: %w", name, err)
		}
		if uid == 0 {
			continue
		}
		return account{
			uid: int(uid), gid: int(gid),
			credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		}, nil
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user " +
		"nobody to run it as; run as an ordinary user, or type: useradd --system postgres")
}

// canEnter reports whether the account may pass through dir and all folders above it.
func (a account) canEnter(dir string) bool {
	if a.credential == nil {
		return true
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		owned := ok && int(stat.Uid) == a.uid && info.Mode()&0o100 != 0
		if info.Mode()&0o001 == 0 && !owned {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}
