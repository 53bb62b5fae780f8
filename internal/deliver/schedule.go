package deliver

import (
	"math/rand/v2"
	"time"
)

// Schedule says when to try again. It does no I/O and is safe for concurrent use.
type Schedule struct {
	// Delays holds the wait before each attempt; its length is the number of
	// attempts after which a delivery goes dead.
	Delays []time.Duration
	// Jitter lengthens each wait by a random share of itself, from 0 up to this.
	// It never shortens one, so that a receiver's wish stays respected.
	Jitter float64
	// MaxRetryAfter bounds what a receiver may ask for.
	MaxRetryAfter time.Duration
}

// Next returns the wait before the next attempt after made attempts, and false
// when there is none left. retryAfter, what the receiver asked for, lengthens
// the wait and never shortens it; 0 means that it asked for nothing.
func (s Schedule) Next(made int, retryAfter time.Duration) (time.Duration, bool) {
	if made >= len(s.Delays) {
		return 0, false
	}
	wait := s.Delays[max(made, 0)]
	if retryAfter > 0 {
		wait = max(wait, min(retryAfter, s.MaxRetryAfter))
	}
	return wait + time.Duration(rand.Float64()*s.Jitter*float64(wait)), true //nolint:gosec // jitter is no secret
}
