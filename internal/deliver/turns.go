package deliver

import (
	"time"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// slowAfter is how long an attempt counts against FreshConcurrency. More attempts
// at once than the machine can work on make each of them slower; but one that
// waits for its endpoint needs no work, and must not keep others from theirs.
const slowAfter = 20 * time.Millisecond

func (p *Dispatcher) makeReady(l *lane) {
	switch s, d := &l.ep.lanes, l.head(); {
	case d.flight.Replay != 0:
		s.replay.ready = append(s.replay.ready, l)
	case d.durable:
		s.stored = append(s.stored, l)
	default:
		s.fresh = append(s.fresh, l)
	}
	p.enring(l.ep)
}

// enring lines an endpoint up when something of it may start. Endpoints take
// turns, one attempt each, so that none waits for another's backlog.
func (p *Dispatcher) enring(ep *Endpoint) {
	s := &ep.lanes
	if !s.inRing && len(s.fresh)+len(s.stored) > 0 && s.inflight < p.opts.EndpointConcurrency {
		s.inRing = true
		if s.works {
			p.ring = append(p.ring, ep)
		} else {
			p.doubtful = append(p.doubtful, ep)
		}
	}
	p.enringReplay(ep)
}

// works notes that an attempt was taken: the endpoint need not wait behind those
// that may hang.
func (p *Dispatcher) works(ep *Endpoint) {
	if s := &ep.lanes; !s.works {
		s.works, s.inRing = true, false
		p.enring(ep)
	}
}

// busy tells whether as many attempts are under way as the machine can work on.
func (p *Dispatcher) busy() bool {
	limit := p.opts.FreshConcurrency
	return limit > 0 && p.inflight-p.slow >= limit
}

// nextEndpoint takes the endpoint whose turn it is, nil when nothing may start. A
// quarter of all attempts is for endpoints whose last attempt was taken: were all
// the others to hang, these would not notice. What has hung for HandoverAfter makes
// way, so at most Concurrency*(1+T/HandoverAfter) attempts are on the wire, with T the longest timeout.
func (p *Dispatcher) nextEndpoint() *Endpoint {
	most := p.opts.Concurrency
	busy := p.inflight - p.hanging
	if busy >= most || p.busy() {
		return nil
	}
	from := &p.ring
	if len(p.doubtful) > 0 && busy < most-most/4 && (p.turn || len(p.ring) == 0) {
		from = &p.doubtful
	}
	if len(*from) == 0 {
		return nil
	}
	p.turn = from == &p.ring
	ep := (*from)[0]
	(*from)[0] = nil
	*from = (*from)[1:]
	return ep
}

// letGo lines endpoints up whose time has come.
func (p *Dispatcher) letGo(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ep, at := range p.paced {
		if !at.After(now) {
			delete(p.paced, ep)
			p.enring(ep)
		}
	}
	p.start()
}

// pick takes the lane of an endpoint whose turn it is, nil when none may start.
// Fresh deliveries and those from the table take turns, so that neither a backlog
// nor a busy stream keeps the other out.
func (p *Dispatcher) pick(ep *Endpoint, now time.Time) *lane {
	s := &ep.lanes
	most := p.opts.EndpointConcurrency
	fresh, stored := s.fresh.trim(), s.stored.trim()
	if s.inflight >= most || !fresh && !stored {
		return nil
	}
	if may, at := s.mayStart(now); !may {
		if !at.IsZero() {
			p.paced[ep] = at
		}
		return nil
	}
	// A probe is one at a time, also beside an attempt that hangs.
	stored = stored && (s.breaker.open || s.pace.backlogMay(s.restored, most, fresh))
	switch {
	case stored && (s.turn || !fresh):
		s.turn = false
		return s.stored.pop()
	case fresh:
		s.turn = true
		return s.fresh.pop()
	}
	return nil
}

// makeWay stops counting attempts that only wait, and lets others start.
func (p *Dispatcher) makeWay(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = olderThan(p.started, now.Add(-slowAfter), func(d *Delivery) {
		d.slow = true
		p.slow++
		p.waiting = append(p.waiting, d)
	})
	p.waiting = olderThan(p.waiting, now.Add(-p.opts.HandoverAfter), func(d *Delivery) {
		d.hangs = true
		p.hanging++
		p.forgetBehind(d)
		if p.starved { // it has left room for rows of others
			poke(p.load)
		}
		s := &d.ep.lanes
		if d.flight.Replay == 0 && !d.startedAt.Before(s.anew) && now.Sub(s.lastEnd) > p.opts.HandoverAfter/2 && s.breaker.hung(now) {
			p.opened(d.ep, "hangs")
			p.parkIdle(d.ep)
			p.line(d.ep)
		}
	})
	p.start()
	poke(p.room) // the machine may have its hands free
}

// forgetBehind lets what was loaded behind an attempt that hangs go back to the table: it
// would take the room of others for as long as that hangs.
func (p *Dispatcher) forgetBehind(d *Delivery) {
	if !d.durable || len(d.lane.queue) < 2 {
		return
	}
	behind := lane{ep: d.ep, key: d.laneKey, queue: d.lane.queue[1:]}
	p.parkRest(&behind)
	d.lane.queue = []*Delivery{d}
}

// olderThan calls f for each attempt that began before a time and is still on the
// wire, and returns the list without those that began before it.
func olderThan(list []*Delivery, before time.Time, f func(*Delivery)) []*Delivery {
	n := 0
	for n < len(list) && list[n].startedAt.Before(before) {
		if list[n].onWire {
			f(list[n])
		}
		list[n] = nil
		n++
	}
	if list = list[n:]; len(list) == 0 {
		return nil
	}
	return list
}

// next takes the delivery whose turn it is and counts it as on the wire; nil
// when nothing may start.
func (p *Dispatcher) next() *Delivery {
	for !p.stopping && p.held == 0 && !p.rec.Blocked() {
		now := time.Now()
		if p.stale(now) {
			return nil
		}
		ep := p.nextEndpoint()
		if ep == nil {
			return p.nextReplay(now)
		}
		s := &ep.lanes
		s.inRing = false
		l := p.pick(ep, now)
		if l == nil {
			continue
		}
		d := p.begin(l, now)
		p.enring(ep)
		return d
	}
	return nil
}

// begin counts the head of a lane as on the wire.
func (p *Dispatcher) begin(l *lane, now time.Time) *Delivery {
	s, d := &l.ep.lanes, l.head()
	d.onWire, d.startedAt, d.stored = true, now, d.durable && d.flight.Replay == 0
	d.probe = s.breaker.started()
	d.early = d.probe && d.due > now.UnixNano()
	s.pace.started(now)
	p.started = append(p.started, d)
	if s.inflight == 0 {
		s.lastEnd = now
	}
	s.inflight++
	p.inflight++
	if d.stored {
		s.restored++
	}
	return d
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
		out.entry = d.entry(out, time.Now())
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
	if spec.sub.Locked != nil {
		return Outcome{Aborted: true} // Changed is on its way
	}
	if spec.fault != "" {
		return Outcome{Reason: ReasonBlocked, Detail: spec.fault}
	}
	if d.flight.Body == nil {
		return Outcome{Reason: ReasonBody, Detail: "the body of the event is lost"}
	}
	body, err := spec.sub.BodyFor(d.flight)
	if err != nil {
		return Outcome{Reason: ReasonBody, Detail: "the body of the event is none that a CloudEvent can be made of"}
	}
	p.mu.Lock()
	sink, limit := p.sink, spec.sub.OwnTimeout(p.opts.MaxTimeout)
	p.mu.Unlock()
	if time.Since(d.startedAt) > frozenAfter {
		// The process stood still since its turn came, and another may lead.
		return Outcome{Aborted: true}
	}
	faultpoint.Hit(faultpoint.BeforeFirstAttempt)
	r := &Request{
		URL: spec.url, Signer: spec.signerAt(time.Now()), Header: spec.header,
		EventID: d.flight.EventID.String(), EventType: d.flight.Type,
		Body: body, ContentType: spec.sub.ContentType(), Attempt: d.attempts + 1, Sequence: d.number, Timeout: limit,
		Subscription: d.ep.id.String(),
	}
	if spec.client != nil {
		r.Identity = spec.client.identity
		p.tellExpired(d.ep, spec, time.Now())
	}
	out := sink.Attempt(p.attemptCtx, r)
	if !out.Aborted {
		p.metrics.attempt(d.flight, out)
	}
	return out
}
