package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child, in a process group of its own, so that Ctrl-C reaches only the bench, which stops it.
type process struct {
	name  string
	pid   int
	first chan string   // its first line on stdout
	done  chan struct{} // closed when it is reaped
	err   error         // how it ended; read after done
}

// spawnSelf starts this program in another role and returns when it has said its first line.
func spawnSelf(role string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p, err := spawn(self, append([]string{role}, args...)...)
	if err != nil {
		return nil, err
	}
	p.name = role
	select {
	case line := <-p.first:
		p.first <- line
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("start %s: %w", role, p.err)
	case <-time.After(30 * time.Second):
		return nil, errors.Join(fmt.Errorf("start %s: it says nothing within 30s", role), p.stop())
	}
}

func spawn(name string, args ...string) (*process, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = childAttributes()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: filepath.Base(name), first: make(chan string, 1), done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The death signal of childAttributes belongs to the thread that makes the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s: %w", name, err)
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		lines := bufio.NewReader(out)
		if line, err := lines.ReadString('\n'); err == nil {
			p.first <- strings.TrimSpace(line)
		}
		_, _ = io.Copy(os.Stderr, lines)
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, <-started
}

// stop asks the process to end, and returns what is wrong with how it did.
func (p *process) stop() error {
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("stop %s: it did not end within 30s", p.name)
	}
	if p.err != nil {
		return fmt.Errorf("stop %s: %w", p.name, p.err)
	}
	return nil
}

// memory returns the resident size, now and at its highest, in MiB; 0 where there is no /proc.
func (p *process) memory() (now, peak float64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0, 0
	}
	read := func(name string) float64 {
		_, rest, _ := strings.Cut(string(b), name+":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return 0
		}
		kib, _ := strconv.ParseFloat(fields[0], 64)
		return kib / 1024
	}
	return read("VmRSS"), read("VmHWM")
}

// cpu returns the processor time that the process has used; 0 where there is no /proc.
func (p *process) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // the kernel shows hundredths of a second
}

// record lets perf watch the process until the returned function is called.
func (p *process) record(dir, name string) (stop func() error, err error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	file := filepath.Join(dir, name+".perf.data")
	perf, err := spawn("perf", "record", "-q", "-F", "499", "-g", "-p", strconv.Itoa(p.pid), "-o", file)
	if err != nil {
		return nil, err
	}
	return func() error {
		_ = syscall.Kill(perf.pid, syscall.SIGINT)
		<-perf.done
		say("perf report -i %s", file)
		return nil
	}, nil
}
