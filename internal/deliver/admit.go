package deliver

import (
	"context"
	"time"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// Admit takes an event for the endpoints that match it. It returns when each
// delivery is on its way or given to the Recorder, and waits while the window is
// full of deliveries that move. Only the router calls it.
func (p *Dispatcher) Admit(ctx context.Context, f *Flight, eps []*Endpoint) error {
	if len(eps) == 0 {
		f.Ticket.Done()
		return nil
	}
	// Counted first: a delivery may be recorded before the next one is made.
	todo := eps
	if p.settled.Len() > 0 {
		todo = nil
		for _, ep := range eps {
			if !p.settled.has(settledKey{commit: f.CommitLSN, event: f.EventID, sub: ep.id}) {
				todo = append(todo, ep)
			}
		}
		if len(todo) == 0 {
			f.Ticket.Done()
			return nil
		}
	}
	f.open = len(todo)
	if faultpoint.Planted(faultpoint.ConfirmBeforeDelivery) {
		f.Ticket.Done()
	}
	now := time.Now()
	for _, ep := range todo {
		if err := p.admit(ctx, newDelivery(f, ep, now)); err != nil {
			return err
		}
	}
	return p.rec.wait(ctx)
}

func (p *Dispatcher) admit(ctx context.Context, d *Delivery) error {
	p.mu.Lock()
	p.number(d)
	for {
		if d.ep.lanes.removed {
			p.cancel(d, d.arrived)
			p.mu.Unlock()
			return nil
		}
		if p.mustPark(d) {
			p.parkNew(d)
			p.mu.Unlock()
			return nil
		}
		if p.hasRoom() {
			p.enqueue(d)
			p.mu.Unlock()
			return nil
		}
		wait := time.Until(d.arrived.Add(p.handoverAfter()))
		if wait <= 0 {
			p.parkNew(d)
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-p.room:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
		p.mu.Lock()
	}
}

// busyWindow is how many deliveries are taken into memory while all that keeps
// them from being tried is that the machine has its hands full: more would not be
// delivered sooner, only held.
const busyWindow = 2048

// hasRoom tells whether the window takes another delivery.
func (p *Dispatcher) hasRoom() bool {
	if p.windowN >= p.opts.WindowEvents || p.windowB >= p.opts.WindowBytes {
		return false
	}
	return p.windowN < busyWindow || len(p.ring) == 0 || !p.busy()
}

// mustPark tells whether a new delivery cannot be tried from memory.
func (p *Dispatcher) mustPark(d *Delivery) bool {
	s := &d.ep.lanes
	if s.disabled || s.removed || s.breaker.open || s.parked[d.laneKey] > 0 && !faultpoint.Planted(faultpoint.OrderForgotten) ||
		p.schedule(d.ep).Delays[0] > 0 || p.stopping || p.pressure >= PressureFull {
		return true
	}
	if s.pace.until.After(d.arrived) || s.pace.rate > 0 && s.live >= 2*p.opts.EndpointConcurrency {
		return true // it asked for a pause, or has a pace that the others take up
	}
	// More than it has ever had on the wire waits, and nothing ends.
	return s.live >= 4*p.opts.EndpointConcurrency && s.inflight > 0 && time.Since(s.lastEnd) > p.opts.HandoverAfter/2
}

// parkNew gives a delivery that is not in memory yet to the table. With nothing
// of its lane before it, it is the head and due at once.
//
// Deliveries of its lane that are in memory only go before it. Were its row the
// only one that a crash leaves, the next leader would send it ahead of them.
func (p *Dispatcher) parkNew(d *Delivery) {
	s := &d.ep.lanes
	if l := s.lanes[d.laneKey]; l != nil && !l.head().durable {
		p.parkLane(l, time.Now())
	}
	var next time.Time
	if s.parked[d.laneKey] == 0 && s.lanes[d.laneKey] == nil {
		next = time.Now()
		if wait, ok := p.schedule(d.ep).Next(0, 0); ok {
			next = next.Add(wait)
		}
	}
	p.park(d, next)
}

// park makes a delivery durable. A zero next means that it waits behind others
// of its lane.
func (p *Dispatcher) park(d *Delivery, next time.Time) {
	s := &d.ep.lanes
	p.release(d)
	d.durable = true
	s.addParked(d.laneKey)
	p.submit(op{kind: opPark, d: d, next: next, settles: true})
}

// release takes a delivery out of the window.
func (p *Dispatcher) release(d *Delivery) {
	if !d.listed {
		return
	}
	p.live.remove(d)
	d.ep.lanes.live--
	p.windowN--
	p.windowB -= int64(len(d.flight.Body))
	poke(p.room)
}

func (p *Dispatcher) enqueue(d *Delivery) {
	p.live.add(d)
	d.ep.lanes.live++
	p.windowN++
	p.windowB += int64(len(d.flight.Body))
	p.join(d)
	p.start()
}

// join puts a delivery at the end of its lane.
func (p *Dispatcher) join(d *Delivery) {
	s := &d.ep.lanes
	l := s.lanes[d.laneKey]
	if l == nil {
		l = &lane{ep: d.ep, key: d.laneKey}
		s.lanes[d.laneKey] = l
	}
	d.lane = l
	l.queue = append(l.queue, d)
	if len(l.queue) == 1 {
		p.makeReady(l)
	}
}
