package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-relay/relay/test/output"
)

// startBouncer starts a PgBouncer in transaction mode in front of a stage's server, and returns the URL of the stage's database
// by way of it.
func startBouncer(t *testing.T, s *stage, more string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // not everybody's PATH has it
	}
	dir, err := os.MkdirTemp("", "bouncer") //nolint:usetesting // its path is short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	for name, text := range map[string]string{
		"users": `"postgres" ""` + "\n",
		"ini": fmt.Sprintf("[databases]\n* = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\n"+
			"auth_type = trust\nauth_file = %s/users\npool_mode = transaction\ndefault_pool_size = 4\n%s\n", s.cluster.Port(), port, dir, more),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { // #nosec G306 -- another user reads it
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // #nosec G302 -- another user reads it
		t.Fatal(err)
	}
	cmd := exec.Command(program, filepath.Join(dir, "ini"))
	if os.Geteuid() == 0 { // it refuses to run as root
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	log := output.Once("log of pgbouncer")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("pgbouncer:\n%s", log.Said(t))
		}
	})
	eventually(t, "the pooler listens", func() bool {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return strings.Replace(s.url, fmt.Sprint(":", s.cluster.Port()), ":"+port, 1)
}

// A pooler in transaction mode gives each transaction another session, and knows few settings.
func TestRelay_WorksThroughAPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	for name, more := range map[string]string{
		"as it comes":                  "",
		"that takes settings silently": "ignore_startup_parameters = extra_float_digits,row_security,statement_timeout,idle_in_transaction_session_timeout,idle_session_timeout,lock_timeout,bytea_output,xmloption,IntervalStyle,plan_cache_mode",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			pooled := startBouncer(t, s, more)
			s.env = append(s.env, "RELAY_DATABASE_URL="+pooled, "RELAY_DATABASE_REPLICATION_URL="+s.url)
			s.command("migrate")
			all := s.subscribeByCommand("all", "acme", "*")
			failing := s.subscribeByCommand("failing", "acme", "*")
			s.recv.set("failing", behaviour{status: 200, first: 503})
			l := newLedger(s, "acme", 10)
			r := s.start()
			l.write(2, 60)
			l.wait()
			l.settle(patience, all, failing)
			if repeats := l.check(nil, all, failing); repeats != 0 {
				t.Errorf("%d repeats", repeats)
			}
			l.books(all, failing)
			if out := s.command("deliveries", "list", "--subscription", all.id); !strings.Contains(out, "DELIVERED") {
				t.Errorf("deliveries list: %s", out)
			}
			if out := s.command("audit"); !strings.Contains(out, "missing                0") {
				t.Errorf("audit: %s", out)
			}
			if r.log.Count("prepared statement") > 0 || r.log.Count("startup parameter") > 0 {
				t.Error("the log has errors of the pooler")
			}
			r.terminate()
		})
	}
}
