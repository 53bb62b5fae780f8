package pgcluster

import (
	"errors"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestStart_RunsServerWithoutPrivileges(t *testing.T) {
	t.Parallel()
	c := mustStart(t, Options{})
	as := mustAccount(t)
	if as.uid == 0 {
		t.Fatal("the server's user is root")
	}
	for _, path := range []string{c.SocketDir(), c.DataDir(), filepath.Join(c.DataDir(), "postmaster.pid")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != as.uid {
			t.Errorf("%s belongs to uid %d, want %d", path, uid, as.uid)
		}
	}
	if os.Geteuid() != 0 && as.credential != nil {
		t.Error("an ordinary user would change its user")
	}
}

// As root this runs an owner as user nobody, else as the user we are.
func TestStart_WorksForOrdinaryUser(t *testing.T) {
	t.Parallel()
	binary := os.Args[0]
	var credential *syscall.Credential
	if os.Geteuid() == 0 {
		nobody, err := unprivileged(func(name string) (*user.User, error) {
			if name != "nobody" {
				return nil, user.UnknownUserError(name)
			}
			return user.Lookup(name)
		})
		if err != nil {
			t.Fatal(err)
		}
		credential = nobody.credential
		binary = copyForAll(t, binary)
	}
	o := startOwner(t, binary, credential)
	if err := o.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(o.out)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(rest)) != "closed" || exists(o.dir) {
		t.Errorf("owner said %q, directory there: %v", rest, exists(o.dir))
	}
}

// copyForAll copies the test binary to where every user may run it.
func copyForAll(t *testing.T, binary string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgcluster-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	text, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "owner")
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUnprivileged_ChoosesUser(t *testing.T) {
	t.Parallel()
	users := func(uids map[string]string) func(string) (*user.User, error) {
		return func(name string) (*user.User, error) {
			uid, ok := uids[name]
			if !ok {
				return nil, user.UnknownUserError(name)
			}
			return &user.User{Uid: uid, Gid: uid}, nil
		}
	}
	for _, c := range []struct {
		name string
		uids map[string]string
		want int // 0: an error
	}{
		{"postgres first", map[string]string{"postgres": "101", "nobody": "65534"}, 101},
		{"nobody without postgres", map[string]string{"nobody": "65534"}, 65534},
		{"never root by another name", map[string]string{"postgres": "0", "nobody": "65534"}, 65534},
		{"no one", nil, 0},
		{"an unreadable uid", map[string]string{"postgres": "S-1-5"}, 0},
	} {
		as, err := unprivileged(users(c.uids))
		if (err == nil) != (c.want != 0) || as.uid != c.want {
			t.Errorf("%s: uid %d, error %v; want uid %d", c.name, as.uid, err, c.want)
		}
	}
}

func TestTempBase_AvoidsWhatServerCannotUse(t *testing.T) {
	t.Parallel()
	stranger := account{uid: 54321, gid: 54321, credential: &syscall.Credential{Uid: 54321, Gid: 54321}}
	closed := filepath.Join("/tmp", "closed-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(closed) })
	long := "/" + strings.Repeat("x", maxBase)
	for _, c := range []struct {
		temp string
		as   account
		want string
	}{
		{"/tmp/", account{}, "/tmp"},
		{long, account{}, "/tmp"},
		{closed, account{}, closed},
		{closed, stranger, "/tmp"},
		{"/no/such/folder", stranger, "/tmp"},
	} {
		if got := tempBase(c.temp, c.as); got != c.want {
			t.Errorf("tempBase(%s) = %s, want %s", c.temp, got, c.want)
		}
	}
}

func TestExplainSpawn_TellsRootWithoutRightsWhatToDo(t *testing.T) {
	t.Parallel()
	c := &Cluster{account: account{uid: 101, credential: &syscall.Credential{Uid: 101}}}
	err := c.explainSpawn("run initdb", syscall.EPERM)
	if !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "ordinary user") {
		t.Errorf("error is %v", err)
	}
}
