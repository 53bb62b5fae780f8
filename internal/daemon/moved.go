package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/time/rate"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
)

// movedRows finds out about rows that name another transaction than the one that brings them. An UPDATE that moves a row to
// another partition is published as an INSERT, with the row's own transaction id. Rows that were restored, or whose writer
// has set an id, look the same: what tells them apart is whether anything is on record of the event.
type movedRows struct {
	db      deliver.Pool
	onError func(error) // nil: it works
	tell    rate.Sometimes
	n       int // since it was told

	tellUnproven rate.Sometimes
	unproven     int // since it was told
}

// commitWithin is how long after the time in an event's id its transaction may have committed for its record to be found.
const commitWithin = time.Hour

// known reports whether an event is on record from an earlier transaction than the one that commits at a place. It tries
// until the database answers.
func (m *movedRows) known(ctx context.Context, event uuid.UUID, tenant string, commit cdc.LSN) (bool, error) {
	const q = `
SELECT EXISTS (SELECT FROM relay.parked WHERE id >= $2 AND id < $3 AND event_id = $6 AND commit_lsn < $7::text::pg_lsn AND replay_id IS NULL)
    OR EXISTS (SELECT FROM relay.quarantine WHERE event_id = $6::uuid::text AND commit_lsn < $7::text::pg_lsn)
    OR EXISTS (SELECT FROM relay.deliveries WHERE tenant_id = $1 AND id >= $2 AND id < $3 AND created_at >= $4 AND created_at < $5
                  AND event_id = $6 AND commit_lsn < $7::text::pg_lsn AND replay_id IS NULL)`
	from, to := uuid.Nil, uuid.Nil // none
	var made time.Time
	if event.Version() == 7 {
		// A clock that was set back, or is not the database's, is a minute off at most.
		made = outbox.TimeOfID(event).Add(-time.Minute)
		from, to = deliver.IDsFrom(made), deliver.IDsFrom(made.Add(commitWithin))
	}
	for {
		var known bool
		err := deliver.Reading(ctx, m.db, func(tx pgx.Tx) error { // records may be moved to another partition meanwhile
			return tx.QueryRow(ctx, q, tenant, from, to, made, made.Add(commitWithin), event, commit.String()).Scan(&known)
		})
		if err == nil {
			m.onError(nil)
			return known, nil
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		m.onError(err)
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return false, err
		}
	}
}

// lookingForMoved notes whether the record of an event could be looked up.
func (l *leader) lookingForMoved(err error) {
	if err == nil {
		l.works(health.PartRouting)
		return
	}
	l.trouble(health.PartRouting, fmt.Errorf("look for a moved row: %w", err))
}

// passMoved settles a row that was moved, and counts it.
func (in *intake) passMoved(ticket deliver.Ticket) {
	ticket.Done()
	in.metrics.Moved()
	in.moved.n++
	in.moved.tell.Do(func() {
		in.log.Warn("rows moved to another partition, not sent again", "rows", in.moved.n,
			"hint", "an UPDATE of the outbox changes nothing of what is sent; insert another event instead")
		in.moved.n = 0
	})
}

// noteUnproven counts a row that goes on although it names another transaction. Were it missing from the stream, neither the
// audit nor a rescue could tell, because both go by the transaction that a row names.
func (in *intake) noteUnproven() {
	in.metrics.Unproven()
	in.moved.unproven++
	in.moved.tellUnproven.Do(func() {
		in.log.Warn("rows name another transaction than their own; they are sent, but neither the audit nor a rescue can vouch for them",
			"rows", in.moved.unproven,
			"hint", "leave the column xid to its default, and out of what a publication brings from another database")
		in.moved.unproven = 0
	})
}
