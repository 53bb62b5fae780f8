package pgcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dirPrefix begins the name of every cluster directory; the owner's pid and a random part follow.
const dirPrefix = "relay-pg-"

// lockName is the file that the owner holds locked while it lives.
const lockName = "owner.lock"

// maxBase bounds the folder's path: a Unix socket's path has room for 103 bytes (macOS) and the cluster's part
// of it takes up to 44.
const maxBase = 55

// tempBase is the folder for cluster directories: the temporary folder, or /tmp when the server could not use that
// because its path is too long for a socket or closed to the server's user.
func tempBase(temp string, as account) string {
	temp = filepath.Clean(temp)
	if len(temp) > maxBase || !as.canEnter(temp) {
		return "/tmp"
	}
	return temp
}

// lockOwner marks dir as in use. The kernel lets the lock go when the owner dies, also for watchers in another
// container that share the folder but cannot see the owner's pid.
func lockOwner(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- in a directory of ours
	if err != nil {
		return nil, fmt.Errorf("lock cluster directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock cluster directory: %w", err), f.Close())
	}
	return f, nil
}

// sweep stops and removes the clusters under base whose owner is dead. It is a courtesy to the machine: what it may
// not or cannot remove stays for another.
func sweep(base string, as account) {
	dirs, err := filepath.Glob(filepath.Join(base, dirPrefix+"*-*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		sweepDir(dir, as)
	}
}

func sweepDir(dir string, as account) {
	owner := ownerOf(dir)
	if owner <= 0 || alive(owner) || !belongsTo(dir, as) {
		return
	}
	lock, err := lockOwner(dir)
	if err != nil {
		return
	}
	defer lock.Close()
	data := filepath.Join(dir, "data")
	if pid, _ := readPidFile(data); pid != 0 && !endPostmaster(pid, data) {
		return
	}
	if err := removeDir(dir); err != nil {
		return // another sweeper is at it, or the file system is: the next Start tries again
	}
}

// endPostmaster stops the server of a dead owner and reports whether it is gone. A pid that is not, or is no longer, a
// server on that directory is left alone: the number may have been given to someone else.
func endPostmaster(pid int, dataDir string) bool {
	signal := syscall.SIGQUIT
	deadline := time.Now().Add(stopLimit)
	for last := signal; isPostmaster(pid, dataDir); {
		if last != 0 {
			if err := syscall.Kill(pid, last); err != nil {
				return errors.Is(err, syscall.ESRCH)
			}
			last = 0
		}
		if time.Now().After(deadline) {
			if signal == syscall.SIGKILL {
				return false
			}
			signal, last = syscall.SIGKILL, syscall.SIGKILL
			deadline = time.Now().Add(stopLimit)
		}
		time.Sleep(pollEvery)
	}
	return true
}

// ownerOf reads the owner's pid from a cluster directory's name; 0 when it is none.
func ownerOf(dir string) int {
	rest, ok := strings.CutPrefix(filepath.Base(dir), dirPrefix)
	if !ok {
		return 0
	}
	pid, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(pid)
	if err != nil || n <= 1 {
		return 0
	}
	return n
}

// belongsTo reports whether dir is a real folder of this user or of the server's. Anybody can make a folder with such
// a name in the temporary folder, and root must not follow it.
func belongsTo(dir string, as account) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && (int(stat.Uid) == as.uid || int(stat.Uid) == os.Geteuid())
}

// removeDir removes a cluster directory. The last children of a postmaster that was stopped at once may still write
// a file into it.
func removeDir(dir string) error {
	var err error
	for range 50 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
