package deliver

import (
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/signature"
)

// Endpoint is one subscription at work: how to reach it, and its lanes. It stays
// the same object while its subscription changes, so that deliveries on their
// way keep their place.
type Endpoint struct {
	id    uuid.UUID
	spec  atomic.Pointer[endpointSpec]
	lanes laneSet // guarded by Dispatcher.mu
	// numbers belongs to the Recorder once something was admitted.
	numbers numbers
}

// endpointSpec is what a change of the subscription replaces in one step.
type endpointSpec struct {
	sub    *Subscription
	url    *url.URL
	signer *signature.Signer // with each secret that is good
	later  *signature.Signer // without the previous one, for when that has expired; nil when there is none
	header http.Header       // that the subscription wants besides ours; read-only
	client *client           // as whom it is called; nil: as nobody
	fault  string            // why no attempt can be made, empty when one can
}

// signerAt is what signs at a time. Nobody has to be told that a secret expires.
func (s *endpointSpec) signerAt(now time.Time) *signature.Signer {
	if s.later != nil && !s.sub.previousGood(now) {
		return s.later
	}
	return s.signer
}

// CheckURL parses a URL of a tenant's and tells whether it may be posted to at all. What it
// lets through may still be refused when it is dialed.
type CheckURL func(tenant, raw string) (*url.URL, error)

func newEndpoint(s *Subscription, check CheckURL, as Identify) *Endpoint {
	ep := &Endpoint{id: s.ID, lanes: newLaneSet()}
	ep.replace(s, check, as)
	return ep
}

// replace takes a changed subscription in. Its URL is checked here too, because
// rows may be written by other hands than ours. It returns as whom the endpoint was called
// and is not any more, nil for nobody; it must not run twice at once.
func (ep *Endpoint) replace(s *Subscription, check CheckURL, as Identify) (left *client) {
	spec := &endpointSpec{sub: s}
	before := ep.client()
	var err error
	if spec.url, err = check(s.TenantID, s.URL); err != nil {
		spec.fault = "the URL of the subscription is not allowed"
	} else if err = spec.sign(time.Now()); err != nil {
		spec.fault = "the secret of the subscription cannot be used"
	} else if spec.header, err = s.Header(); err != nil {
		spec.fault = err.Error()
	} else if spec.client, err = newClient(s, before, as); err != nil {
		spec.fault = err.Error()
	}
	ep.spec.Store(spec)
	if before == spec.client {
		return nil
	}
	return before
}

// client is as whom the endpoint is called; nil: as nobody.
func (ep *Endpoint) client() *client {
	if spec := ep.spec.Load(); spec != nil {
		return spec.client
	}
	return nil
}

// sign makes the signers.
func (s *endpointSpec) sign(now time.Time) (err error) {
	if s.sub.Locked != nil {
		return nil // no attempt is made
	}
	if s.signer, err = s.sub.Signer(now); err == nil && s.sub.previousGood(now) {
		s.later, err = s.sub.Signer(*s.sub.PreviousExpiresAt)
	}
	return err
}

// Subscription returns the subscription as it was last read.
func (ep *Endpoint) Subscription() *Subscription { return ep.spec.Load().sub }

// Held tells whether everything for the endpoint waits: its subscription is disabled,
// or its secret cannot be opened.
func (ep *Endpoint) Held() bool {
	sub := ep.Subscription()
	return !sub.Active || sub.Locked != nil
}

// laneSet is what is in memory for one endpoint.
type laneSet struct {
	lanes map[uint64]*lane // lanes with deliveries in memory
	// parked counts the rows of relay.parked by lane, those included that are
	// loaded. It is exact: rows are counted when it is decided to write or to
	// delete them.
	parked    map[uint64]int32
	total     int // sum of parked
	unsettle  map[uint64]unwritten
	revived   map[uint64]struct{} // lanes in which something was revived, which may be in memory without it
	fresh     laneQueue           // whose head may start and has no row
	stored    laneQueue           // whose head may start and has one
	turn      bool                // the next turn is stored's, when both have something
	inRing    bool                // stands in Dispatcher.ring or Dispatcher.doubtful
	inflight  int
	restored  int // attempts of inflight that began with a row
	loaded    int // deliveries in memory that have a row
	live      int // deliveries in memory that have none
	breaker   breaker
	pace      pace
	health    health
	works     bool                // its last attempt that ended was taken
	url       string              // that these are about
	enabled   time.Time           // when somebody last said that it works
	anew      time.Time           // since when; what began earlier says nothing of them
	lastEnd   time.Time           // when an attempt last ended
	nextDue   time.Time           // earliest next_attempt_at in the table; zero: none
	wake      time.Time           // when the loader looks at it
	tried     map[uint64]struct{} // lanes that have tried it before their time since its breaker opened
	recorded  heldUntil           // what relay.failing has
	looked    time.Time           // when it last did
	due       *dueList            // that it is in, nil for none
	dueIndex  int                 // and where
	announced bool                // that it takes nothing was noted, and not yet that it takes something again
	disabled  bool                // or its secret is locked: see Endpoint.Held
	locked    error               // that was told
	halts     bool                // a delivery that is given up halts its lane
	removed   bool
	replay    replaySet
	given     int64     // the last number that was given out
	latest    time.Time // the latest commit time of what was numbered
	taken     []span    // numbers above given that an earlier leader gave out, and that are on record
}

// unwritten is what the Recorder still has to write for a lane. Its rows are
// not loaded meanwhile, because they may be stale.
type unwritten struct {
	ops    int32
	missed bool // the loader has passed the lane over; it must look again
}

func newLaneSet() laneSet {
	return laneSet{lanes: make(map[uint64]*lane), parked: make(map[uint64]int32), unsettle: make(map[uint64]unwritten),
		replay: replaySet{of: make(map[uint64]int64)}}
}

// lane is the order of one key to one subscription: queue[0] is the only
// delivery of it that may be on the wire. A lane lives in memory only while it
// has deliveries there.
type lane struct {
	ep    *Endpoint
	key   uint64
	queue []*Delivery
}

func (l *lane) head() *Delivery { return l.queue[0] }

func (l *lane) pop() {
	l.queue[0] = nil
	l.queue = l.queue[1:]
}

// fromTable counts the lanes in memory whose deliveries have rows, and those of
// them that wait for their turn. Lanes of fresh deliveries do not count: a busy
// endpoint always has some, and would never get to what waits for it in the table.
func (s *laneSet) fromTable() (all, waiting int) {
	for _, l := range s.lanes {
		if len(l.queue) > 0 && l.head().durable && l.head().flight.Replay == 0 {
			all++
			if !l.head().onWire {
				waiting++
			}
		}
	}
	return all, waiting
}

// mayStart tells whether an attempt at the endpoint may start now, as far as it
// can take one; when not, at is when it may, zero if that is for something else
// than time to decide.
func (s *laneSet) mayStart(now time.Time) (may bool, at time.Time) {
	at = s.pace.next()
	if s.breaker.open {
		if s.breaker.probing {
			return false, time.Time{}
		}
		if s.breaker.until.After(at) {
			at = s.breaker.until
		}
	}
	return !at.After(now), at
}

// heldUntil says what keeps an endpoint from being tried.
type heldUntil struct {
	at   time.Time // nothing starts before
	open bool      // its breaker is open: one delivery starts then, whatever time it waits for
}

func (s *laneSet) heldUntil() heldUntil {
	h := heldUntil{at: s.pace.until, open: s.breaker.open}
	if h.open && s.breaker.until.After(h.at) {
		h.at = s.breaker.until
	}
	return h
}

// maxTried is how many lanes are remembered that have tried an endpoint before their time, so that others do it next.
const maxTried = 16

// triedEarly notes that the head of a lane has tried the endpoint before its time. The soonest one alone would keep the endpoint
// closed for all where the fault is its own.
func (s *laneSet) triedEarly(key uint64) {
	if s.tried == nil || len(s.tried) >= maxTried {
		s.tried = make(map[uint64]struct{})
	}
	s.tried[key] = struct{}{}
}

// laneQueue holds lanes whose head may start, oldest first. Some may have been
// parked or cancelled since they joined.
type laneQueue []*lane

// trim drops what may not start any more from the front, and tells whether
// something is left.
func (q *laneQueue) trim() bool {
	for len(*q) > 0 {
		l := (*q)[0]
		if len(l.queue) > 0 && !l.head().onWire && l.ep.lanes.lanes[l.key] == l {
			return true
		}
		q.pop()
	}
	return false
}

func (q *laneQueue) pop() *lane {
	l := (*q)[0]
	(*q)[0] = nil
	*q = (*q)[1:]
	return l
}

func (s *laneSet) addParked(key uint64) {
	s.parked[key]++
	s.total++
}

func (s *laneSet) dropParked(key uint64) {
	s.total--
	if s.parked[key]--; s.parked[key] <= 0 {
		delete(s.parked, key)
		delete(s.replay.of, key)
		delete(s.revived, key)
	}
}

// noteRevived notes that a row of a lane is due that has come in front of others.
func (s *laneSet) noteRevived(key uint64) {
	if s.revived == nil {
		s.revived = make(map[uint64]struct{})
	}
	s.revived[key] = struct{}{}
}
