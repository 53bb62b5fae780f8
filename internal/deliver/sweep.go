package deliver

import (
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// sweep is a walk through relay.bodies that deletes those that nobody needs, a few
// with a batch: the Recorder alone writes bodies, so none is deleted that is wanted
// again at the same moment, and under an old epoch none is deleted at all.
type sweep struct {
	on    bool
	at    time.Time // of the last step
	lsn   string    // of the last body that was looked at
	event uuid.UUID
	next  sweepStep // what the step of this batch has found
}

type sweepStep struct {
	lsn   string
	event uuid.UUID
	n     int
}

// sweeps tells whether the next batch is to sweep, and begins when it is time.
func (r *Recorder) sweeps(now time.Time) bool {
	if !r.sweep.on && r.sweepDue && now.Sub(r.sweptAt) > sweepEvery {
		r.sweepDue = false
		r.sweep = sweep{on: true, lsn: "0/0"}
	}
	return r.sweep.on && now.Sub(r.sweep.at) >= sweepGap
}

func (r *Recorder) sweepSome(b *pgx.Batch) {
	// Should the answer be lost, the same step comes again.
	r.sweep.next = sweepStep{lsn: r.sweep.lsn, event: r.sweep.event, n: sweepRows}
	b.Queue(sqlSweepBodies, r.sweep.lsn, [16]byte(r.sweep.event), sweepRows).QueryRow(func(row pgx.Row) error {
		var s sweepStep
		err := row.Scan(&s.lsn, &s.event, &s.n)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		r.sweep.next = s
		return nil
	})
}

// swept notes that a step is committed.
func (r *Recorder) swept(now time.Time) {
	s := &r.sweep
	s.at, s.lsn, s.event = now, s.next.lsn, s.next.event
	if s.next.n < sweepRows {
		s.on, r.sweptAt = false, now
	}
}
