package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options say what sessions are for.
type Options struct {
	Application string            // application_name
	Settings    map[string]string // of each session, over those of the connection string
	Defaults    map[string]string // of each session, where the connection string has none
	Connections int               // the most of a pool; 0: what pgx takes
	Direct      bool              // no pooler is in the way, and none is looked for
}

// connectTimeout bounds the making of a connection when the connection string does not.
const connectTimeout = 10 * time.Second

// ParseConfig reads a connection string. Its errors hold nothing of it.
func ParseConfig(url string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	prepare(&c.Config)
	// Of the modes that a connection string may ask for, some cannot do all that the relay needs.
	c.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	return c, nil
}

// Open makes a pool, which connects when it is first used.
func Open(ctx context.Context, url string, o Options) (*pgxpool.Pool, error) {
	conn, err := ParseConfig(url)
	if err != nil {
		return nil, err
	}
	c, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	pin(&conn.Config, o)
	c.ConnConfig = conn
	if o.Connections > 0 {
		c.MaxConns = int32(o.Connections) // #nosec G115 -- a few
	}
	// An idle relay leaves the database alone.
	c.MinConns, c.MaxConnIdleTime, c.HealthCheckPeriod = 0, 5*time.Minute, time.Minute
	var way way
	c.BeforeConnect = way.adapt
	// A session that takes no writes, because its server became a standby or a reader, is not used again, nor are those that
	// were made before: each new one leads to where the writer is by now.
	var pool atomic.Pointer[pgxpool.Pool]
	keep := conn.OnPgError
	conn.OnPgError = func(session *pgconn.PgConn, err *pgconn.PgError) bool {
		if err.Code == "25006" {
			if p := pool.Load(); p != nil {
				go p.Reset() // it takes the lock of a pool that may wait for this session
			}
			return false
		}
		return keep == nil || keep(session, err)
	}
	p, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	pool.Store(p)
	return p, nil
}

// Configure is how to open one session of a server that it has asked.
func Configure(ctx context.Context, url string, o Options) (*pgx.ConnConfig, error) {
	c, err := ParseConfig(url)
	if err != nil {
		return nil, err
	}
	pin(&c.Config, o)
	if o.Direct {
		return c, nil
	}
	var way way
	if err := way.adapt(ctx, c); err != nil {
		return nil, err
	}
	return c, nil
}

// Connect opens one session.
func Connect(ctx context.Context, url string, o Options) (*pgx.Conn, error) {
	c, err := Configure(ctx, url, o)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}

// Replicate opens a session of a walsender, to PostgreSQL itself: no pooler speaks its protocol.
func Replicate(ctx context.Context, url string, o Options) (*pgconn.PgConn, error) {
	parsed, err := ParseConfig(url)
	if err != nil {
		return nil, err
	}
	c := &parsed.Config
	set(c, bounds) // also when the connection string has others, which are meant for statements
	pin(c, o)
	set(c, map[string]string{"replication": "database", "TimeZone": "UTC", "lock_timeout": "0"})
	// After a failover a list of hosts must lead to the new primary.
	if c.ValidateConnect == nil && severalHosts(c) {
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	return pgconn.ConnectConfig(ctx, c)
}

// prepare gives a configuration what belongs to the socket, and takes from the session what does.
func prepare(c *pgconn.Config) {
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	c.DialFunc = dialer(c.RuntimeParams, c.ConnectTimeout).DialContext
	for name := range c.RuntimeParams {
		if ofLibpq[name] {
			delete(c.RuntimeParams, name)
		}
	}
	after := c.AfterConnect
	c.AfterConnect = func(ctx context.Context, session *pgconn.PgConn) error {
		if after != nil {
			if err := after(ctx, session); err != nil {
				return err
			}
		}
		return unbound(ctx, session)
	}
}

// unbound takes a bound away that cannot be a startup parameter, because older servers would refuse it.
func unbound(ctx context.Context, session *pgconn.PgConn) error {
	if major(session.ParameterStatus("server_version")) < 17 {
		return nil
	}
	if _, err := session.Exec(ctx, "SET "+sinceVersion17+" = 0").ReadAll(); err != nil {
		return fmt.Errorf("set %s: %w", sinceVersion17, err)
	}
	return nil
}

// major is the major version of a server by the text that it reports.
func major(version string) int {
	n := 0
	for _, d := range version {
		if d < '0' || d > '9' {
			break
		}
		n = n*10 + int(d-'0')
	}
	return n
}

func severalHosts(c *pgconn.Config) bool {
	return slices.ContainsFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.Host != c.Host || f.Port != c.Port })
}

// way is what is known of the way to a server: nothing, or whether a pooler stands in it.
type way struct{ seen atomic.Pointer[bool] }

// adapt makes a configuration fit for a pooler in transaction mode, if one stands in the way: a statement that is prepared
// by name may meet another session of the server when it is used, and a pooler refuses settings that it does not know.
func (w *way) adapt(ctx context.Context, c *pgx.ConnConfig) error {
	pooled := w.seen.Load()
	if pooled == nil {
		found, err := throughAPooler(ctx, &c.Config)
		if err != nil {
			return err
		}
		pooled = &found
		w.seen.Store(pooled)
	}
	if *pooled {
		leaveToPooler(&c.Config)
		c.AfterConnect = nil // what it sets would stay with whoever comes next
		c.DefaultQueryExecMode, c.StatementCacheCapacity = pgx.QueryExecModeCacheDescribe, 0
	}
	return nil
}

// throughAPooler connects once and looks who answers: a pooler refuses settings, or gives a session another number than
// the server does.
//
// Source: https://www.pgbouncer.org/config.html#ignore_startup_parameters
func throughAPooler(ctx context.Context, c *pgconn.Config) (bool, error) {
	probe := c.Copy()
	probe.RuntimeParams = maps.Clone(c.RuntimeParams)
	conn, err := pgconn.ConnectConfig(ctx, probe)
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "08P01" && strings.Contains(pg.Message, "startup parameter") {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	results, err := conn.Exec(ctx, "SELECT pg_backend_pid()").ReadAll()
	if err != nil {
		return false, fmt.Errorf("ask for the number of the session: %w", err)
	}
	return len(results) == 1 && len(results[0].Rows) == 1 && string(results[0].Rows[0][0]) != fmt.Sprint(conn.PID()), nil
}
