package deliver

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A replayed delivery is parked like any other and goes out from the table. What
// keeps it apart from those of the stream: lanes of its own, so that neither
// waits for the other's key; a small share of its endpoint, which it gets only
// while nothing of the stream may start; and no say about the endpoint's health.

// replayShare is the part of an endpoint's attempts, and of all attempts, that
// replays may have: one in so many, but one at least.
const replayShare = 4

// maxReplayLanes is how many lanes are loaded for replays in one query, over all
// endpoints.
const maxReplayLanes = 16

// replaySet is what a laneSet knows of replays.
type replaySet struct {
	of       map[uint64]int64 // replay of each lane with rows in the table
	ready    laneQueue        // whose head may start
	inRing   bool             // stands in Dispatcher.replayRing
	inflight int              // of laneSet.inflight
	nextDue  time.Time        // as laneSet.nextDue, of these lanes
}

// ReplayCursor is a place in a replay's order.
type ReplayCursor struct {
	Key int64  // time of the row's id, or of its creation
	ID  string // of the event
}

// ReplayStep is what one step of a replay comes to. The Recorder writes it with
// the row that it belongs to, so a cursor is never ahead of what was parked.
type ReplayStep struct {
	Replay  int64
	Cursor  ReplayCursor
	Skipped []ReplaySkip // rows passed over, which are no deliveries
	ReadAll bool         // nothing is left to read
}

// ReplayPosition is the place of a replay's nth row among all: above every
// position that a stream can have (an LSN counts bytes of WAL, and there will
// never be half of 2^64), another one for each row, and growing, so that rows of
// a lane stand in the order in which they were read. Ids of deliveries are derived
// from it, and bodies are kept by it: neither can meet those of the stream.
func ReplayPosition(replay, n int64) uint64 {
	const rowBits = 41
	return 1<<63 | uint64(replay)<<rowBits&^(1<<63) | uint64(n)&(1<<rowBits-1) // #nosec G115 -- bits
}

// replayLane is the lane that a replay has for an ordering key.
func replayLane(replay int64, key uint64) uint64 {
	var in [16]byte
	binary.BigEndian.PutUint64(in[:8], uint64(replay)) // #nosec G115 -- bits
	binary.BigEndian.PutUint64(in[8:], key)
	return xxhash.Sum64(in[:])
}

// Replay parks an event for one endpoint as the next of a replay; f.Replay says
// which. It waits while too much waits to be written.
func (p *Dispatcher) Replay(ctx context.Context, f *Flight, ep *Endpoint, step ReplayStep) error {
	p.replay(f, ep, step)
	return p.rec.wait(ctx)
}

func (p *Dispatcher) replay(f *Flight, ep *Endpoint, step ReplayStep) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &ep.lanes
	if s.removed || p.stopping {
		return // the next leader goes on from the cursor
	}
	now := time.Now()
	d := newDelivery(f, ep, now)
	var next time.Time
	if s.parked[d.laneKey] == 0 && s.lanes[d.laneKey] == nil {
		next = now
		if wait, ok := p.schedule(ep).Next(0, 0); ok {
			next = next.Add(wait)
		}
	}
	d.durable = true
	s.addParked(d.laneKey)
	s.replay.of[d.laneKey] = f.Replay
	p.submit(op{kind: opPark, d: d, next: next, replay: &step})
}

// ReplayRead notes how far a replay has read without a delivery.
func (p *Dispatcher) ReplayRead(step ReplayStep) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopping {
		p.submit(op{kind: opReplay, replay: &step})
	}
}

// CancelReplay ends a replay and everything of it that waits. ep is nil when its
// subscription is gone.
func (p *Dispatcher) CancelReplay(ep *Endpoint, replay int64, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ep != nil {
		p.dropReplay(ep, replay)
	}
	p.submit(op{kind: opReplayCancel, replay: &ReplayStep{Replay: replay}, text: why})
	poke(p.load)
}

// dropReplay forgets the lanes of a replay. An attempt on the wire ends unheard.
func (p *Dispatcher) dropReplay(ep *Endpoint, replay int64) {
	s := &ep.lanes
	for key, of := range s.replay.of {
		if of != replay {
			continue
		}
		if l := s.lanes[key]; l != nil {
			rest := l.queue
			if l.head().onWire {
				l.head().dropped = true
				rest = rest[1:]
			}
			s.loaded -= len(rest)
			p.loaded -= len(rest)
			if l.queue = l.queue[:len(l.queue)-len(rest)]; len(l.queue) == 0 {
				p.dropLane(l)
			}
		}
		s.total -= int(s.parked[key])
		delete(s.parked, key)
		delete(s.replay.of, key)
		delete(s.revived, key)
	}
}

// enringReplay lines an endpoint up when a replay of it may start, behind all
// that the stream may start anywhere.
func (p *Dispatcher) enringReplay(ep *Endpoint) {
	s := &ep.lanes
	if !s.replay.inRing && len(s.replay.ready) > 0 && p.replayRoom(s) > 0 {
		s.replay.inRing = true
		p.replayRing = append(p.replayRing, ep)
	}
}

// replayRoom is how many more attempts of replays an endpoint may have.
func (p *Dispatcher) replayRoom(s *laneSet) int {
	most := p.opts.EndpointConcurrency
	return min(max(1, most/replayShare)-s.replay.inflight, most-s.inflight)
}

// nextReplay is next for replays; it is asked when nothing of the stream may start.
func (p *Dispatcher) nextReplay(now time.Time) *Delivery {
	limit := p.opts.FreshConcurrency
	for len(p.replayRing) > 0 && p.replaying < max(1, p.opts.Concurrency/replayShare) &&
		p.inflight-p.hanging < p.opts.Concurrency && (limit <= 0 || p.inflight-p.slow < limit) {
		ep := p.replayRing[0]
		p.replayRing[0] = nil
		p.replayRing = p.replayRing[1:]
		s := &ep.lanes
		s.replay.inRing = false
		if !s.replay.ready.trim() || p.replayRoom(s) <= 0 {
			continue
		}
		may, at := s.mayStart(now)
		if !may || s.breaker.open && s.probes() {
			if !at.IsZero() && at.After(now) {
				p.paced[ep] = at
			}
			continue
		}
		s.replay.inflight++
		p.replaying++
		d := p.begin(s.replay.ready.pop(), now)
		p.enringReplay(ep)
		return d
	}
	return nil
}

// probes tells whether the stream has something by which an endpoint that was
// given up is tried; a replay does it only when there is nothing else.
func (s *laneSet) probes() bool {
	return s.fresh.trim() || s.stored.trim() || !s.nextDue.IsZero()
}

// replayLanes counts the lanes of replays in memory.
func (s *laneSet) replayLanes() int {
	n := 0
	for key := range s.lanes {
		if s.replay.of[key] != 0 {
			n++
		}
	}
	return n
}

// dueTime is when rows of the endpoint want to be loaded, of the stream or of replays.
func (s *laneSet) dueTime(replay bool) *time.Time {
	if replay {
		return &s.replay.nextDue
	}
	return &s.nextDue
}

// loadRoom is how many lanes of an endpoint may be loaded, and how many deliveries
// of each.
func (p *Dispatcher) loadRoom(s *laneSet, replay bool, now time.Time, budget, replays int) (lanes, depth int) {
	if !replay {
		return p.roomFor(s, budget)
	}
	budget -= p.mostRows / 2 // kept for the stream
	p.starved = p.starved || budget <= 0 || replays <= 0
	lanes, depth = 2*max(1, p.opts.EndpointConcurrency/replayShare), maxFollower
	switch {
	case s.breaker.open && s.probes():
		return 0, 0
	case s.breaker.open, s.pace.slowed():
		lanes, depth = 1, 1
	}
	return min(lanes-s.replayLanes(), budget, replays), depth
}
