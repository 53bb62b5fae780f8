package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/progress"
)

// errNoTable is returned when there is no outbox table.
var errNoTable = errors.New("the outbox table does not exist")

// findTable makes sure that the table is there. was is what progress belongs to: a table that was renamed is found by its
// oid.
func findTable(ctx context.Context, db cdc.Queryer, have, was progress.Binding) error {
	if have.TableOID != 0 {
		return nil
	}
	var now string
	if err := db.QueryRow(ctx, `SELECT coalesce((SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = $1), '')`, was.TableOID).Scan(&now); err != nil {
		return fmt.Errorf("look for table %s: %w", have.Table, err)
	}
	remedy := "create it, or correct outbox.table"
	switch {
	case now != "" && was.Table == have.Table:
		remedy = fmt.Sprintf("it is called %s now: set outbox.table to that name, or rename it back", now)
	case have.Table == outbox.DefaultTable:
		remedy = "`relay migrate` makes it"
	}
	return health.Errorf(health.Misconfigured, remedy, "%w: %s", errNoTable, have.Table)
}

// checkSource looks whether the stream and a SELECT both show the whole outbox, and whether its rows can become events.
func (d *Daemon) checkSource(ctx context.Context) (health.Condition, bool, error) {
	c := d.cfg()
	s := outbox.Source{Mapping: mappingOptions(c), Publication: c.CDC.Publication}
	if f := Facts(c); f.ReplicationRole != f.Role {
		s.Replicator = f.ReplicationRole
	}
	return s.Check(ctx, d.pool)
}

// refuseSource is checkSource before anything is made or read.
func (d *Daemon) refuseSource(ctx context.Context) error {
	c, ok, err := d.checkSource(ctx)
	if err == nil && !ok {
		err = health.NewFault(c)
	}
	return err
}

// lookAtSource shows what is wrong with the outbox, and reports whether all is well.
func (l *leader) lookAtSource(ctx context.Context) bool {
	asked, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, ok, err := l.d.checkSource(asked)
	switch {
	case ctx.Err() != nil:
		return false
	case err != nil:
		l.trouble(health.PartSource, err)
		return false
	case !ok:
		l.d.board.Raise(health.PartSource, c)
		return false
	}
	l.works(health.PartSource)
	l.d.board.Clear(health.PartSource)
	return true
}

// awaitSource returns when rows of the outbox can be taken in: before, all of them would go into quarantine, or be overlooked.
func (l *leader) awaitSource(ctx context.Context) error {
	for !l.lookAtSource(ctx) {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}
