package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// Backup is a copy of a cluster's data directory as it was at one moment, in the directory of that cluster.
type Backup struct {
	of  *Cluster
	dir string
}

// RestoreOptions say what a restored server is like.
type RestoreOptions struct {
	// Slots keeps the replication slots as they were. A snapshot of a volume has them; pg_basebackup leaves them out.
	Slots bool
	// NewTimeline ends recovery on a new timeline, as a restore from an archive does. Without it the server goes on where
	// the backup ends, on the timeline of the backup, as one restored from a snapshot of its volume does.
	NewTimeline bool
}

// Backup copies the data directory: of a running server by the backup API, of a stopped one as it lies there. Slots and all
// WAL that there is are in the copy.
func (c *Cluster) Backup(ctx context.Context) (*Backup, error) {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	dir, err := os.MkdirTemp(c.dir, "backup-")
	if err != nil {
		return nil, fmt.Errorf("make backup: %w", err)
	}
	if err := c.give(dir); err != nil {
		return nil, err
	}
	b := &Backup{of: c, dir: dir}
	if c.PID() == 0 {
		return b, c.copyData(c.DataDir(), dir)
	}
	return b, c.copyRunning(ctx, dir, true)
}

// Restore stops the server as a crash does, puts the backup in the place of its data and starts it, on the same port. The
// backup stays, and can be restored again.
func (c *Cluster) Restore(ctx context.Context, b *Backup, o RestoreOptions) error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	if b.of != c {
		return errors.New("restore backup: it is another cluster's")
	}
	if err := c.stop(ctx, Immediate); err != nil {
		return err
	}
	if err := removeDir(c.DataDir()); err != nil {
		return fmt.Errorf("restore backup: %w", err)
	}
	var leaveOut []string
	if !o.Slots {
		leaveOut = append(leaveOut, "pg_replslot")
	}
	if err := c.copyData(b.dir, c.DataDir(), leaveOut...); err != nil {
		return fmt.Errorf("restore backup: %w", err)
	}
	if o.NewTimeline {
		if err := c.recoverToNewTimeline(); err != nil {
			return fmt.Errorf("restore backup: %w", err)
		}
	}
	if err := c.start(ctx); err != nil {
		return err
	}
	// Reads are allowed a moment before recovery has ended.
	return c.waitUntil(ctx, "postgres", "SELECT NOT pg_is_in_recovery()")
}

// recoverToNewTimeline makes the next start a recovery from an archive that has nothing more.
func (c *Cluster) recoverToNewTimeline() error {
	settings := filepath.Join(c.DataDir(), "postgresql.auto.conf")
	text, err := os.ReadFile(settings) // #nosec G304 -- in a directory of ours
	if err != nil {
		return err
	}
	if err := c.writeFile(settings, string(text)+"restore_command = 'false'\n"); err != nil {
		return err
	}
	return c.writeFile(filepath.Join(c.DataDir(), "recovery.signal"), "")
}

// copyRunning makes a copy that a server can start on. With wal it holds the WAL that it takes to become consistent; without,
// the copy must get that from a primary.
func (c *Cluster) copyRunning(ctx context.Context, to string, wal bool) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if wal {
		// It keeps the WAL of the time of the copying.
		_, err := conn.Exec(ctx, "SELECT pg_create_physical_replication_slot('pgcluster_backup', true, true)")
		if err != nil {
			return fmt.Errorf("back up: keep WAL: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('pgcluster', true)"); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if err := c.copyData(c.DataDir(), to, "pg_wal"); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(false)").Scan(&label); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if wal {
		if err := c.copyData(filepath.Join(c.DataDir(), "pg_wal"), filepath.Join(to, "pg_wal")); err != nil {
			return err
		}
		// The slot that keeps the WAL is no part of the backup.
		if err := os.RemoveAll(filepath.Join(to, "pg_replslot", "pgcluster_backup")); err != nil {
			return fmt.Errorf("back up: %w", err)
		}
	}
	if err := c.writeFile(filepath.Join(to, "backup_label"), label); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}
