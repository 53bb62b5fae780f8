package pgcluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestOwnersDeath_EndsServerAndNextStartRemovesIt(t *testing.T) {
	t.Parallel()
	o := startOwner(t, os.Args[0], nil)
	if err := o.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	o.cmd.Wait()
	// Where the kernel does not end the server, Start does.
	mustStart(t, Options{})
	waitFor(t, "the end of the server", func() bool { return !isPostmaster(o.pid, filepath.Join(o.dir, "data")) })
	waitFor(t, "the removal of its directory", func() bool {
		as := mustAccount(t)
		sweep(filepath.Dir(o.dir), as)
		return !exists(o.dir)
	})
}

func TestSweep_EndsServerWhoseOwnerIsDead(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	if err := c.Stop(deadline(t), Fast); err != nil {
		t.Fatal(err)
	}
	// The same data under the name of a dead owner, with a server that nobody looks after.
	base := c.SocketDir()
	dir := filepath.Join(base, fmt.Sprintf("%s%d-x", dirPrefix, deadPid(t)))
	mustMkdir(t, dir, mustAccount(t))
	data := filepath.Join(dir, "data")
	if err := os.Rename(c.DataDir(), data); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(c.binDir, "postgres"), "-D", data)
	c.prepare(cmd)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account.credential}
	p, err := spawn(cmd)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the server", func() bool { pid, ready := readPidFile(data); return ready && pid == p.pid })

	sweep(base, mustAccount(t))
	<-p.done
	if exists(dir) {
		t.Error("directory is still there")
	}
}

func TestSweep_LeavesAlone(t *testing.T) {
	t.Parallel()
	as := mustAccount(t)
	dead := deadPid(t)
	for name, prepare := range map[string]func(dir string) func(){
		"a living owner": nil,
		"a lock held by an owner in another container": func(dir string) func() {
			lock, err := lockOwner(dir)
			if err != nil {
				t.Fatal(err)
			}
			return func() { lock.Close() }
		},
	} {
		owner := dead
		if prepare == nil {
			owner = os.Getpid()
		}
		base := t.TempDir()
		dir := filepath.Join(base, fmt.Sprintf("%s%d-x", dirPrefix, owner))
		mustMkdir(t, dir, as)
		release := func() {}
		if prepare != nil {
			release = prepare(dir)
		}
		sweep(base, as)
		if !exists(dir) {
			t.Errorf("%s: directory was removed", name)
		}
		release()
	}

	base, aim := t.TempDir(), t.TempDir()
	link := filepath.Join(base, fmt.Sprintf("%s%d-x", dirPrefix, dead))
	if err := os.Symlink(aim, link); err != nil {
		t.Fatal(err)
	}
	sweep(base, as)
	if !exists(aim) || !exists(link) {
		t.Error("a link was followed or removed")
	}
}

func TestSweep_DoesNotSignalAnotherProcessWithThePid(t *testing.T) {
	t.Parallel()
	bystander := exec.Command("sleep", "60")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	dir := filepath.Join(base, fmt.Sprintf("%s%d-x", dirPrefix, deadPid(t)))
	mustMkdir(t, filepath.Join(dir, "data"), mustAccount(t))
	record := fmt.Sprintf("%d\n", bystander.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	sweep(base, mustAccount(t))
	if exists(dir) {
		t.Error("directory is still there")
	}
	if err := bystander.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	state, err := bystander.Process.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if sig := state.Sys().(syscall.WaitStatus).Signal(); sig != syscall.SIGKILL {
		t.Errorf("bystander got %v before our kill", sig)
	}
}

func TestOwnerOf_ReadsDirectoryName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{
		"/tmp/relay-pg-123-45": 123, "relay-pg-123-": 123, "relay-pg-123": 0, "relay-pg--5": 0, "relay-pg-x-5": 0,
		"relay-pg-1-5": 0, "relay-pg--1-5": 0, "other-123-45": 0,
	} {
		if got := ownerOf(name); got != want {
			t.Errorf("ownerOf(%q) = %d, want %d", name, got, want)
		}
	}
}

func FuzzParsePidFile(f *testing.F) {
	f.Add("4711\n/tmp/x/data\n1764000000\n21000\n/tmp/x\n127.0.0.1\n  12345  6\nready   \n")
	f.Add("4711\n/tmp/x/data\n1764000000\n21000\n/tmp/x\n127.0.0.1\n  12345  6\nstarting\n")
	f.Add("")
	f.Add("-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		pid, ready := parsePidFile(text)
		if pid < 0 || pid == 1 {
			t.Errorf("pid %d: a signal to it would reach others", pid)
		}
		if ready && (pid == 0 || !strings.HasPrefix(strings.TrimSpace(text), strings.TrimSpace(strings.SplitN(text, "\n", 2)[0]))) {
			t.Errorf("ready without a pid")
		}
	})
}

func TestParsePidFile_WantsWholeRecord(t *testing.T) {
	t.Parallel()
	whole := "4711\n/d\n1\n21000\n/s\n127.0.0.1\n 1 2\nready   \n"
	for text, want := range map[string]struct {
		pid   int
		ready bool
	}{
		whole: {4711, true},
		strings.Replace(whole, "ready", "starting", 1): {4711, false},
		"4711\n":  {4711, false},
		"-4711\n": {0, false},
		"":        {0, false},
	} {
		if pid, ready := parsePidFile(text); pid != want.pid || ready != want.ready {
			t.Errorf("%q: %d %v, want %d %v", text, pid, ready, want.pid, want.ready)
		}
	}
}

// deadPid is the number of a process that has ended.
func deadPid(t *testing.T) int {
	t.Helper()
	out, err := exec.Command("sh", "-c", "echo $$").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func mustAccount(t *testing.T) account {
	t.Helper()
	as, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	return as
}

func mustMkdir(t *testing.T, dir string, as account) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, as.uid, as.gid); err != nil {
		t.Fatal(err)
	}
}
