// Package process builds the relay and runs it as a child process, for tests that treat the binary as a stranger would.
package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Build compiles cmd/relay of this module into a file, with more environment and flags of go build.
func Build(to string, env []string, flags ...string) error {
	args := append([]string{"build", "-buildvcs=false", "-o", to}, flags...)
	cmd := exec.Command("go", append(args, "github.com/outbox-relay/relay/cmd/relay")...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build relay: %w\n%s", err, out)
	}
	return nil
}

// Process is one child. It has a process group of its own and, on Linux, dies with its parent.
type Process struct {
	PID int

	done chan struct{}
	code int
}

// Start runs a binary with the environment given and little besides; what it prints goes to out.
func Start(binary string, env []string, out io.Writer, args ...string) (*Process, error) {
	p := &Process{done: make(chan struct{})}
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "HOME=" + os.TempDir(),
		"GORACE=atexit_sleep_ms=0"}, env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = ownGroup()
	started := make(chan error, 1)
	go func() {
		// The death signal of ownGroup belongs to the thread that makes the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", binary, err)
			return
		}
		p.PID = cmd.Process.Pid
		started <- nil
		_ = cmd.Wait() // the exit code says it all
		p.code = cmd.ProcessState.ExitCode()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Done is closed when the process is reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended tells whether the process is reaped.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Code waits for the end of the process and returns its exit code, -1 after a signal.
func (p *Process) Code() int {
	<-p.done
	return p.code
}

// Signal sends a signal to a process that has not been reaped.
func (p *Process) Signal(s syscall.Signal) error {
	if p.Ended() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.PID, s)
}

// PeakMemory is the most memory that the process has had, resident, in bytes; 0 when it is reaped, and where there is no
// /proc. What the kernel tells of a child that has ended will not do: it counts what its parent had when it was made.
func (p *Process) PeakMemory() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// Kill ends the process and what it started, as a crash does.
func (p *Process) Kill() {
	if !p.Ended() {
		_ = syscall.Kill(-p.PID, syscall.SIGKILL)
	}
	<-p.done
}
