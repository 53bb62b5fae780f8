package deliver

import "time"

// Bounds of a pace.
const (
	maxRate   = 1000                  // a faster pace is none
	rateSlack = 50 * time.Millisecond // so much of a pace may come at once

	manyTimesSlower = 4 // than usual: the endpoint is loaded
	slowEnough      = 200 * time.Millisecond
	enoughSeen      = 16
)

// PaceOptions bound how far the pace of an endpoint goes down when it answers 429.
type PaceOptions struct {
	FirstPause time.Duration // when it names none; it doubles each time in a row
	MaxPause   time.Duration // up to this
	MinRate    float64       // attempts a second
}

// DefaultPace is gentle with an endpoint and leaves it a probe every ten seconds.
var DefaultPace = PaceOptions{FirstPause: time.Second, MaxPause: time.Minute, MinRate: 0.1}

// pace bounds what one endpoint gets: how many attempts of its backlog at once,
// how many attempts a second, and none while it has asked for a pause. What it
// bounds grows by little with each success and is halved when the endpoint
// complains, once for all attempts that were on the wire together. It does no I/O
// and knows no clock. The zero pace bounds nothing.
type pace struct {
	slots float64   // attempts of the backlog at once; 0: as many as the endpoint may have
	cutAt time.Time // attempts that began earlier have had their say

	most  float64   // attempts a second that the subscription wants at most; 0: not bounded
	rate  float64   // attempts a second; 0: not bounded
	due   time.Time // when the next attempt of an even stream would start
	since time.Time // begin of the second in which starts are counted
	n     int       // starts in it
	last  int       // starts in the second before

	until  time.Time // paused
	pauses int       // in a row, that the endpoint named no end of

	usual time.Duration // smoothed time that a success takes
	seen  int           // successes in it, up to enoughSeen
}

// mayStart tells whether an attempt may start now.
func (p *pace) mayStart(now time.Time) bool { return !p.next().After(now) }

// next is when an attempt may start; in the past when one may at once.
func (p *pace) next() time.Time {
	if p.rate == 0 {
		return p.until
	}
	if at := p.due.Add(-rateSlack); at.After(p.until) {
		return at
	}
	return p.until
}

// slowed tells whether the endpoint complained, and gets less than it may have.
func (p *pace) slowed() bool { return p.rate > 0 && p.rate != p.most }

// limit bounds the pace by what the subscription wants, 0 for nothing.
func (p *pace) limit(most float64) {
	was := p.most
	p.most = most
	switch {
	case most > 0 && (p.rate == 0 || p.rate > most || p.rate == was):
		p.rate = most
	case most == 0 && was > 0 && p.rate == was:
		p.rate, p.due = 0, time.Time{}
	}
}

// started notes an attempt.
func (p *pace) started(now time.Time) {
	if p.rate > 0 {
		if p.due.Before(now) {
			p.due = now
		}
		p.due = p.due.Add(time.Duration(float64(time.Second) / p.rate))
	}
	switch gone := now.Sub(p.since); {
	case gone >= 2*time.Second:
		p.since, p.last, p.n = now, 0, 0
	case gone >= time.Second:
		p.since, p.last, p.n = now, p.n, 0
	}
	p.n++
}

// backlogMay tells whether another attempt of the backlog may start beside busy
// ones of it, when the endpoint may have most attempts at once. While live traffic
// waits, a quarter of them is kept for it.
func (p *pace) backlogMay(busy, most int, liveWaits bool) bool {
	limit := most
	if p.slots > 0 {
		limit = min(limit, int(p.slots))
	}
	if liveWaits {
		limit = min(limit, most-max(1, most/4))
	}
	return busy < max(limit, 1)
}

// recover begins the backlog with one attempt at a time.
func (p *pace) recover() {
	p.slots = 1
	p.usual, p.seen = 0, 0
}

// resume ends a pause and lets the next attempt start at once.
func (p *pace) resume() { p.until, p.due, p.pauses = time.Time{}, time.Time{}, 0 }

// succeeded notes an attempt that began at began and took so long.
func (p *pace) succeeded(began, now time.Time, took time.Duration, most int) {
	p.pauses = 0
	if p.seen >= enoughSeen && took > slowEnough && took > manyTimesSlower*p.usual {
		p.cut(began, now, most)
	} else {
		p.grow(most)
	}
	if p.seen < enoughSeen {
		p.seen++
	}
	p.usual += (took - p.usual) / time.Duration(p.seen)
}

func (p *pace) grow(most int) {
	if p.slots > 0 {
		if p.slots += 1 / p.slots; p.slots >= float64(most) {
			p.slots = 0
		}
	}
	if p.slowed() {
		// With each second a twentieth more, and a tenth of one.
		p.rate += (0.1 + p.rate/20) / p.rate
		switch {
		case p.most > 0:
			p.rate = min(p.rate, p.most)
		case p.rate >= maxRate:
			p.rate, p.due = 0, time.Time{}
		}
	}
}

// failed notes a failed attempt of an endpoint that has trouble.
func (p *pace) failed(began, now time.Time, most int) { p.cut(began, now, most) }

// cut halves the backlog's attempts, and tells whether it did.
func (p *pace) cut(began, now time.Time, most int) bool {
	if began.Before(p.cutAt) {
		return false
	}
	p.cutAt = now
	if p.slots == 0 {
		p.slots = float64(most)
	}
	p.slots = max(1, p.slots/2)
	return true
}

// pause lets nothing start for so long.
func (p *pace) pause(now time.Time, d time.Duration) {
	if until := now.Add(d); until.After(p.until) {
		p.until = until
	}
}

// throttled notes that the endpoint wants fewer attempts (429). wish is how long
// it asked us to wait, 0 if it did not say. It returns when the pause ends.
func (p *pace) throttled(began, now time.Time, wish time.Duration, most int, o PaceOptions) time.Time {
	if p.cut(began, now, most) {
		rate := p.rate
		if rate == 0 {
			rate = float64(max(p.n, p.last, 1))
		}
		p.rate = min(max(rate/2, o.MinRate), maxRate/2)
		if wish == 0 {
			p.pause(now, min(o.FirstPause<<min(p.pauses, 10), o.MaxPause))
			p.pauses++
		}
	}
	p.pause(now, wish)
	if !p.until.After(now) {
		p.pause(now, o.FirstPause)
	}
	return p.until
}
