package deliver

import (
	"time"
)

// slowAfter is how long an attempt counts against FreshConcurrency. More attempts
// at once than the machine can work on make each of them slower; but one that
// waits for its endpoint needs no work, and must not keep others from theirs.
const slowAfter = 20 * time.Millisecond

func (p *Dispatcher) makeReady(l *lane) {
	s := &l.ep.lanes
	s.ready = append(s.ready, l)
	p.enring(l.ep)
}

func (p *Dispatcher) concurrency(s *laneSet) int {
	if s.hangs {
		return min(hangingConcurrency, p.opts.EndpointConcurrency)
	}
	return p.opts.EndpointConcurrency
}

// enring lines an endpoint up when something of it may start. Endpoints take
// turns, one attempt each, so that none waits for another's backlog.
func (p *Dispatcher) enring(ep *Endpoint) {
	s := &ep.lanes
	if !s.inRing && len(s.ready) > 0 && s.inflight < p.concurrency(s) {
		s.inRing = true
		p.ring = append(p.ring, ep)
	}
}

// free tells whether another attempt may be on the wire.
func (p *Dispatcher) free() bool {
	if limit := p.opts.FreshConcurrency; limit > 0 && p.inflight-p.slow >= limit {
		return false
	}
	return p.inflight < p.opts.Concurrency
}

// makeWay stops counting attempts that only wait, and lets others start.
func (p *Dispatcher) makeWay(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(p.started) && now.Sub(p.started[n].startedAt) > slowAfter {
		if d := p.started[n]; d.onWire {
			d.slow = true
			p.slow++
		}
		p.started[n] = nil
		n++
	}
	if p.started = p.started[n:]; len(p.started) == 0 {
		p.started = nil
	}
	p.start()
}

// next takes the delivery whose turn it is and counts it as on the wire; nil
// when nothing may start.
func (p *Dispatcher) next() *Delivery {
	for len(p.ring) > 0 && p.free() && !p.stopping && p.held == 0 && !p.stale(time.Now()) {
		ep := p.ring[0]
		p.ring[0] = nil
		p.ring = p.ring[1:]
		s := &ep.lanes
		s.inRing = false
		if len(s.ready) == 0 || s.inflight >= p.concurrency(s) {
			continue
		}
		l := s.ready[0]
		s.ready[0] = nil
		s.ready = s.ready[1:]
		if len(l.queue) == 0 || l.head().onWire || s.lanes[l.key] != l {
			p.enring(ep)
			continue // parked or cancelled meanwhile
		}
		d := l.head()
		d.onWire, d.startedAt = true, time.Now()
		p.started = append(p.started, d)
		if s.inflight == 0 {
			s.lastEnd = d.startedAt
		}
		s.inflight++
		p.inflight++
		p.enring(ep)
		return d
	}
	return nil
}

// start runs a worker for each delivery that may start. A worker lives while
// there is work for it.
func (p *Dispatcher) start() {
	for {
		d := p.next()
		if d == nil {
			return
		}
		p.workers.Add(1)
		go p.work(d)
	}
}

func (p *Dispatcher) work(d *Delivery) {
	defer p.workers.Done()
	for d != nil {
		out := p.attempt(d)
		p.mu.Lock()
		p.finish(d, out)
		d = p.next()
		if d != nil {
			p.start()
		}
		p.mu.Unlock()
	}
}

func (p *Dispatcher) attempt(d *Delivery) Outcome {
	spec := d.ep.spec.Load()
	if spec.fault != "" {
		return Outcome{Reason: ReasonBlocked, Detail: spec.fault}
	}
	if d.flight.Body == nil {
		return Outcome{Reason: ReasonBody, Detail: "the body of the event is lost"}
	}
	p.mu.Lock()
	sink := p.sink
	p.mu.Unlock()
	if time.Since(d.startedAt) > frozenAfter {
		// The process stood still since its turn came, and another may lead.
		return Outcome{Aborted: true}
	}
	out := sink.Attempt(p.attemptCtx, &Request{
		URL: spec.url, Signer: spec.signer, EventID: d.flight.EventID.String(), EventType: d.flight.Type,
		Body: d.flight.Body, Attempt: d.attempts + 1,
	})
	if !out.Aborted {
		p.metrics.attempt(d.flight, out)
	}
	return out
}
