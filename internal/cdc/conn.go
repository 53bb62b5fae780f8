package cdc

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/postgres"
)

// Identity names a server and its history.
type Identity struct {
	SystemID string // system identifier, the same for a primary and its standbys
	Timeline int32  // grows by one with each promotion
	XLogPos  LSN    // current flush position
	Database string
}

// Conn is a replication connection that is not streaming yet.
type Conn struct {
	pg            *pgconn.PgConn
	identity      Identity
	senderTimeout time.Duration
	version       int
}

// Connect opens a replication connection and asks the server who it is. url is
// an ordinary connection string and must lead to PostgreSQL itself: a pooler
// refuses replication.
func Connect(ctx context.Context, url, applicationName string) (*Conn, error) {
	pg, err := postgres.Replicate(ctx, url, postgres.Options{Application: applicationName})
	if err != nil {
		return nil, health.During(health.ConnectReplication, fmt.Errorf("connect for replication: %w", err))
	}
	c := &Conn{pg: pg}
	if err := c.identify(ctx); err != nil {
		c.Close()
		return nil, health.During(health.ConnectReplication, err)
	}
	return c, nil
}

func (c *Conn) identify(ctx context.Context) error {
	sys, err := pglogrepl.IdentifySystem(ctx, c.pg)
	if err != nil {
		return fmt.Errorf("identify system: %w", err)
	}
	c.identity = Identity{SystemID: sys.SystemID, Timeline: sys.Timeline, XLogPos: sys.XLogPos, Database: sys.DBName}
	timeout, err := c.show(ctx, "wal_sender_timeout")
	if err != nil {
		return err
	}
	c.senderTimeout = parseGUCDuration(timeout)
	version, err := c.show(ctx, "server_version_num")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(version)
	if err != nil {
		return fmt.Errorf("read server_version_num %q: %w", version, err)
	}
	c.version = n / 10000
	return nil
}

func (c *Conn) show(ctx context.Context, name string) (string, error) {
	results, err := c.pg.Exec(ctx, "SHOW "+name).ReadAll()
	if err != nil {
		return "", fmt.Errorf("show %s: %w", name, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return "", fmt.Errorf("show %s: unexpected answer", name)
	}
	return string(results[0].Rows[0][0]), nil
}

// parseGUCDuration reads a time setting as SHOW prints it ("60s", "1min",
// "250ms", "0"). What it cannot read counts as 0, no limit.
func parseGUCDuration(s string) time.Duration {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	if err != nil {
		return 0
	}
	unit := map[string]time.Duration{
		"": time.Millisecond, "us": time.Microsecond, "ms": time.Millisecond, "s": time.Second,
		"min": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}[s[i:]]
	return time.Duration(n) * unit
}

// Identity returns what the server said of itself when the connection opened.
func (c *Conn) Identity() Identity { return c.identity }

// ServerVersion is the server's major version.
func (c *Conn) ServerVersion() int { return c.version }

// Close closes the connection without ceremony.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.pg.Close(ctx)
}
