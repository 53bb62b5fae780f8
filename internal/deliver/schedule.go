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
	// MaxRetryAfter bounds what a receiver may ask for; 0: it is not listened to.
	MaxRetryAfter time.Duration
	MinRetryAfter time.Duration // a shorter one is made so long
}

// Wish is what a receiver asked for (Retry-After), within the bounds; 0: nothing.
func (s Schedule) Wish(retryAfter time.Duration) time.Duration {
	if retryAfter <= 0 {
		return 0
	}
	return min(max(retryAfter, s.MinRetryAfter), s.MaxRetryAfter)
}

// Next returns the wait before the next attempt after made attempts, and false
// when there is none left. retryAfter, what the receiver asked for, lengthens
// the wait and never shortens it; 0 means that it asked for nothing.
func (s Schedule) Next(made int, retryAfter time.Duration) (time.Duration, bool) {
	if made >= len(s.Delays) {
		return 0, false
	}
	stretch, wish := s.Stretch(), s.Wish(retryAfter)
	return max(stretched(s.Delays[max(made, 0)], stretch), s.granted(wish, stretch)), true
}

// After is the wait until a pause ends. One that is longer than own is one that a receiver has asked for.
func (s Schedule) After(pause, own time.Duration) time.Duration {
	wait := stretched(pause, s.Stretch())
	if pause > own {
		wait = max(pause, min(wait, s.MaxRetryAfter))
	}
	return wait
}

// granted is a wish with its jitter, which does not lead beyond what a receiver may ask for.
func (s Schedule) granted(wish time.Duration, stretch float64) time.Duration {
	return min(stretched(wish, stretch), s.MaxRetryAfter)
}

func stretched(d time.Duration, stretch float64) time.Duration {
	return time.Duration(stretch * float64(d))
}

// Stretch is the jitter: a random factor from 1 to 1 + Jitter.
func (s Schedule) Stretch() float64 {
	return 1 + rand.Float64()*s.Jitter // #nosec G404 -- jitter is no secret
}
