package pgcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// StopMode is how a server is asked to stop, as in pg_ctl's -m.
type StopMode int

const (
	// Fast ends all sessions with 57P01, waits for logical replication to confirm what was sent, and writes a
	// checkpoint.
	Fast StopMode = iota
	// Immediate ends without a checkpoint, as a crash does: the next start recovers.
	Immediate
	// Smart waits until all clients have gone, with no limit but the context.
	Smart
)

func (m StopMode) String() string {
	switch m {
	case Immediate:
		return "immediate"
	case Smart:
		return "smart"
	default:
		return "fast"
	}
}

func (m StopMode) signal() syscall.Signal {
	switch m {
	case Immediate:
		return syscall.SIGQUIT
	case Smart:
		return syscall.SIGTERM
	default:
		return syscall.SIGINT
	}
}

// startLimit bounds the wait for a server that neither becomes ready nor ends, crash recovery included.
const startLimit = 2 * time.Minute

// Options say what kind of server to run. The zero value is right for tests.
type Options struct {
	// BinDir is the folder of initdb and postgres, to choose among several majors. Empty: FindBinDir.
	BinDir string
	// Fsync makes commits durable against a crash of the machine. It does not matter for a crash of the server.
	Fsync bool
	// Settings are lines of postgresql.conf, by name; they win over the package's own. The cluster's
	// port and addresses cannot be set.
	Settings map[string]string

	// port is what tests of the port race set; 0 takes a free one.
	port int
}

// Cluster is one PostgreSQL server with its own data. Its methods may be called from any goroutine; those that start
// and stop the server wait for one another.
type Cluster struct {
	options Options
	binDir  string
	account account
	dir     string
	port    int
	major   int
	lock    *os.File // held while this owner lives; see sweep

	lifecycle sync.Mutex // serialises Start, Stop, Restart, Close
	closed    bool       // guarded by lifecycle

	mu      sync.Mutex // guards current
	current *process   // nil before the first start
}

// errPortTaken says that another process listens on the cluster's port.
var errPortTaken = errors.New("port is taken")

// Start removes what dead owners left, makes a new cluster and returns when it accepts connections. The caller must
// Close it. The error ends with the server's last log lines when the server said why.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if err := checkSettings(o.Settings); err != nil {
		return nil, err
	}
	binDir := o.BinDir
	if binDir == "" {
		found, err := FindBinDir()
		if err != nil {
			return nil, err
		}
		binDir = found
	} else if !hasServer(binDir) {
		return nil, fmt.Errorf("use %s: %w", binDir, ErrNoBinaries)
	}
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	base := tempBase(os.TempDir(), as)
	sweep(base, as)

	c := &Cluster{options: o, binDir: binDir, account: as}
	if err := c.create(ctx, base); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// startOnFreePort is the first start: it tries other ports while others take those that it has chosen.
func (c *Cluster) startOnFreePort(ctx context.Context) error {
	const tries = 10
	for try := 1; ; try++ {
		err := c.choosePort()
		if err == nil {
			err = c.Start(ctx)
		}
		if err == nil || !errors.Is(err, errPortTaken) || try == tries {
			return err
		}
		c.options.port = 0
	}
}

// makeDir makes the cluster's directory under base and marks it as in use.
func (c *Cluster) makeDir(base string) error {
	dir, err := os.MkdirTemp(base, fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return fmt.Errorf("make cluster directory: %w", err)
	}
	c.dir = dir
	if c.lock, err = lockOwner(dir); err != nil {
		return err
	}
	return c.give(dir)
}

// give makes a path belong to the server's user.
func (c *Cluster) give(path string) error {
	if c.account.credential == nil {
		return nil
	}
	if err := os.Lchown(path, c.account.uid, c.account.gid); err != nil {
		return fmt.Errorf("give %s to uid %d: %w", path, c.account.uid, err)
	}
	return nil
}

// create makes the directory and runs initdb in it.
func (c *Cluster) create(ctx context.Context, base string) error {
	if err := c.makeDir(base); err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(c.binDir, "initdb"), "-D", c.DataDir(), "-U", "postgres", // #nosec G204 -- the server programs of this machine
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	cmd.Stdout, cmd.Stderr = &out, &out
	c.prepare(cmd)
	// initdb runs postgres in turn: the whole session ends with it.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	p, err := spawn(cmd)
	if ctx.Err() != nil && err != nil { // which exec tells without its cause
		return fmt.Errorf("run initdb: %w", context.Cause(ctx))
	}
	if err != nil {
		return c.explainSpawn("run initdb", err)
	}
	if <-p.done; p.err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("run initdb: %w", context.Cause(ctx))
		}
		return fmt.Errorf("run initdb: %w\n%s", p.err, strings.TrimSpace(out.String()))
	}
	version, err := os.ReadFile(filepath.Join(c.DataDir(), "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("read server version: %w", err)
	}
	if c.major, err = strconv.Atoi(strings.TrimSpace(string(version))); err != nil {
		return fmt.Errorf("read server version: %w", err)
	}
	return nil
}

// choosePort takes the port for the life of the cluster and writes the configuration with it.
func (c *Cluster) choosePort() error {
	c.port = c.options.port
	if c.port == 0 {
		port, err := freePort()
		if err != nil {
			return err
		}
		c.port = port
	}
	path := filepath.Join(c.DataDir(), "relay.conf")
	if err := os.WriteFile(path, []byte(configLines(c.options, c.dir, c.port)), 0o644); err != nil { // #nosec G306 -- PostgreSQL may run as another user, and there is no password in it
		return fmt.Errorf("write server settings: %w", err)
	}
	main := filepath.Join(c.DataDir(), "postgresql.conf")
	text, err := os.ReadFile(main) // #nosec G304 -- in a directory of ours
	if err != nil {
		return fmt.Errorf("read server settings: %w", err)
	}
	const include = "include 'relay.conf'\n"
	if bytes.HasSuffix(text, []byte(include)) {
		return nil
	}
	if err := os.WriteFile(main, append(text, include...), 0o600); err != nil { // #nosec G703 -- in a directory of ours
		return fmt.Errorf("write server settings: %w", err)
	}
	return nil
}

// prepare gives a program of the server its user, session, environment and a working directory that user can enter.
func (c *Cluster) prepare(cmd *exec.Cmd) {
	cmd.Dir = c.dir
	cmd.Env = cleanEnv()
	cmd.SysProcAttr = sessionOf(c.account)
}

func (c *Cluster) explainSpawn(what string, err error) error {
	if c.account.credential != nil && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL)) {
		return fmt.Errorf("%s as uid %d: %w; this root may not change its user, run as an ordinary user",
			what, c.account.uid, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Start starts a stopped server on the same data and port and returns when it accepts connections. A running
// server is left alone. After a crash this includes recovery.
func (c *Cluster) Start(ctx context.Context) error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	return c.start(ctx)
}

// Stop stops the server and returns when the postmaster is reaped. A stopped server is left alone. When ctx ends
// first, the server has its order but still runs; a later Stop may be harder.
func (c *Cluster) Stop(ctx context.Context, mode StopMode) error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	return c.stop(ctx, mode)
}

// Restart is Stop and Start with nothing of this Cluster in between.
func (c *Cluster) Restart(ctx context.Context, mode StopMode) error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	if err := c.stop(ctx, mode); err != nil {
		return err
	}
	return c.start(ctx)
}

// Close stops the server at once, as a crash does, and removes its directory. It may be called again.
func (c *Cluster) Close() error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	if c.closed {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	if err := c.stop(ctx, Immediate); err != nil {
		p := c.process()
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill server: %w", err)
		}
		<-p.done
	}
	c.closed = true
	var errs []error
	if c.dir != "" {
		if err := removeDir(c.dir); err != nil {
			errs = append(errs, fmt.Errorf("remove cluster directory: %w", err))
		}
	}
	if c.lock != nil {
		errs = append(errs, c.lock.Close())
	}
	return errors.Join(errs...)
}

// URL is the connection string of a database for the superuser.
func (c *Cluster) URL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Host: "127.0.0.1:" + strconv.Itoa(c.port),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// CreateDatabase makes an empty database and returns its URL.
func (c *Cluster) CreateDatabase(ctx context.Context, name string) (string, error) {
	return c.createDatabase(ctx, name, "")
}

// CopyDatabase makes a database like another, on which no session may be, and returns its URL.
func (c *Cluster) CopyDatabase(ctx context.Context, name, like string) (string, error) {
	// The files are copied, and not by way of the WAL, which walsenders of other databases would have to read.
	return c.createDatabase(ctx, name, " TEMPLATE "+pgx.Identifier{like}.Sanitize()+" STRATEGY file_copy")
}

// CreateDatabaseIn makes an empty database of an encoding and returns its URL.
func (c *Cluster) CreateDatabaseIn(ctx context.Context, name, encoding string) (string, error) {
	return c.createDatabase(ctx, name, " TEMPLATE template0 LOCALE 'C' ENCODING '"+encoding+"'")
}

func (c *Cluster) createDatabase(ctx context.Context, name, how string) (string, error) {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+how); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return c.URL(name), nil
}

// Port is the TCP port on 127.0.0.1; it stays the same until Close.
func (c *Cluster) Port() int { return c.port }

// DataDir is the server's data directory.
func (c *Cluster) DataDir() string { return filepath.Join(c.dir, "data") }

// SocketDir is the folder of the Unix socket, for psql -h.
func (c *Cluster) SocketDir() string { return c.dir }

// Version is the server's major version.
func (c *Cluster) Version() int { return c.major }

// PID is the postmaster's process id, 0 while the server is stopped.
func (c *Cluster) PID() int {
	if p := c.process(); p != nil && !p.ended() {
		return p.pid
	}
	return 0
}

// Done is closed when the server that runs now has ended, for whatever reason. Each start makes a new one.
func (c *Cluster) Done() <-chan struct{} {
	if p := c.process(); p != nil {
		return p.done
	}
	ended := make(chan struct{})
	close(ended)
	return ended
}

func (c *Cluster) process() *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}
