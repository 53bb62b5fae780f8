//go:build matrix && linux

package e2e_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
)

// The WAL is on a volume of its own, which another program fills. It takes root to mount one; make test-matrix says so.
func TestRelay_OutlastsAFullDiskOfPostgreSQL(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small volume")
	}
	s := newOwnStage(t)
	wal := filepath.Join(s.cluster.DataDir(), "pg_wal")
	s.stopServer(t.Context(), pgcluster.Fast)
	moved := wal + ".moved"
	if err := os.Rename(wal, moved); err != nil {
		t.Fatal(err)
	}
	owner, err := os.Stat(moved)
	if err != nil {
		t.Fatal(err)
	}
	stat := owner.Sys().(*syscall.Stat_t)
	if err := os.Mkdir(wal, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", wal, "tmpfs", 0, "size=128m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.cluster.Stop(t.Context(), pgcluster.Immediate); err != nil {
			t.Log(err) // Close is harder on it
		}
		if err := syscall.Unmount(wal, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(wal, os.DirFS(moved)); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(wal, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Chmod(path, 0o700); err != nil {
			return err
		}
		return os.Chown(path, int(stat.Uid), int(stat.Gid))
	})
	if err != nil {
		t.Fatal(err)
	}
	s.startServer()

	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start()
	l.add(0, 10)
	l.settle(patience, all)
	fill := filepath.Join(wal, "filler")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, zeroes{}); err == nil {
		t.Fatal("the volume does not end")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	l.write(1, 10_000) // until the server panics
	for range 200 {
		// A segment is switched while there is one, and then PostgreSQL has to make one.
		if conn, err := pgx.Connect(t.Context(), s.url); err == nil {
			_, _ = conn.Exec(t.Context(), "SELECT pg_switch_wal()")
			_ = conn.Close(t.Context())
		}
		if s.cluster.PID() == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	eventually(t, "PostgreSQL has ended", func() bool { return s.cluster.PID() == 0 })
	s.db.Reset()
	s.stopped = true
	if err := s.cluster.Start(t.Context()); err == nil {
		t.Fatal("PostgreSQL starts on a full volume")
	}
	eventually(t, "the relay is not ready", func() bool { return r.httpCode("/readyz") == http.StatusServiceUnavailable })
	before, began := r.log.Count("\n"), time.Now()
	eventually(t, "five seconds have passed", func() bool { return time.Since(began) > 5*time.Second })
	if n := r.log.Count("\n") - before; n > 200 {
		t.Errorf("%d lines in the log in five seconds", n)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s.startServer()
	l.wait()
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all)
	r.terminate()
}

// zeroes has no end.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
