package deliver

import (
	"time"

	"github.com/google/uuid"
)

// BreakerOptions say when an endpoint is given up for a while.
type BreakerOptions struct {
	Failures   int           // so many failed attempts in a row open it
	FirstProbe time.Duration // wait from the opening to the first probe
	MaxProbe   time.Duration // the wait doubles with each probe that fails, up to this
}

// breaker decides whether an endpoint is worth an attempt. Closed, it lets all
// through. Open, it lets one probe through at a time, each later than the one
// before, until something succeeds; what waits spends no attempts meanwhile. It
// does no I/O and knows no clock. The zero breaker is closed.
type breaker struct {
	open     bool
	probing  bool      // a probe is on the wire
	until    time.Time // the next probe starts no earlier
	interval time.Duration
	failures int  // in a row
	outage   bool // failures in a row have opened it

	// Failures of one delivery alone may be that delivery's fault.
	first   uuid.UUID // the delivery that failed first since the last success
	several bool      // another one failed besides
}

// mayStart tells whether an attempt may start now.
func (b *breaker) mayStart(now time.Time) bool {
	return !b.open || !b.probing && !now.Before(b.until)
}

// started notes an attempt and tells whether it is a probe.
func (b *breaker) started() bool {
	b.probing = b.open
	return b.open
}

// succeeded closes the breaker. It reports whether an outage has ended: it was open for failures, and not because one delivery
// is slow.
func (b *breaker) succeeded() (recovered bool) {
	recovered = b.open && (b.outage || b.several)
	*b = breaker{}
	return recovered
}

// failed notes a failed attempt of a delivery and tells whether the breaker has
// opened by it. Attempts that were on the wire when it opened, and fail later, put
// the next probe off; only a probe makes the wait longer. stretch, from 1 up, is
// the jitter.
func (b *breaker) failed(now time.Time, id uuid.UUID, probe bool, o BreakerOptions, stretch float64) (opened bool) {
	b.failures++
	if b.first == uuid.Nil {
		b.first = id
	}
	b.several = b.several || b.first != id
	switch {
	case !b.open && b.failures < o.Failures:
		return false
	case !b.open:
		b.open, b.outage, opened = true, true, true
		b.interval = min(o.FirstProbe, o.MaxProbe)
	case probe:
		b.probing = false
		b.interval = min(max(2*b.interval, o.FirstProbe), o.MaxProbe)
	}
	wait := time.Duration(stretch * float64(b.interval))
	if wait > o.MaxProbe { // the longest wait is what it says; jitter takes from it then
		wait = time.Duration(float64(o.MaxProbe) / stretch)
	}
	if next := now.Add(wait); next.After(b.until) {
		b.until = next
	}
	return opened
}

// hung opens the breaker because attempts do not end. A probe may start at once:
// it may be one delivery alone that takes so long.
func (b *breaker) hung(now time.Time) (opened bool) {
	if b.open {
		return false
	}
	b.open, b.until = true, now
	return true
}

// resume opens the breaker of an endpoint that had failed when another leader gave it
// up: what waits for it waits for the endpoint's sake.
// The next probe starts no earlier than that leader wanted, if that was within what is wanted now.
func (b *breaker) resume(now, notBefore time.Time, o BreakerOptions) {
	b.hung(now)
	b.outage = true
	if notBefore.After(now) && !notBefore.After(now.Add(o.MaxProbe)) {
		b.until = notBefore
	}
}

// inconclusive notes the end of an attempt that says nothing about whether the
// endpoint works: it asked for patience, or we gave up ourselves.
func (b *breaker) inconclusive(now time.Time, probe bool) {
	if !probe {
		return
	}
	b.probing = false
	if next := now.Add(b.interval); next.After(b.until) {
		b.until = next
	}
}

// hurry lets the next probe start at once, because somebody asks for it.
func (b *breaker) hurry(now time.Time) {
	if b.until.After(now) {
		b.until = now
	}
}

// BreakerState is what an endpoint's breaker stands at.
type BreakerState struct {
	State    string    // closed, open, or probing: an attempt tries whether the endpoint works again
	Failures int       // in a row
	Until    time.Time // of an open one: the next attempt starts no earlier
}

func (b *breaker) state() BreakerState {
	switch {
	case !b.open:
		return BreakerState{State: "closed", Failures: b.failures}
	case b.probing:
		return BreakerState{State: "probing", Failures: b.failures}
	}
	return BreakerState{State: "open", Failures: b.failures, Until: b.until}
}
