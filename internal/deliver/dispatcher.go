package deliver

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
)

// Options are the knobs of delivery. Zero values are not defaults: the
// configuration sets them all.
type Options struct {
	Schedule            Schedule
	Timeout             time.Duration // upper bound of one attempt; the Sink enforces it
	MaxTimeout          time.Duration // and of one to a subscription with a timeout of its own
	HandoverAfter       time.Duration // longest time that a delivery is in memory only
	Concurrency         int           // attempts at once
	FreshConcurrency    int           // of those, that began within slowAfter; 0: all
	EndpointConcurrency int           // attempts at once to one endpoint
	FailingRate         int           // lanes a second that are loaded for endpoints that fail; 0: all
	WindowEvents        int           // deliveries in memory only
	WindowBytes         int64         // and their bodies
	Breaker             BreakerOptions
	Pace                PaceOptions
	Disable             DisableOptions
}

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

	// requests is held from the look at a waiting or dead row to the decision about it,
	// so that nothing else is decided about the row in between. It is taken before mu.
	requests sync.Mutex

	mu         sync.Mutex
	ring       []*Endpoint             // endpoints that work, with something that may start
	doubtful   []*Endpoint             // endpoints that may not, with something that may start
	turn       bool                    // the next turn is doubtful's, when both have something
	paced      map[*Endpoint]time.Time // endpoints with something that may start then
	open       map[*Endpoint]struct{}  // endpoints whose breaker is open
	notices    notices
	failing    map[*Endpoint]struct{} // endpoints that have failed since they last took something
	replayRing []*Endpoint            // endpoints with something of a replay that may start
	replaying  int                    // of inflight, those of replays
	inflight   int
	slow       int         // attempts of inflight that began longer ago than slowAfter
	hanging    int         // attempts of slow that began longer ago than HandoverAfter
	started    []*Delivery // attempts by their start, oldest first, until they are slow
	waiting    []*Delivery // slow ones by their start, oldest first, until they hang
	live       liveList
	windowN    int
	windowB    int64
	loaded     int
	mostRows   int                       // of loaded at once, attempts that hang not counted
	starved    bool                      // rows of some endpoint are due, and too many of others are loaded
	asked      map[uuid.UUID]struct{}    // deliveries that a request is about which is not committed
	backlog    map[*Endpoint]struct{}    // endpoints that had rows in the table
	due        [dueClasses]dueList       // endpoints whose rows will have to be loaded
	retries    *rate.Limiter             // of what is loaded for endpoints that fail; nil: not bounded
	beyond     *rate.Limiter             // of what is loaded for endpoints that may not work when there is no room
	stamped    time.Time                 // what stamp gave out last
	toLetGo    map[*Endpoint]haltedPlace // endpoints whose halted lanes are to go on, and how far that is done
	// lastNumbers are the last numbers that subscriptions were given which are gone since.
	lastNumbers map[uuid.UUID]lastNumber
	stopping    bool
	pressure    Pressure
	held        held      // nothing may start: see fence.go
	pulse       time.Time // when Run last looked; zero before it has

	attemptCtx context.Context // ends when attempts on the wire must give up
	abort      context.CancelFunc
	workers    sync.WaitGroup

	room chan struct{} // one token: the window has shrunk
	load chan struct{} // one token: the loader should look

	frozen chan struct{} // one token: the process stood still
}

// NewDispatcher returns a Dispatcher whose outcomes go to rec.
func NewDispatcher(opts Options, sink Sink, rec *Recorder, settled *Settled, m *Metrics, log *slog.Logger) *Dispatcher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Dispatcher{
		opts: opts, sink: sink, rec: rec, settled: settled, metrics: m, log: log,
		attemptCtx: ctx, abort: cancel, mostRows: maxLoaded,
		asked: make(map[uuid.UUID]struct{}), backlog: make(map[*Endpoint]struct{}),
		room: make(chan struct{}, 1), load: make(chan struct{}, 1), frozen: make(chan struct{}, 1),
		paced: make(map[*Endpoint]time.Time), open: make(map[*Endpoint]struct{}),
		lastNumbers: make(map[uuid.UUID]lastNumber),
		notices:     newNotices(),
		failing:     make(map[*Endpoint]struct{}), toLetGo: make(map[*Endpoint]haltedPlace),
		beyond: rate.NewLimiter(beyondRate, beyondRate/10),
	}
	if n := opts.FailingRate; n > 0 {
		p.retries = rate.NewLimiter(rate.Limit(n), n)
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
			p.beat(now)
			p.rec.look(now)
			p.makeWay(now)
			p.letGo(now)
			p.handOver(now)
			p.beatNotices(now)
		}
	}
}

// Changed tells the dispatcher that a subscription was changed.
func (p *Dispatcher) Changed(ep *Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, now := &ep.lanes, time.Now()
	sub := ep.Subscription()
	was, url, enabled := s.disabled, s.url, s.enabled
	s.disabled, s.url, s.enabled = ep.Held(), sub.URL, sub.enabledAt()
	p.tellLocked(ep)
	if s.disabled && !was {
		delete(p.failing, ep)
		delete(p.open, ep)
		p.parkIdle(ep)
		poke(p.load) // what was loaded of it has made room
	}
	switch {
	case url != sub.URL || !s.disabled && (was || s.enabled.After(enabled)): // another endpoint, or somebody says that it works again
		p.forgive(ep, now)
	case !s.disabled: // what was changed may be what it failed by
		s.breaker.hurry(now)
		s.pace.resume()
		p.noteHeld(ep)
	}
	if s.halts && !sub.halts() {
		p.submit(op{kind: opLetAllGo, ep: ep}) // behind what still becomes a dead head
	}
	s.halts = sub.halts()
	if !s.disabled && s.total > 0 {
		p.dueAt(ep, now)
		p.dueReplay(ep, now)
		poke(p.load)
	}
	s.pace.limit(sub.RateLimit)
	p.enring(ep)
	p.reline(ep)
	p.start()
}

// schedule is that of the subscription, or of all that have none.
func (p *Dispatcher) schedule(ep *Endpoint) Schedule {
	s := p.opts.Schedule
	if own := ep.Subscription().RetrySchedule; len(own) > 0 {
		s.Delays = own
	}
	return s
}

// timeout bounds an attempt at an endpoint.
func (p *Dispatcher) timeout(ep *Endpoint) time.Duration {
	return cmp.Or(ep.Subscription().OwnTimeout(p.opts.MaxTimeout), p.opts.Timeout)
}

// forgive forgets what is known about how an endpoint works. What waits for it need
// not wait for a time that the old failures have set, and begins slowly.
func (p *Dispatcher) forgive(ep *Endpoint, now time.Time) {
	s := &ep.lanes
	s.breaker, s.pace, s.anew, s.tried = breaker{}, pace{}, now, nil
	delete(p.open, ep)
	p.healthy(ep)
	if s.total > 0 && !s.disabled {
		s.pace.recover()
		p.hurry(ep, now)
	}
}

// Removed cancels everything for a subscription that is gone.
func (p *Dispatcher) Removed(ep *Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &ep.lanes
	s.removed = true
	p.lastNumbers[ep.id] = lastNumber{s.given, s.latest}
	delete(p.open, ep)
	delete(p.failing, ep)
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
	s.parked, s.total, s.revived = make(map[uint64]int32), 0, nil
	s.replay.of = make(map[uint64]int64)
	p.submit(op{kind: opCancel, ep: ep})
	poke(p.load) // what was loaded of it has made room
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

// Open is the number of endpoints that are given up for a while.
func (p *Dispatcher) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// Breaker returns what the breaker of an endpoint stands at; that of nil is closed.
func (p *Dispatcher) Breaker(ep *Endpoint) BreakerState {
	if ep == nil {
		return BreakerState{State: "closed"}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return ep.lanes.breaker.state()
}

// Failing is the number of endpoints that have failed since they last took
// something, without being disabled.
func (p *Dispatcher) Failing() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.failing)
}

// Parked is the number of deliveries that wait in the table.
func (p *Dispatcher) Parked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for ep := range p.backlog {
		if ep.lanes.total == 0 {
			delete(p.backlog, ep)
		}
		n += ep.lanes.total
	}
	return n
}
