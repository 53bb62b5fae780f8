package api

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/outbox-relay/relay/internal/token"
)

// maxBuckets bounds the buckets of a limiter. Beyond it those that are full again are dropped, and if there are none, all.
const maxBuckets = 10_000

// limiter holds each of many to a rate. It is safe for concurrent use.
type limiter struct {
	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newLimiter() *limiter { return &limiter{buckets: make(map[string]*rate.Limiter)} }

// burst is how many may come at once.
func burst(perSecond float64) int { return max(1, int(math.Ceil(2*perSecond))) }

// window is how many seconds a whole quota takes to come back.
func window(quota int, perSecond float64) int {
	return max(1, int(math.Ceil(float64(quota)/perSecond)))
}

func (l *limiter) bucket(of string, perSecond float64) *rate.Limiter {
	b := l.buckets[of]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			l.sweep()
		}
		b = rate.NewLimiter(rate.Limit(perSecond), burst(perSecond))
		l.buckets[of] = b
	}
	if b.Limit() != rate.Limit(perSecond) { // reloaded
		b.SetLimit(rate.Limit(perSecond))
		b.SetBurst(burst(perSecond))
	}
	return b
}

func (l *limiter) sweep() {
	for of, b := range l.buckets {
		if b.Tokens() >= float64(b.Burst()) {
			delete(l.buckets, of)
		}
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets)
	}
}

// take counts one, or tells how long to wait until there is room for it. A rate of 0 is no limit.
func (l *limiter) take(of string, perSecond float64) (wait time.Duration, ok bool) {
	if perSecond <= 0 {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return lack(l.bucket(of, perSecond), true)
}

// look is take without counting.
func (l *limiter) look(of string, perSecond float64) (wait time.Duration, ok bool) {
	if perSecond <= 0 {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.buckets[of]; b != nil {
		return lack(b, false)
	}
	return 0, true
}

func lack(b *rate.Limiter, count bool) (time.Duration, bool) {
	if left := b.Tokens(); left < 1 {
		return time.Duration((1 - left) / float64(b.Limit()) * float64(time.Second)), false
	}
	if count {
		b.Allow()
	}
	return 0, true
}

// state is how many there may be at once, how many are left, and after how many seconds all are back.
func (l *limiter) state(of string, perSecond float64) (quota, left, reset int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(of, perSecond)
	tokens := max(0, b.Tokens())
	return b.Burst(), int(tokens), int(math.Ceil((float64(b.Burst()) - tokens) / perSecond))
}

// gauge counts what is under way, up to a bound.
type gauge struct {
	n   atomic.Int64
	max int64
}

func newGauge(n int64) *gauge { return &gauge{max: n} }

func (g *gauge) enter() bool {
	if g.n.Add(1) > g.max {
		g.n.Add(-1)
		return false
	}
	return true
}

func (g *gauge) leave() { g.n.Add(-1) }

// tenantCalls are the calls of one tenant that are worked on.
type tenantCalls struct {
	gauge
	turns chan struct{}
	users int
}

// tenantGauges holds the calls of each tenant that has some, and forgets a tenant that has none.
type tenantGauges struct {
	mu sync.Mutex
	of map[string]*tenantCalls
}

func newTenantGauges() *tenantGauges { return &tenantGauges{of: make(map[string]*tenantCalls)} }

func (g *tenantGauges) get(tenant string) *tenantCalls {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.of[tenant]
	if t == nil {
		t = &tenantCalls{gauge: gauge{max: maxOfTenant}, turns: make(chan struct{}, maxTurns)}
		g.of[tenant] = t
	}
	t.users++
	return t
}

func (g *tenantGauges) put(tenant string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.of[tenant]; t != nil {
		if t.users--; t.users == 0 {
			delete(g.of, tenant)
		}
	}
}

// refused tells whether a token was looked at and found bad.
func refused(err error) bool {
	return errors.Is(err, token.ErrMalformed) || errors.Is(err, token.ErrRefused)
}
