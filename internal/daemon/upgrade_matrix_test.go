//go:build matrix

package daemon_test

import (
	"context"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// pg_upgrade makes a server with another identity and without slots. The relay refuses
// it until somebody says that it is the one, and then reads the gap alone, because
// transaction ids are carried over. The upgrade is from a major to itself, which
// goes the same way; the server packages of the other majors have no pg_upgrade.
func TestUpgrade_IsRefusedUntilSomebodySaysSoAndThenRescued(t *testing.T) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_upgrade")
	if err != nil || len(found) == 0 {
		t.Fatalf("no pg_upgrade in /usr/lib/postgresql (%v); install the distribution's PostgreSQL server", err)
	}
	bin := filepath.Dir(found[0])
	from, to := pgtest.NewCluster(t, pgcluster.Options{BinDir: bin}), pgtest.NewCluster(t, pgcluster.Options{BinDir: bin})
	url, err := from.CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	r := newRigOn(t, url, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.orders(0, 30)
	r.eventually("rows arrive", func() bool { return len(rec.arrivals()) == 30 })
	r.audited(d)
	d.stop()
	r.orders(30, 40)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, c := range []*pgcluster.Cluster{from, to} {
		if err := c.Stop(ctx, pgcluster.Fast); err != nil {
			t.Fatal(err)
		}
	}
	upgrade := exec.CommandContext(ctx, found[0], "-b", bin, "-B", bin, "-d", from.DataDir(), "-D", to.DataDir(), "-U", "postgres",
		"-s", to.DataDir())
	upgrade.Dir = to.DataDir()
	if syscall.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		upgrade.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	if out, err := upgrade.CombinedOutput(); err != nil {
		t.Fatalf("pg_upgrade: %v\n%s", err, out)
	}
	if err := to.Start(ctx); err != nil {
		t.Fatal(err)
	}
	r = newRigOn(t, to.URL("app"), quickMarkers)
	r.orders(40, 45)
	d = r.launch()
	r.eventually("it refuses the server", func() bool {
		s := d.Status()
		return s.State == "wrong_server" && strings.Contains(s.Detail, "relay rescue")
	})
	if n := len(rec.arrivals()); n != 30 {
		t.Errorf("%d rows were sent although nobody has said that this is the server", n-30)
	}
	r.exec("INSERT INTO relay.requests (kind, target) VALUES ('rescue', $1)", r.slot())
	r.eventually("the gap arrives", func() bool { return len(rec.orderNumbers(t)) == 45 })
	r.audited(d)
	d.stop()
	if n := r.mustHaveEach(rec, 45); n != 0 {
		t.Errorf("%d rows were sent twice", n)
	}
}
