package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/outbox"
)

// isAsked tells whether a request about a delivery is being carried out. What a
// second one finds in the table may be stale, so it is not listened to.
func (p *Dispatcher) isAsked(id uuid.UUID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, asked := p.asked[id]
	return asked
}

// Retry carries out a request to try a delivery again: one that waits is due at
// once, a dead one waits again with its whole schedule before it. Anything else
// is left alone. The request row is deleted with it.
func (p *Dispatcher) Retry(ctx context.Context, db Pool, dir *Directory, id uuid.UUID, request int64) error {
	p.requests.Lock()
	defer p.requests.Unlock()
	if p.isAsked(id) {
		p.Dismiss(request)
		return nil
	}
	var sub uuid.UUID
	err := db.QueryRow(ctx, "SELECT subscription_id FROM relay.parked WHERE id = $1", id).Scan(&sub)
	switch {
	case err == nil:
		p.kick(dir.Get(sub), id, request)
		return nil
	case !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("retry delivery %s: %w", id, err)
	}
	const q = `
SELECT d.subscription_id, d.commit_lsn::text, d.row_index, d.event_id, d.tenant_id, d.aggregate_type, d.aggregate_id, d.created_at, coalesce(d.replay_id, 0)
  FROM relay.deliveries d JOIN relay.bodies b USING (commit_lsn, event_id)
 WHERE d.id = $1 AND d.status = 'DEAD' AND d.created_at >= $2 AND d.created_at < $3`
	f := &Flight{}
	var lsn string
	from, to := (interval{from: id, to: id}).times()
	err = Reading(ctx, db, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, q, id, from, to).Scan(&sub, &lsn, &f.Index, &f.EventID, &f.TenantID, &f.AggregateType,
			&f.AggregateID, &f.CommitTime, &f.Replay)
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("retry delivery %s: %w", id, err)
	}
	ep := dir.Get(sub)
	if err != nil || ep == nil {
		p.Dismiss(request)
		return nil
	}
	commit, err := pglogrepl.ParseLSN(lsn)
	if err != nil {
		return fmt.Errorf("retry delivery %s: %w", id, err)
	}
	f.CommitLSN = uint64(commit)
	f.Key = (&outbox.Event{TenantID: f.TenantID, AggregateType: f.AggregateType, AggregateID: f.AggregateID}).Key()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &ep.lanes
	if s.removed { // a moment ago
		p.Dismiss(request)
		return nil
	}
	// It goes to the end of nothing: within its lane it stands where its commit
	// puts it, in front of what came later and still waits, and does not wait for
	// that one's time.
	lane, now := laneKey(f, ep, id), time.Now()
	s.addParked(lane)
	s.noteRevived(lane)
	if f.Replay != 0 {
		s.replay.of[lane] = f.Replay
	}
	p.asked[id] = struct{}{}
	p.submit(op{kind: opRevive, ep: ep, lane: lane, id: id, next: now, at: p.stamp(now), forget: forget{request: request}})
	return nil
}

func (p *Dispatcher) kick(ep *Endpoint, id uuid.UUID, request int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ep == nil { // its subscription was removed a moment ago
		p.Dismiss(request)
		return
	}
	p.asked[id] = struct{}{}
	ep.lanes.breaker.hurry(time.Now())
	ep.lanes.pace.resume()
	p.noteHeld(ep)
	p.submit(op{kind: opKick, ep: ep, id: id, next: time.Now(), forget: forget{request: request}})
}

// Discard carries out a request to give up a dead delivery that halts its lane:
// what waits behind it goes on. Anything else is left alone.
func (p *Dispatcher) Discard(ctx context.Context, db Pool, dir *Directory, id uuid.UUID, request int64) error {
	p.requests.Lock()
	defer p.requests.Unlock()
	if p.isAsked(id) {
		p.Dismiss(request)
		return nil
	}
	var sub uuid.UUID
	var lane int64
	f := &Flight{}
	err := db.QueryRow(ctx, sqlHalted, id).Scan(&sub, &lane, &f.CommitTime, &f.TenantID, &f.Type)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("discard delivery %s: %w", id, err)
	}
	ep := dir.Get(sub)
	if err != nil || ep == nil {
		p.Dismiss(request)
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s, key := &ep.lanes, uint64(lane) // #nosec G115 -- bits
	if s.removed {                    // and its rows are cancelled
		p.Dismiss(request)
		return nil
	}
	p.metrics.ended(f, StatusCancelled, time.Now())
	p.giveWay(ep, key, op{kind: opDiscard, ep: ep, id: id, forget: forget{request: request}})
	return nil
}

// Release parks an event that comes out of the quarantine for the endpoints that
// match it, at its own place in the order. The quarantined row is deleted with it.
func (p *Dispatcher) Release(f *Flight, eps []*Endpoint, request, quarantine int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parkAll(f, eps)
	p.rec.add(op{kind: opForget, forget: forget{request: request, quarantine: quarantine}})
}

// Park parks an event that did not come through the stream for the endpoints that
// match it. It waits while the Recorder has too much to write.
func (p *Dispatcher) Park(ctx context.Context, f *Flight, eps []*Endpoint) error {
	p.mu.Lock()
	p.parkAll(f, eps)
	p.mu.Unlock()
	return p.rec.wait(ctx)
}

func (p *Dispatcher) parkAll(f *Flight, eps []*Endpoint) {
	now := time.Now()
	for _, ep := range eps {
		d := newDelivery(f, ep, now)
		s := &ep.lanes
		if s.removed {
			continue
		}
		p.number(d)
		var next time.Time
		if s.parked[d.laneKey] == 0 && s.lanes[d.laneKey] == nil {
			next = now
		}
		d.durable = true
		s.addParked(d.laneKey)
		p.submit(op{kind: opPark, d: d, next: next, at: p.stamp(now)})
	}
}

// stamp is now as PostgreSQL keeps it, and another time each time it is asked: by it a
// row is known for that of its op.
func (p *Dispatcher) stamp(now time.Time) time.Time {
	if now = now.Truncate(time.Microsecond); !now.After(p.stamped) {
		now = p.stamped.Add(time.Microsecond)
	}
	p.stamped = now
	return now
}

// Account writes transactions down as settled, behind all that was parked before,
// and returns a channel that is closed once that is committed.
func (p *Dispatcher) Account(transactions []byte) <-chan struct{} {
	written := make(chan struct{})
	p.rec.add(op{kind: opForget, accounted: transactions, written: written})
	return written
}

// Dismiss deletes a request that cannot be carried out.
func (p *Dispatcher) Dismiss(request int64) {
	p.rec.add(op{kind: opForget, forget: forget{request: request}})
}
