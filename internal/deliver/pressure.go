package deliver

import "time"

// Pressure says how scarce WAL is, which is held back by what is in memory only.
type Pressure int

// The levels.
const (
	PressureNone Pressure = iota
	PressureHigh          // what is not delivered at the first try is parked at once
	PressureFull          // everything is parked, before its first attempt
)

// pressedHandover is the hand-over under pressure: what has not ended by then, on
// the wire or in a queue, has a row.
const pressedHandover = 50 * time.Millisecond

// SetPressure changes how long deliveries may be in memory only.
func (p *Dispatcher) SetPressure(level Pressure) {
	p.mu.Lock()
	p.pressure = level
	p.mu.Unlock()
	poke(p.room) // admission looks again
	p.handOver(time.Now())
}

// handoverAfter is the longest time that a delivery is in memory only. mu is held.
func (p *Dispatcher) handoverAfter() time.Duration {
	if p.pressure > PressureNone {
		return min(p.opts.HandoverAfter, pressedHandover)
	}
	return p.opts.HandoverAfter
}
