package deliver

import "time"

// frozenAfter is for how long Run may not have looked before it is taken for a
// process that stood still. Another relay may lead since.
const frozenAfter = 2 * time.Second

// held says why nothing may start.
type held uint8

const (
	holdLost   held = 1 << iota // the replication connection is lost
	holdFrozen                  // the process stood still
)

// Hold lets nothing start until Resume, because the replication connection is lost:
// another relay may take the slot. What is on the wire goes on.
func (p *Dispatcher) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held |= holdLost
}

// Resume lets attempts start again. A new connection to the slot, of the same term,
// has made sure that this relay leads.
func (p *Dispatcher) Resume() { p.unhold(holdLost | holdFrozen) }

// Thaw lets attempts start again after the process stood still, when it was made sure
// that this relay leads.
func (p *Dispatcher) Thaw() { p.unhold(holdFrozen) }

func (p *Dispatcher) unhold(why held) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held &^= why
	p.pulse = time.Now()
	p.start()
}

// Frozen has a token after the process stood still, when nothing starts until Thaw or Resume.
func (p *Dispatcher) Frozen() <-chan struct{} { return p.frozen }

// beat notes that the process runs.
func (p *Dispatcher) beat(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stale(now) {
		p.held |= holdFrozen
		poke(p.frozen)
	}
	p.pulse = now
}

// stale tells whether the process has stood still and beat has not seen it yet.
func (p *Dispatcher) stale(now time.Time) bool {
	return !p.pulse.IsZero() && now.Sub(p.pulse) > frozenAfter
}
