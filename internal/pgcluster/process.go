package pgcluster

import (
	"errors"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// process is a child that is reaped by the goroutine that started it.
type process struct {
	pid  int
	done chan struct{} // closed when the child is reaped
	err  error         // how it ended; read after done
}

// spawn starts cmd and reaps it.
//
// The death signal of Linux belongs to the thread that made the child, not to the process: Go ends a thread
// whose locked goroutine returns, and would take the server with it. So one goroutine, locked to its thread,
// starts the child and stays on that thread until the child is reaped.
func spawn(cmd *exec.Cmd) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error, 1)
	go reap(cmd, p, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func reap(cmd *exec.Cmd, p *process, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	p.err = cmd.Wait()
	close(p.done)
}

// ended reports whether the child is reaped.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// isPostmaster reports whether pid is a PostgreSQL server that was started on dataDir.
func isPostmaster(pid int, dataDir string) bool {
	args := commandOf(pid)
	if len(args) == 0 || filepath.Base(args[0]) != "postgres" {
		return false
	}
	at := slices.Index(args, "-D")
	return at >= 0 && at+1 < len(args) && args[at+1] == dataDir
}

// alive reports whether a process has this pid, whoever owns it.
func alive(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// cleanEnv is this process's environment without what would steer a PostgreSQL program, and with messages in English:
// a Cluster reads them to tell a taken port from another fault.
func cleanEnv() []string {
	env := slices.DeleteFunc(slices.Clone(syscall.Environ()), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
	return append(env, "LC_ALL=C")
}
