package deliver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Options are the knobs of delivery. Zero values are not defaults: the
// configuration sets them all.
type Options struct {
	Schedule            Schedule
	Timeout             time.Duration // upper bound of one attempt; the Sink enforces it
	HandoverAfter       time.Duration // longest time that a delivery is in memory only
	Concurrency         int           // attempts at once
	FreshConcurrency    int           // of those, that began within slowAfter; 0: all
	EndpointConcurrency int           // attempts at once to one endpoint
	WindowEvents        int           // deliveries in memory only
	WindowBytes         int64         // and their bodies
}

// slowAfter is how long an attempt counts against FreshConcurrency. More attempts
// at once than the machine can work on make each of them slower; but one that
// waits for its endpoint needs no work, and must not keep others from theirs.
const slowAfter = 20 * time.Millisecond

// failuresInRow is after how many failed attempts in a row new deliveries are
// parked at once. They are still attempted, from the table, one after another.
const failuresInRow = 5

// hangingConcurrency is how many attempts at once an endpoint gets that hangs or
// keeps failing.
const hangingConcurrency = 2

// Limits of what is loaded from the table at once, over all endpoints.
const (
	maxLoaded   = 1000
	maxFollower = 16 // deliveries loaded from one lane
)

// Dispatcher decides what is attempted when. One mutex guards all lanes; no I/O
// happens under it.
type Dispatcher struct {
	opts    Options
	sink    Sink
	rec     *Recorder
	settled *Settled
	metrics *Metrics
	log     *slog.Logger

	mu       sync.Mutex
	ring     []*Endpoint // endpoints with something that may start
	inflight int
	slow     int         // attempts of inflight that began longer ago than slowAfter
	started  []*Delivery // attempts by their start, oldest first, until they are slow
	live     liveList
	windowN  int
	windowB  int64
	loaded   int
	starved  bool                   // rows of some endpoint are due, and too many of others are loaded
	reviving map[uuid.UUID]struct{} // dead deliveries whose way back is not committed
	backlog  map[*Endpoint]struct{} // endpoints whose rows will have to be loaded
	stopping bool

	attemptCtx context.Context // ends when attempts on the wire must give up
	abort      context.CancelFunc
	workers    sync.WaitGroup

	room chan struct{} // one token: the window has shrunk
	load chan struct{} // one token: the loader should look
}

// NewDispatcher returns a Dispatcher whose outcomes go to rec.
func NewDispatcher(opts Options, sink Sink, rec *Recorder, settled *Settled, m *Metrics, log *slog.Logger) *Dispatcher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Dispatcher{
		opts: opts, sink: sink, rec: rec, settled: settled, metrics: m, log: log,
		attemptCtx: ctx, abort: cancel,
		reviving: make(map[uuid.UUID]struct{}), backlog: make(map[*Endpoint]struct{}),
		room: make(chan struct{}, 1), load: make(chan struct{}, 1),
	}
	rec.onCommit = p.committed
	return p
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

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
	giveUp := d.arrived.Add(p.opts.HandoverAfter)
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
		if p.windowN < p.opts.WindowEvents && p.windowB < p.opts.WindowBytes {
			p.enqueue(d)
			p.mu.Unlock()
			return nil
		}
		wait := time.Until(giveUp)
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

// mustPark tells whether a new delivery cannot be tried from memory.
func (p *Dispatcher) mustPark(d *Delivery) bool {
	s := &d.ep.lanes
	if s.disabled || s.removed || s.hangs || s.parked[d.laneKey] > 0 || p.opts.Schedule.Delays[0] > 0 || p.stopping {
		return true
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
		if wait, ok := p.opts.Schedule.Next(0, 0); ok {
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
	for len(p.ring) > 0 && p.free() && !p.stopping {
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
	out := sink.Attempt(p.attemptCtx, &Request{
		URL: spec.url, Signer: spec.signer, EventID: d.flight.EventID.String(), EventType: d.flight.Type,
		Body: d.flight.Body, Attempt: d.attempts + 1,
	})
	if !out.Aborted {
		p.metrics.attempt(d.flight, out)
	}
	return out
}

// finish settles an attempt and decides what its lane does next.
func (p *Dispatcher) finish(d *Delivery, out Outcome) {
	s := &d.ep.lanes
	now := time.Now()
	d.onWire = false
	s.inflight--
	p.inflight--
	if d.slow {
		d.slow = false
		p.slow--
	}
	s.lastEnd = now
	l := d.lane
	switch {
	case s.removed:
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
	case out.Success():
		s.failures, s.hangs = 0, false
		p.metrics.ended(d.flight, StatusDelivered, now)
		p.leave(d)
		p.submitEnded(d, StatusDelivered, out, now)
		p.advance(l)
	case out.Aborted:
		p.leave(d)
		p.keep(d, now)
		p.parkRest(l)
		p.dropLane(l)
	default:
		p.failed(d, out, now)
	}
	p.enring(d.ep)
	if s.total > s.loaded || p.starved {
		poke(p.load)
	}
}

func (p *Dispatcher) failed(d *Delivery, out Outcome, now time.Time) {
	s, l := &d.ep.lanes, d.lane
	d.failed(out, now)
	if s.failures++; s.failures >= failuresInRow {
		s.hangs = true
	}
	if out.Gone && !s.disabled {
		s.disabled = true
		p.submit(op{kind: opDisable, ep: d.ep, text: "gone: the endpoint answered 410"})
		defer p.parkIdle(d.ep)
	}
	wait, more := p.opts.Schedule.Next(d.attempts, out.RetryAfter)
	if !more {
		p.metrics.ended(d.flight, StatusDead, now)
		p.leave(d)
		p.submitEnded(d, StatusDead, out, now)
		p.advance(l) // a dead head gives way
		return
	}
	p.metrics.retry(d.flight, out.Reason)
	p.leave(d)
	p.keep(d, now.Add(wait))
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
	if s := &l.ep.lanes; s.lanes[l.key] == l {
		delete(s.lanes, l.key)
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
	if d.durable {
		d.ep.lanes.dropParked(d.laneKey)
	}
	p.submit(o)
}

// submit fills in what the delivery is now: it goes on while the op waits.
func (p *Dispatcher) submit(o op) {
	if o.d != nil {
		o.ep, o.lane = o.d.ep, o.d.laneKey
		o.attempts, o.history, o.lastError = o.d.attempts, o.d.history, o.d.lastError
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
		if o.ep == nil {
			continue
		}
		if o.kind == opRevive {
			delete(p.reviving, o.id)
		}
		s := &o.ep.lanes
		if o.touchesTable() {
			u := s.unsettle[o.lane]
			if u.ops--; u.ops > 0 {
				s.unsettle[o.lane] = u
			} else {
				delete(s.unsettle, o.lane)
				if u.missed {
					p.dueAt(o.ep, time.Now())
					look = true
				}
			}
		}
		due := o.next
		if o.kind == opPromote {
			due = time.Now()
		}
		if !due.IsZero() {
			p.dueAt(o.ep, due)
			look = true
		}
	}
	if look {
		poke(p.load)
	}
}

// dueAt notes that rows of an endpoint want to be loaded at t.
func (p *Dispatcher) dueAt(ep *Endpoint, t time.Time) {
	s := &ep.lanes
	if s.nextDue.IsZero() || t.Before(s.nextDue) {
		s.nextDue = t
	}
	p.backlog[ep] = struct{}{}
}

// Run hands over what has been in memory for too long. It returns when ctx ends.
func (p *Dispatcher) Run(ctx context.Context) error {
	p.mu.Lock()
	every := min(max(p.opts.HandoverAfter/10, 5*time.Millisecond), slowAfter)
	p.mu.Unlock()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			now := time.Now()
			p.makeWay(now)
			p.handOver(now)
		}
	}
}

func (p *Dispatcher) handOver(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for d := p.live.oldest; d != nil && now.Sub(d.arrived) > p.opts.HandoverAfter; d = p.live.oldest {
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
	if now.Sub(s.lastEnd) > p.opts.HandoverAfter/2 {
		s.hangs = true
	}
	l.queue = l.queue[1:]
	p.park(head, now.Add(p.opts.Timeout+time.Second))
	s.loaded++
	p.loaded++
	p.parkRest(l)
	l.queue = []*Delivery{head}
}

// Changed tells the dispatcher that a subscription was changed.
func (p *Dispatcher) Changed(ep *Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &ep.lanes
	was := s.disabled
	s.disabled = !ep.Subscription().Active
	s.hangs, s.failures = false, 0
	switch {
	case s.disabled && !was:
		p.parkIdle(ep)
	case !s.disabled && s.total > 0:
		p.dueAt(ep, time.Now())
		poke(p.load)
	}
	p.enring(ep)
	p.start()
}

// Removed cancels everything for a subscription that is gone.
func (p *Dispatcher) Removed(ep *Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &ep.lanes
	s.removed = true
	now := time.Now()
	for _, l := range s.lanes {
		keepHead := len(l.queue) > 0 && l.head().onWire
		for i, d := range l.queue {
			if i == 0 && keepHead {
				continue
			}
			if d.durable {
				s.loaded--
				p.loaded--
				continue
			}
			p.release(d)
			p.cancel(d, now)
		}
		if keepHead {
			l.queue = l.queue[:1]
		} else {
			l.queue = nil
			p.dropLane(l)
		}
	}
	s.parked, s.total = make(map[uint64]int32), 0
	p.submit(op{kind: opCancel, ep: ep})
	poke(p.load) // what was loaded of it has made room
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

func (p *Dispatcher) parkHead(l *lane, now time.Time) {
	d := l.head()
	p.leave(d)
	p.keep(d, now)
	p.parkRest(l)
	p.dropLane(l)
}

// Drain ends delivery: nothing new starts, attempts on the wire may end until
// ctx does, and then give up. When it returns, all that is unfinished has been
// given to the Recorder.
func (p *Dispatcher) Drain(ctx context.Context) {
	p.mu.Lock()
	p.stopping = true
	seen := make(map[*Endpoint]bool)
	for d := p.live.oldest; d != nil; {
		ep := d.ep
		d = d.newer
		seen[ep] = true
	}
	for ep := range seen {
		p.parkIdle(ep)
	}
	stop := context.AfterFunc(ctx, p.abort)
	p.mu.Unlock()
	p.workers.Wait()
	stop()
	p.abort()
}

// Abort gives up everything at once, because another relay leads: nothing more is
// sent, and what attempts on the wire bring is not recorded.
func (p *Dispatcher) Abort() {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	p.abort()
	p.workers.Wait()
}

// Configure replaces what may change while deliveries are on their way.
func (p *Dispatcher) Configure(opts Options, sink Sink) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opts, p.sink = opts, sink
	poke(p.room)
	p.start()
}

// Load is what the dispatcher holds now.
type Load struct {
	InFlight, Window, Loaded int
	WindowBytes              int64
}

// Load returns what the dispatcher holds now.
func (p *Dispatcher) Load() Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Load{InFlight: p.inflight, Window: p.windowN, Loaded: p.loaded, WindowBytes: p.windowB}
}

// Parked is the number of deliveries that wait in the table.
func (p *Dispatcher) Parked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for ep := range p.backlog {
		n += ep.lanes.total
	}
	return n
}
