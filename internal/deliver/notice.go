package deliver

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"
)

// What happens to endpoints and dead letters, as a label of relay_endpoint_changes_total.
const (
	changeFailing   = "failing"        // it has begun to take nothing, and its circuit is open
	changeOpened    = "circuit_opened" // also at each later opening
	changeWarned    = "warned"         // it will be disabled if it goes on
	changeDisabled  = "disabled"
	changeRecovered = "recovered" // it takes deliveries again
)

// Notices of one kind are logged so many times within a window; the rest is counted. Each is in the metrics, and in relay.changes.
const (
	noticeWindow = time.Minute
	noticeLines  = 10
)

// notices bounds what is logged of endpoints and dead letters: a receiver that is down must not fill the log. Guarded by
// Dispatcher.mu.
type notices struct {
	began  time.Time      // of the window
	lines  map[string]int // of each message in it
	deaths map[*Endpoint]*deaths
}

// deaths are the dead letters of an endpoint that relay.changes does not have yet.
type deaths struct {
	noted time.Time // when there last was a line about them
	count int
	last  map[string]any
}

func newNotices() notices {
	return notices{lines: make(map[string]int), deaths: make(map[*Endpoint]*deaths)}
}

// notice logs what has happened, unless the same was logged too often of late.
func (p *Dispatcher) notice(now time.Time, level slog.Level, message string, attrs ...any) {
	p.closeWindow(now)
	n := &p.notices
	if n.lines[message]++; n.lines[message] <= noticeLines {
		p.log.Log(context.Background(), level, message, attrs...)
	}
}

// closeWindow begins another window when it is time, and says what the last one left out.
func (p *Dispatcher) closeWindow(now time.Time) {
	n := &p.notices
	if now.Sub(n.began) < noticeWindow {
		return
	}
	for message, lines := range n.lines {
		if more := lines - noticeLines; more > 0 {
			p.log.Warn("log lines left out", "message", message, "lines", more, "since", n.began.UTC().Format(time.RFC3339),
				"hint", "see `relay status`, `relay deliveries list --status DEAD` and `relay subscriptions list`")
		}
	}
	n.began = now
	clear(n.lines)
}

// beatNotices writes what has waited for the end of a window.
func (p *Dispatcher) beatNotices(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeWindow(now)
	for ep, t := range p.notices.deaths {
		if now.Sub(t.noted) < noticeWindow {
			continue
		}
		if t.count == 0 || ep.lanes.removed {
			delete(p.notices.deaths, ep)
			continue
		}
		p.noteDeaths(ep, t, now)
	}
}

// died notes that a delivery is dead.
func (p *Dispatcher) died(d *Delivery, now time.Time) {
	f := d.flight
	p.notice(now, slog.LevelWarn, "delivery died", "delivery", d.id, "event", f.Type, "event_id", f.EventID, "subscription", d.ep.id,
		"tenant", f.TenantID, "attempts", d.attempts, "reason", d.lastError, "hint", "`relay deliveries retry` tries it again")
	t := p.notices.deaths[d.ep]
	if t == nil {
		t = &deaths{}
		p.notices.deaths[d.ep] = t
	}
	t.count++
	t.last = map[string]any{"last_delivery_id": d.id, "last_event_id": f.EventID, "last_event": f.Type, "last_error": d.lastError}
	if now.Sub(t.noted) >= noticeWindow {
		p.noteDeaths(d.ep, t, now)
	}
}

func (p *Dispatcher) noteDeaths(ep *Endpoint, t *deaths, now time.Time) {
	t.last["count"] = t.count
	p.note(ep, "delivery.dead", t.last)
	*t = deaths{noted: now}
}

// changed counts a change of an endpoint's state.
func (p *Dispatcher) changed(ep *Endpoint, change string) {
	p.metrics.endpoint(change, ep.Subscription().TenantID)
}

// announceFailing notes once that an endpoint has begun to take nothing.
func (p *Dispatcher) announceFailing(ep *Endpoint, reason Reason) {
	s := &ep.lanes
	if s.announced || s.disabled || !s.breaker.open {
		return
	}
	s.announced = true
	p.changed(ep, changeFailing)
	p.note(ep, "endpoint.failing", map[string]any{"failing_since": s.health.since.UTC(), "reason": reason})
}

// announceRecovered notes that an endpoint takes deliveries again of which it was noted that it took nothing.
func (p *Dispatcher) announceRecovered(ep *Endpoint, now time.Time) {
	s := &ep.lanes
	if !s.announced {
		return
	}
	s.announced = false
	p.changed(ep, changeRecovered)
	p.notice(now, slog.LevelInfo, "endpoint recovered", "subscription", ep.id, "tenant", ep.Subscription().TenantID, "parked", s.total)
	p.note(ep, "endpoint.recovered", map[string]any{"parked": s.total})
}

// note puts what has happened to an endpoint into the record of changes that its tenant sees.
func (p *Dispatcher) note(ep *Endpoint, action string, what map[string]any) {
	text, err := json.Marshal(what)
	if err != nil {
		return // plain values can always be written
	}
	p.submit(op{kind: opNote, ep: ep, text: action, history: text})
}
