package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// StandbyOptions say what a standby is like. The zero value is an asynchronous streaming standby.
type StandbyOptions struct {
	// Name is the standby's physical slot on the primary and its application_name. Empty: standby.
	Name string
	// SyncSlots makes the standby copy the primary's failover slots (PostgreSQL 17 and later), from Database.
	SyncSlots bool
	// Database is where the standby connects to for that. Empty: postgres.
	Database string
	// Settings are lines of the standby's postgresql.conf. It has those of the primary besides.
	Settings map[string]string
}

// NewStandby makes a streaming standby of a running server and returns when it accepts connections, which are read-only until
// Promote. It is a Cluster like any other: Stop and Start cut it off and let it catch up; the caller must Close it, before
// the primary.
func (c *Cluster) NewStandby(ctx context.Context, o StandbyOptions) (*Cluster, error) {
	if o.SyncSlots && c.major < 17 {
		return nil, fmt.Errorf("make standby: PostgreSQL %d does not synchronise slots; take 17 or later", c.major)
	}
	if o.Name == "" {
		o.Name = "standby"
	}
	if o.Database == "" {
		o.Database = "postgres"
	}
	settings := maps.Clone(c.options.Settings)
	if settings == nil {
		settings = make(map[string]string)
	}
	settings["primary_conninfo"] = fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=%s application_name=%s",
		c.port, o.Database, o.Name)
	settings["primary_slot_name"] = o.Name
	settings["wal_retrieve_retry_interval"] = "100ms" // a primary that comes back is found soon
	if o.SyncSlots {
		settings["sync_replication_slots"] = "on"
		settings["hot_standby_feedback"] = "on"
	}
	maps.Copy(settings, o.Settings)
	if err := checkSettings(settings); err != nil {
		return nil, err
	}
	s := &Cluster{
		options: Options{BinDir: c.binDir, Fsync: c.options.Fsync, Settings: settings},
		binDir:  c.binDir, account: c.account, major: c.major,
	}
	if err := s.follow(ctx, c, o.Name); err != nil {
		return nil, errors.Join(fmt.Errorf("make standby: %w", err), s.Close())
	}
	if err := s.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make standby: %w", err), s.Close())
	}
	return s, nil
}

// follow makes the slot on the primary, and the data directory as a copy of the primary's.
func (c *Cluster) follow(ctx context.Context, primary *Cluster, slot string) error {
	if err := c.makeDir(filepath.Dir(primary.dir)); err != nil {
		return err
	}
	if err := primary.exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", slot); err != nil {
		return fmt.Errorf("create slot %s: %w", slot, err)
	}
	if err := os.Mkdir(c.DataDir(), 0o700); err != nil {
		return err
	}
	if err := c.give(c.DataDir()); err != nil {
		return err
	}
	if err := primary.copyRunning(ctx, c.DataDir(), false); err != nil {
		return err
	}
	// The slots of the primary are not the standby's.
	slots := filepath.Join(c.DataDir(), "pg_replslot")
	entries, err := os.ReadDir(slots)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(slots, e.Name())); err != nil {
			return err
		}
	}
	return c.writeFile(filepath.Join(c.DataDir(), "standby.signal"), "")
}

// Promote makes a standby a primary and returns when it takes writes, on a new timeline. The old primary may live or not:
// nobody tells it.
func (c *Cluster) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return fmt.Errorf("promote standby: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var done bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, 60)").Scan(&done); err != nil {
		return fmt.Errorf("promote standby: %w", err)
	}
	if !done {
		return errors.New("promote standby: it was not done in a minute")
	}
	return nil
}

// WaitCaughtUp returns when the standby has replayed all that the primary had written when it was called.
func (c *Cluster) WaitCaughtUp(ctx context.Context, primary *Cluster) error {
	from, err := pgx.Connect(ctx, primary.URL("postgres"))
	if err != nil {
		return fmt.Errorf("wait for standby: %w", err)
	}
	defer from.Close(context.WithoutCancel(ctx))
	var position string
	if err := from.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&position); err != nil {
		return fmt.Errorf("wait for standby: %w", err)
	}
	// A commit that does not wait for its flush is not sent before somebody flushes.
	if _, err := from.Exec(ctx, "SELECT pg_logical_emit_message(true, 'pgcluster', 'flush')"); err != nil {
		return fmt.Errorf("wait for standby: %w", err)
	}
	return c.waitUntil(ctx, "postgres", "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", position)
}

// WaitSlotSynced returns when the standby's copy of a failover slot would survive a promotion: synced, and not temporary any
// more. For that the slot must move on the primary, so a consumer that confirms must be on it; this function makes the WAL
// that it takes (messages without effect, in the database).
func (c *Cluster) WaitSlotSynced(ctx context.Context, primary *Cluster, database, slot string) error {
	conn, err := pgx.Connect(ctx, primary.URL(database))
	if err != nil {
		return fmt.Errorf("wait for slot %s on the standby: %w", slot, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		for _, sql := range []string{
			"SELECT pg_log_standby_snapshot()",
			"SELECT pg_logical_emit_message(true, 'pgcluster', 'moves the slot')",
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("wait for slot %s on the standby: %w", slot, err)
			}
		}
		soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		err := c.waitUntil(soon, "postgres",
			"SELECT count(*) = 1 FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary", slot)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for slot %s on the standby: %w", slot, err)
		}
	}
}

// PairURL is the connection string of several servers: a client takes the first that takes writes.
func PairURL(database string, clusters ...*Cluster) string {
	var hosts []string
	for _, c := range clusters {
		hosts = append(hosts, net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)))
	}
	u := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Host: strings.Join(hosts, ","), Path: "/" + database,
		RawQuery: "sslmode=disable&target_session_attrs=read-write",
	}
	return u.String()
}

// exec runs one statement as the superuser.
func (c *Cluster) exec(ctx context.Context, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// waitUntil repeats a question until the answer is true.
func (c *Cluster) waitUntil(ctx context.Context, database, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, c.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var done bool
		if err := conn.QueryRow(ctx, sql, args...).Scan(&done); err != nil {
			return err
		}
		if done {
			return nil
		}
		if err := pause(ctx, 4*pollEvery); err != nil {
			return fmt.Errorf("%s: still not: %w", sql, err)
		}
	}
}
