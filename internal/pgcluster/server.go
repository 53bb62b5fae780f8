package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopLimit is how long an immediate stop may take before the postmaster is killed.
const stopLimit = 20 * time.Second

// pollEvery is how often the postmaster's status file is read while waiting for it.
const pollEvery = 5 * time.Millisecond

// start runs under lifecycle.
func (c *Cluster) start(ctx context.Context) error {
	if c.closed {
		return errors.New("start server: the cluster is closed")
	}
	if c.PID() != 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit,
		fmt.Errorf("the server was not ready after %s", startLimit))
	defer cancel()
	for {
		from, err := c.launch()
		if err != nil {
			return err
		}
		err = c.awaitReady(ctx)
		if err == nil {
			return nil
		}
		said := c.logSince(from)
		switch {
		case ctx.Err() != nil:
			return errors.Join(fmt.Errorf("start server: %w", context.Cause(ctx)), c.quit())
		case strings.Contains(said, "pre-existing shared memory block"):
			// The backends of a killed postmaster go on their own, a moment later.
			if err := pause(ctx, 10*pollEvery); err != nil {
				return fmt.Errorf("start server: %w", err)
			}
			continue
		case strings.Contains(said, "Address already in use"):
			return fmt.Errorf("start server on port %d: %w", c.port, errPortTaken)
		}
		return fmt.Errorf("start server: %w\n%s", err, strings.TrimSpace(said))
	}
}

// launch starts the postmaster and returns where its part of the log begins.
func (c *Cluster) launch() (int64, error) {
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644) // #nosec G302 -- PostgreSQL may run as another user
	if err != nil {
		return 0, fmt.Errorf("open server log: %w", err)
	}
	defer log.Close() // the server has its own copy
	info, err := log.Stat()
	if err != nil {
		return 0, fmt.Errorf("open server log: %w", err)
	}
	cmd := exec.Command(filepath.Join(c.binDir, "postgres"), "-D", c.DataDir()) // #nosec G204 -- the server programs of this machine
	cmd.Stdout, cmd.Stderr = log, log
	c.prepare(cmd)
	p, err := spawn(cmd)
	if err != nil {
		return 0, c.explainSpawn("start server", err)
	}
	c.mu.Lock()
	c.current = p
	c.mu.Unlock()
	return info.Size(), nil
}

// awaitReady waits until the postmaster writes that it accepts connections, or ends.
func (c *Cluster) awaitReady(ctx context.Context) error {
	p := c.process()
	for {
		pid, ready := readPidFile(c.DataDir())
		if pid == p.pid && ready {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("the server ended: %w", p.err)
		default:
		}
		if err := pause(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// stop runs under lifecycle.
func (c *Cluster) stop(ctx context.Context, mode StopMode) error {
	p := c.process()
	if p == nil || p.ended() {
		return nil
	}
	if err := syscall.Kill(p.pid, mode.signal()); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop server (%s): %w", mode, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop server (%s): %w", mode, context.Cause(ctx))
	}
}

// quit ends a server that did not become ready in time.
func (c *Cluster) quit() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	return c.stop(ctx, Immediate)
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// readPidFile reads the postmaster's own record: its pid (first line) and whether it accepts connections (eighth).
// Both are zero when there is no record, or only half of one.
func readPidFile(dataDir string) (pid int, ready bool) {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid")) // #nosec G304 -- in a directory of ours
	if err != nil {
		return 0, false
	}
	return parsePidFile(string(text))
}

func parsePidFile(text string) (pid int, ready bool) {
	lines := strings.Split(text, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 1 {
		return 0, false
	}
	return pid, len(lines) >= 8 && strings.TrimSpace(lines[7]) == "ready"
}
