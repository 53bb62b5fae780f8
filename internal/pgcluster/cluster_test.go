package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestStart_GivesServerForLogicalReplication(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{Settings: map[string]string{
		"max_connections": "37", "application_name": "it's mine",
	}})
	conn := mustConnect(t, c.URL("postgres"))
	for name, want := range map[string]string{
		"wal_level": "logical", "max_wal_senders": "20", "max_replication_slots": "40", "shared_buffers": "64MB",
		"fsync": "off", "max_connections": "37", "server_encoding": "UTF8", "lc_collate": "C", "TimeZone": "UTC",
		"listen_addresses": "127.0.0.1", "unix_socket_directories": c.SocketDir(), "data_directory": c.DataDir(),
	} {
		if name == "lc_collate" && c.Version() >= 16 {
			continue // a property of the database from 16 on
		}
		if got := mustQuery(t, conn, "SHOW "+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := mustQuery(t, conn, "SELECT boot_val || reset_val FROM pg_settings WHERE name = 'application_name'"); !strings.Contains(got, "it's mine") {
		t.Errorf("application_name is %q", got)
	}
	if got := mustQuery(t, conn, "SHOW server_version"); !strings.HasPrefix(got, fmt.Sprint(c.Version())) {
		t.Errorf("Version is %d, server says %s", c.Version(), got)
	}
	if !strings.Contains(c.LogTail(100), "ready to accept connections") {
		t.Errorf("log tail:\n%s", c.LogTail(100))
	}
	info, err := os.Stat(c.SocketDir())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, want 0700", info.Mode().Perm())
	}
}

func TestStart_MakesFsyncOnDemand(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{Fsync: true})
	if got := mustQuery(t, mustConnect(t, c.URL("postgres")), "SHOW fsync"); got != "on" {
		t.Errorf("fsync is %s, want on", got)
	}
}

func TestStart_RefusesSettings(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"port", "Listen_Addresses", "unix_socket_directories", "data_directory", "", "a b", "x\ny"} {
		if c, err := Start(deadline(t), Options{Settings: map[string]string{name: "1"}}); err == nil {
			t.Errorf("setting %q was taken", name)
			c.Close()
		}
	}
}

func TestStart_SaysWhyServerEnded(t *testing.T) {
	t.Parallel()
	c, err := Start(deadline(t), Options{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil {
		c.Close()
		t.Fatal("started")
	}
	if !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
		t.Errorf("error does not carry the server's words: %v", err)
	}
}

func TestStart_RefusesFolderWithoutServer(t *testing.T) {
	t.Parallel()
	if _, err := Start(deadline(t), Options{BinDir: t.TempDir()}); !errors.Is(err, ErrNoBinaries) {
		t.Errorf("error is %v, want ErrNoBinaries", err)
	}
}

func TestStart_LeavesNothingWhenCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("changed my mind")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	c, err := Start(ctx, Options{})
	if err == nil {
		c.Close()
		t.Fatal("started")
	}
	if !errors.Is(err, why) {
		t.Errorf("error is %v", err)
	}
}

func TestStart_TakesAnotherPortWhenTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	c := mustStart(t, Options{port: taken})
	if c.Port() == taken {
		t.Errorf("port is still %d", taken)
	}
	mustConnect(t, c.URL("postgres"))
}

func TestStart_RunsManyAtOnce(t *testing.T) {
	t.Parallel()
	ports := make([]int, 3)
	var wg sync.WaitGroup
	for i := range ports {
		wg.Go(func() {
			c, err := Start(deadline(t), Options{})
			if err != nil {
				t.Error(err)
				return
			}
			ports[i] = c.Port()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, p := range ports {
		if p < firstPort || p >= lastPort {
			t.Errorf("port %d is in the range for outgoing connections", p)
		}
	}
}

func TestCluster_StopsInEachModeAndComesBack(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	url, err := c.CreateDatabase(deadline(t), `odd "name"`)
	if err != nil {
		t.Fatal(err)
	}
	port := c.Port()
	mustExec(t, mustConnect(t, url), "CREATE TABLE kept (n int)")
	for _, mode := range []StopMode{Fast, Immediate, Smart} {
		conn, err := pgx.Connect(deadline(t), url)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, conn, "INSERT INTO kept VALUES (1)")
		if mode == Smart {
			conn.Close(context.Background()) // smart waits for it
		}
		pid, done := c.PID(), c.Done()
		if err := c.Stop(deadline(t), mode); err != nil {
			t.Fatal(err)
		}
		<-done
		if c.PID() != 0 || alive(pid) {
			t.Errorf("%s: postmaster %d is still there", mode, pid)
		}
		if mode == Fast {
			_, err := conn.Exec(deadline(t), "SELECT 1")
			var pgErr *pgconn.PgError
			if !errors.As(err, &pgErr) || pgErr.Code != "57P01" {
				t.Errorf("fast: session ended with %v, want 57P01", err)
			}
		}
		conn.Close(context.Background())
		if err := c.Stop(deadline(t), mode); err != nil {
			t.Errorf("%s: second stop: %v", mode, err)
		}
		if err := c.Start(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if recovered := strings.Contains(lastRun(c), "automatic recovery"); recovered != (mode == Immediate) {
			t.Errorf("%s: recovery at the next start: %v", mode, recovered)
		}
		if err := c.Start(deadline(t)); err != nil {
			t.Errorf("%s: start of a running server: %v", mode, err)
		}
	}
	if err := c.Restart(deadline(t), Fast); err != nil {
		t.Fatal(err)
	}
	if got := mustQuery(t, mustConnect(t, url), "SELECT count(*)::text FROM kept"); got != "3" {
		t.Errorf("%s rows are left, want 3", got)
	}
	if c.Port() != port {
		t.Errorf("port went from %d to %d", port, c.Port())
	}
}

// lastRun is the log of the server's last start.
func lastRun(c *Cluster) string {
	log := c.LogTail(1000)
	return log[max(0, strings.LastIndex(log, "starting PostgreSQL")):]
}

func TestCluster_SmartStopEndsWithItsContext(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	mustConnect(t, c.URL("postgres"))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Stop(ctx, Smart); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want deadline exceeded", err)
	}
	if err := c.Stop(deadline(t), Fast); err != nil {
		t.Errorf("fast after smart: %v", err)
	}
}

func TestCluster_ComesBackAfterPostmasterIsKilled(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	conn := mustConnect(t, c.URL("postgres"))
	mustExec(t, conn, "CREATE TABLE kept (n int)")
	done := c.Done()
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-done
	if err := c.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	mustExec(t, mustConnect(t, c.URL("postgres")), "INSERT INTO kept VALUES (1)")
}

func TestCluster_SurvivesTheEndOfThreads(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its goroutine
			runtime.Gosched()
		})
	}
	wg.Wait()
	select {
	case <-c.Done():
		t.Fatalf("server ended with a thread:\n%s", c.LogTail(10))
	default:
	}
	mustConnect(t, c.URL("postgres"))
}

func TestCluster_RunsInItsOwnSession(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	group, err := syscall.Getpgid(c.PID())
	if err != nil {
		t.Fatal(err)
	}
	if group != c.PID() || group == syscall.Getpgrp() {
		t.Errorf("server is in group %d, want its own, %d", group, c.PID())
	}
}

func TestCluster_CloseRemovesAllAndMayBeRepeated(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	mustConnect(t, c.URL("postgres"))
	pid, dir := c.PID(), c.SocketDir()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if alive(pid) || exists(dir) {
		t.Errorf("postmaster alive: %v, directory there: %v", alive(pid), exists(dir))
	}
	if err := c.Start(deadline(t)); err == nil {
		t.Error("a closed cluster was started")
	}
	if err := c.Stop(deadline(t), Fast); err != nil {
		t.Errorf("stop after close: %v", err)
	}
	<-c.Done()
}

func TestCreateDatabase_NamesTheDatabaseThatExists(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	if _, err := c.CreateDatabase(deadline(t), "twice"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateDatabase(deadline(t), "twice"); err == nil || !strings.Contains(err.Error(), "create database twice") {
		t.Errorf("error is %v", err)
	}
}

func TestLogTail_GivesLastLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc"}, {"a\nb\n", 9, "a\nb"}, {"", 3, ""}, {"a\n", 0, ""}, {"a\n", -1, ""},
	} {
		if got := lastLines(c.text, c.n); got != c.want {
			t.Errorf("lastLines(%q, %d) = %q, want %q", c.text, c.n, got, c.want)
		}
	}
	if got := (&Cluster{dir: filepath.Join(t.TempDir(), "none")}).LogTail(3); got != "" {
		t.Errorf("tail without a log is %q", got)
	}
}
