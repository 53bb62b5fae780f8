package deliver

import "time"

// DisableOptions say when an endpoint that only fails is disabled.
type DisableOptions struct {
	After   time.Duration // without a success for so long; 0: never
	Warning time.Duration // a warning comes when it has failed for so long
}

// health knows since when an endpoint has failed without a success between. The
// time is kept in relay.failing, so that a restart does not begin it anew. It does
// no I/O and knows no clock. The zero health is that of an endpoint that works.
type health struct {
	since  time.Time // first failure since the last success; zero: it works
	warned time.Time // zero: not yet
}

// verdict is what follows from a failed attempt.
type verdict uint8

const (
	verdictKnown   verdict = iota // nothing new
	verdictFailing                // it worked before
	verdictWarn
	verdictDisable
)

// failed notes a failed attempt. A disabling never comes without a warning, and
// leaves time to read it: half of what lies between the two, up to an hour.
func (h *health) failed(now time.Time, o DisableOptions) verdict {
	first := h.since.IsZero()
	if first {
		h.since = now
	}
	lasts := now.Sub(h.since)
	switch {
	case o.After <= 0:
	case h.warned.IsZero() && lasts >= o.Warning:
		h.warned = now
		return verdictWarn
	case !h.warned.IsZero() && lasts >= o.After && now.Sub(h.warned) >= min(time.Hour, (o.After-o.Warning)/2):
		return verdictDisable
	}
	if first {
		return verdictFailing
	}
	return verdictKnown
}

// succeeded notes a success and tells whether it failed before.
func (h *health) succeeded() bool {
	was := !h.since.IsZero()
	*h = health{}
	return was
}
