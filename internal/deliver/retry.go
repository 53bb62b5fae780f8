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

// Retry carries out a request to try a delivery again: one that waits is due at
// once, a dead one waits again with its whole schedule before it. Anything else
// is left alone. The request row is deleted with it.
func (p *Dispatcher) Retry(ctx context.Context, db Pool, dir *Directory, id uuid.UUID, request int64) error {
	p.mu.Lock()
	_, asked := p.reviving[id]
	p.mu.Unlock()
	if asked { // twice, before the first was carried out
		p.rec.add(op{kind: opForget, forget: forget{request: request}})
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
SELECT d.subscription_id, d.commit_lsn::text, d.row_index, d.event_id, d.tenant_id, d.aggregate_type, d.aggregate_id, d.created_at
  FROM relay.deliveries d JOIN relay.bodies b USING (commit_lsn, event_id)
 WHERE d.id = $1 AND d.status = 'DEAD'`
	f := &Flight{}
	var lsn string
	err = db.QueryRow(ctx, q, id).Scan(&sub, &lsn, &f.Index, &f.EventID, &f.TenantID, &f.AggregateType, &f.AggregateID, &f.CommitTime)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("retry delivery %s: %w", id, err)
	}
	ep := dir.Get(sub)
	if err != nil || ep == nil {
		p.rec.add(op{kind: opForget, forget: forget{request: request}})
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
	// It goes to the end of nothing: within its lane it stands where its commit
	// puts it, in front of what came later and still waits.
	lane := laneKey(f, ep, id)
	var next time.Time
	if s.parked[lane] == 0 && s.lanes[lane] == nil {
		next = time.Now()
	}
	s.addParked(lane)
	p.reviving[id] = struct{}{}
	p.submit(op{kind: opRevive, ep: ep, lane: lane, id: id, next: next, forget: forget{request: request}})
	return nil
}

func (p *Dispatcher) kick(ep *Endpoint, id uuid.UUID, request int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ep == nil { // its subscription was removed a moment ago
		p.submit(op{kind: opForget, forget: forget{request: request}})
		return
	}
	ep.lanes.breaker.hurry(time.Now())
	ep.lanes.pace.resume()
	p.submit(op{kind: opKick, ep: ep, id: id, next: time.Now(), forget: forget{request: request}})
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
		var next time.Time
		if s.parked[d.laneKey] == 0 && s.lanes[d.laneKey] == nil {
			next = now
		}
		d.durable = true
		s.addParked(d.laneKey)
		p.submit(op{kind: opPark, d: d, next: next})
	}
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
