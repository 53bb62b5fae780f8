package deliver

import (
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// finish settles an attempt and decides what its lane does next.
func (p *Dispatcher) finish(d *Delivery, out Outcome) {
	s := &d.ep.lanes
	now := time.Now()
	d.onWire = false
	if d.forget {
		d.forget, d.history = false, nil
	}
	s.inflight--
	p.inflight--
	replay := d.flight.Replay != 0
	if replay {
		s.replay.inflight--
		p.replaying--
	}
	if d.slow {
		d.slow = false
		p.slow--
	}
	if d.hangs {
		d.hangs = false
		p.hanging--
	}
	if d.stored {
		s.restored--
	}
	s.lastEnd = now
	l := d.lane
	stale := d.startedAt.Before(s.anew)
	d.probe = d.probe && !stale // of a breaker that is no more
	switch {
	case s.removed, d.dropped:
		s.breaker.inconclusive(now, d.probe) // another may try
		p.leave(d)
		if !d.durable { // else the Recorder cancels its row
			st := StatusCancelled
			if out.Success() {
				st = StatusDelivered
			}
			p.metrics.ended(d.flight, st, now)
			p.submitEnded(d, st, out, now)
		}
		p.dropLane(l)
	case out.Success() || faultpoint.Planted(faultpoint.RefusalTaken) && out.StatusCode >= 500:
		faultpoint.Hit(faultpoint.After2xxBeforeRecord)
		d.note(out.entry)
		if (!replay || d.probe) && !stale {
			p.wentWell(d, out, now)
		}
		p.metrics.ended(d.flight, StatusDelivered, now)
		p.leave(d)
		p.submitEnded(d, StatusDelivered, out, now)
		p.advance(l)
	case out.Aborted:
		s.breaker.inconclusive(now, d.probe)
		p.parkHead(l, d.later(now))
	case stale:
		p.failedBefore(d, out, now)
	case out.Throttled():
		p.throttled(d, out, now)
	default:
		p.failed(d, out, now)
	}
	if s.disabled || s.breaker.open || s.pace.until.After(now) {
		p.parkIdle(d.ep)
	}
	p.enring(d.ep)
	if s.breaker.open {
		p.line(d.ep) // for its next probe
	} else {
		p.reline(d.ep)
	}
	p.noteHeld(d.ep)
	if s.total > s.loaded || p.starved {
		poke(p.load)
	}
}

// failedBefore settles an attempt that failed and began before all was forgiven: at
// another URL, or before somebody said that it works again. It says nothing of the
// endpoint as it is, which is tried at once, also when the schedule is used up.
func (p *Dispatcher) failedBefore(d *Delivery, out Outcome, now time.Time) {
	d.failed(out)
	p.metrics.retry(d.flight, out.Reason)
	p.parkHead(d.lane, now)
}

// throttled settles an attempt that the endpoint had no time for. It costs no
// attempt; the endpoint gets a pause and fewer attempts a second.
func (p *Dispatcher) throttled(d *Delivery, out Outcome, now time.Time) {
	s := &d.ep.lanes
	d.failed(out)
	p.metrics.retry(d.flight, out.Reason)
	if d.flight.Replay == 0 {
		p.unhealthy(d.ep, out, now)
	}
	s.breaker.inconclusive(now, d.probe)
	wish := p.opts.Schedule.Wish(out.RetryAfter)
	until := s.pace.throttled(d.startedAt, now, wish, p.opts.EndpointConcurrency, p.opts.Pace)
	p.parkHead(d.lane, now.Add(p.opts.Schedule.After(until.Sub(now), p.opts.Pace.MaxPause)))
}

func (p *Dispatcher) failed(d *Delivery, out Outcome, now time.Time) {
	s, l := &d.ep.lanes, d.lane
	d.failed(out)
	if d.flight.Replay == 0 || d.probe {
		p.wentWrong(d, out, now)
	}
	if wish := p.opts.Schedule.Wish(out.RetryAfter); out.Unavailable() && wish > 0 {
		s.pace.pause(now, wish)
	}
	if (d.flight.Replay == 0 || out.Gone) && !out.OurFault {
		p.unhealthy(d.ep, out, now)
	}
	if d.early {
		p.metrics.retry(d.flight, out.Reason)
		s.triedEarly(d.laneKey)
		p.parkHead(l, d.later(now.Add(p.opts.Schedule.Wish(out.RetryAfter))))
		return
	}
	wait, more := p.schedule(d.ep).Next(d.attempts, out.RetryAfter)
	if !more {
		p.metrics.ended(d.flight, StatusDead, now)
		p.died(d, now)
		p.leave(d)
		if d.ep.Subscription().halts() && d.flight.Replay == 0 && !d.aside {
			p.halt(d, now)
			p.parkRest(l)
			p.dropLane(l)
			return
		}
		p.submitEnded(d, StatusDead, out, now)
		p.advance(l) // a dead head gives way
		return
	}
	p.metrics.retry(d.flight, out.Reason)
	p.leave(d)
	if d.aside { // it is kept in quarantine, and has no row to wait in
		p.advance(l)
		return
	}
	p.keep(d, now.Add(wait))
	if faultpoint.Planted(faultpoint.OrderForgotten) {
		p.advance(l)
		return
	}
	p.parkRest(l)
	p.dropLane(l)
}

// leave takes the head out of its lane and out of what is counted in memory.
func (p *Dispatcher) leave(d *Delivery) {
	d.lane.pop()
	if d.durable {
		d.ep.lanes.loaded--
		p.loaded--
	} else {
		p.release(d)
	}
}

// keep writes down when a delivery is tried again.
func (p *Dispatcher) keep(d *Delivery, next time.Time) {
	if d.durable {
		p.submit(op{kind: opUpdate, d: d, next: next})
		return
	}
	p.park(d, next)
}

// halt keeps a delivery that was given up in its place, before all that waits
// behind it.
func (p *Dispatcher) halt(d *Delivery, now time.Time) {
	if d.durable {
		p.submit(op{kind: opUpdate, d: d, dead: now})
		return
	}
	d.durable = true
	d.ep.lanes.addParked(d.laneKey)
	p.submit(op{kind: opPark, d: d, dead: now, settles: true})
}

// parkRest gives what waits behind a parked head to the table; what came from
// there is only forgotten.
func (p *Dispatcher) parkRest(l *lane) {
	for _, d := range l.queue {
		if d.durable {
			l.ep.lanes.loaded--
			p.loaded--
			continue
		}
		p.park(d, time.Time{})
	}
	l.queue = nil
}

func (p *Dispatcher) dropLane(l *lane) {
	s := &l.ep.lanes
	if s.lanes[l.key] != l {
		return
	}
	delete(s.lanes, l.key)
	// While it was in memory the loader has passed over what was revived in it.
	if _, due := s.revived[l.key]; due {
		delete(s.revived, l.key)
		p.dueLane(l.ep, l.key, time.Now())
		poke(p.load)
	}
}

// advance lets the next delivery of a lane go, from memory or from the table.
// When nothing may start any more, all of it goes to the table.
func (p *Dispatcher) advance(l *lane) {
	if len(l.queue) > 0 {
		if !l.ep.lanes.disabled && !p.stopping {
			p.makeReady(l)
			return
		}
		p.parkRest(l)
	}
	p.dropLane(l)
	if l.ep.lanes.parked[l.key] > 0 {
		p.submit(op{kind: opPromote, ep: l.ep, lane: l.key})
	}
}

func (p *Dispatcher) submitEnded(d *Delivery, st Status, out Outcome, now time.Time) {
	o := op{kind: opEnded, d: d, status: st, at: now, took: out.Duration, settles: !d.durable, deletes: d.durable}
	if st == StatusDelivered {
		o.httpStatus = out.StatusCode
	}
	if d.durable && !d.aside {
		d.ep.lanes.dropParked(d.laneKey)
	}
	d.ended = true
	p.submit(o)
}

// submit fills in what the delivery is now: it goes on while the op waits.
func (p *Dispatcher) submit(o op) {
	if o.d != nil {
		o.ep, o.lane = o.d.ep, o.d.laneKey
		o.attempts, o.history, o.lastError = o.d.attempts, o.d.history, o.d.lastError
		if !o.ep.lanes.removed {
			o.number, o.mark = o.d.number, o.d.mark
		}
		if o.httpStatus == 0 {
			o.httpStatus = o.d.lastStatus
		}
		if o.kind == opEnded && o.status == StatusDelivered {
			o.attempts++
			o.lastError = ""
		}
	}
	if o.touchesTable() {
		u := o.ep.lanes.unsettle[o.lane]
		u.ops++
		o.ep.lanes.unsettle[o.lane] = u
	}
	p.rec.add(o)
}

// committed takes back what the Recorder has written.
func (p *Dispatcher) committed(batch []op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	look := false
	for i := range batch {
		o := &batch[i]
		if o.more {
			p.goOn(o)
		}
		if o.ep == nil {
			continue
		}
		if o.id != uuid.Nil {
			delete(p.asked, o.id)
		}
		s := &o.ep.lanes
		if o.touchesTable() {
			u := s.unsettle[o.lane]
			if u.ops--; u.ops > 0 {
				s.unsettle[o.lane] = u
			} else {
				delete(s.unsettle, o.lane)
				if u.missed {
					p.dueLane(o.ep, o.lane, time.Now())
					look = true
				}
			}
		}
		if o.kind == opLetAllGo {
			p.toLetGo[o.ep] = beforeAll
			look = true
		}
		due := o.next
		if o.aside != asideNothing {
			due = p.setAside(o)
		}
		if o.absent && s.parked[o.lane] > 0 {
			p.uncount(o.ep, o.lane)
		}
		if o.kind == opPromote || o.kind == opRevive {
			due = time.Now()
		}
		if !due.IsZero() {
			p.dueLane(o.ep, o.lane, due)
			if o.kind == opKick || o.kind == opHurry { // which name no lane
				p.dueReplay(o.ep, due)
			}
			look = true
		}
	}
	if look {
		poke(p.load)
	}
}

// setAside takes in that the database has refused an op, and returns when its row is due.
func (p *Dispatcher) setAside(o *op) time.Time {
	d := o.d
	if d == nil {
		return time.Time{}
	}
	d.forget = true // else what comes next would be refused for its history too
	if !o.referenced() {
		return o.next
	}
	if d.aside || d.ended { // its row is counted away already
		o.absent = false
	}
	d.aside = d.aside || o.kind == opPark || o.kind == opUpdate
	return time.Time{}
}

// goOn writes the next part of an op of which one batch did not take all.
func (p *Dispatcher) goOn(o *op) {
	if p.stopping {
		return // what is cancelled the next leader cancels
	}
	next := op{kind: o.kind, ep: o.ep, next: o.next, text: o.text, replay: o.replay}
	if o.kind == opHurry {
		s := &o.ep.lanes
		if next.left = o.left - hurryRows; next.left <= 0 || s.removed || s.disabled || s.breaker.open {
			return
		}
	}
	p.submit(next)
}

// uncount takes back a row that was counted and is not in the table. What came
// behind it meanwhile must not wait for it.
func (p *Dispatcher) uncount(ep *Endpoint, lane uint64) {
	s := &ep.lanes
	s.dropParked(lane)
	if s.parked[lane] > 0 && s.lanes[lane] == nil {
		p.submit(op{kind: opPromote, ep: ep, lane: lane})
	}
}

// dueAt notes that rows of an endpoint want to be loaded at t.
func (p *Dispatcher) dueAt(ep *Endpoint, t time.Time) {
	s := &ep.lanes
	if s.nextDue.IsZero() || t.Before(s.nextDue) {
		s.nextDue = t
	}
	p.backlog[ep] = struct{}{}
	p.line(ep)
}

// dueReplay is dueAt for the rows of replays.
func (p *Dispatcher) dueReplay(ep *Endpoint, t time.Time) {
	if due := &ep.lanes.replay.nextDue; due.IsZero() || t.Before(*due) {
		*due = t
	}
	p.backlog[ep] = struct{}{}
	p.line(ep)
}

// dueLane notes that rows of a lane want to be loaded at t.
func (p *Dispatcher) dueLane(ep *Endpoint, lane uint64, t time.Time) {
	if ep.lanes.replay.of[lane] != 0 {
		p.dueReplay(ep, t)
		return
	}
	p.dueAt(ep, t)
}

func (p *Dispatcher) handOver(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for d := p.live.oldest; d != nil && now.Sub(d.arrived) > p.handoverAfter(); d = p.live.oldest {
		p.parkLane(d.lane, now)
	}
}

// parkLane makes everything of a lane durable. Its head may be on the wire and
// stays there; should we die, the row is due when the attempt must have ended.
func (p *Dispatcher) parkLane(l *lane, now time.Time) {
	head := l.head()
	if !head.onWire {
		p.parkHead(l, now)
		return
	}
	s := &l.ep.lanes
	if s.removed { // its rows are cancelled already; the stream must not wait for the attempt
		p.release(head)
		p.cancel(head, now)
		head.durable = true
		s.loaded++
		p.loaded++
		return
	}
	l.queue = l.queue[1:]
	p.park(head, now.Add(p.timeout(head.ep)+time.Second))
	s.loaded++
	p.loaded++
	p.parkRest(l)
	l.queue = []*Delivery{head}
}

// cancel ends a delivery without a row whose subscription is gone.
func (p *Dispatcher) cancel(d *Delivery, now time.Time) {
	p.metrics.ended(d.flight, StatusCancelled, now)
	p.submit(op{kind: opEnded, d: d, status: StatusCancelled, at: now, settles: true})
}

// parkIdle parks what waits in memory for an endpoint; attempts on the wire end.
func (p *Dispatcher) parkIdle(ep *Endpoint) {
	now := time.Now()
	for _, l := range ep.lanes.lanes {
		if len(l.queue) > 0 && !l.head().onWire {
			p.parkHead(l, now)
		}
	}
}

// parkHead gives the head of a lane, which is tried again at next, to the table with
// all that waits behind it. One whose row the database refuses gives way.
func (p *Dispatcher) parkHead(l *lane, next time.Time) {
	d := l.head()
	p.leave(d)
	if d.aside {
		p.advance(l)
		return
	}
	p.keep(d, next)
	p.parkRest(l)
	p.dropLane(l)
}
