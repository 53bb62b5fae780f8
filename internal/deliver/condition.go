package deliver

import (
	"fmt"
	"log/slog"
	"time"
)

// Reasons for which the relay disables a subscription by itself: a closed set, the
// beginning of relay.subscriptions.disabled_reason and a label of a metric.
const (
	DisabledGone    = "gone"    // the endpoint answered 410
	DisabledFailing = "failing" // it took nothing for DisableOptions.After
)

// wentWell tells an endpoint's breaker and pace of a success. After an outage the
// backlog begins slowly, and what waits for the endpoint need not wait longer.
func (p *Dispatcher) wentWell(d *Delivery, out Outcome, now time.Time) {
	s := &d.ep.lanes
	p.works(d.ep)
	p.healthy(d.ep)
	if s.breaker.open {
		delete(p.open, d.ep)
		s.tried = nil
	}
	if s.breaker.succeeded() {
		s.pace.recover()
		p.hurry(d.ep, now)
	}
	p.announceRecovered(d.ep, now)
	s.pace.succeeded(d.startedAt, now, out.Duration, p.opts.EndpointConcurrency)
}

// hurry makes what waits for an endpoint due now. It is not asked for more rows than
// there are: those that fail again meanwhile have a time of their own.
func (p *Dispatcher) hurry(ep *Endpoint, now time.Time) {
	p.submit(op{kind: opHurry, ep: ep, next: now, left: ep.lanes.total})
}

// wentWrong tells an endpoint's breaker and pace of a failure, also of one on our side: while nothing can be sent, one
// delivery that tries is enough, and the others keep their attempts.
func (p *Dispatcher) wentWrong(d *Delivery, out Outcome, now time.Time) {
	s := &d.ep.lanes
	s.works = false
	if s.breaker.failed(now, d.id, d.probe, p.opts.Breaker, p.opts.Schedule.Stretch()) {
		why := string(out.Reason)
		if out.OurFault {
			why += ": " + out.Detail
		}
		p.opened(d.ep, why)
	}
	s.pace.failed(d.startedAt, now, p.opts.EndpointConcurrency)
}

// opened notes that an endpoint is given up for a while.
func (p *Dispatcher) opened(ep *Endpoint, why string) {
	p.open[ep] = struct{}{}
	ep.lanes.works = false
	p.changed(ep, changeOpened)
	p.notice(time.Now(), slog.LevelWarn, "circuit opened, one delivery at a time tries the endpoint",
		"subscription", ep.id, "tenant", ep.Subscription().TenantID, "reason", why)
}

// healthy forgets the failures of an endpoint.
func (p *Dispatcher) healthy(ep *Endpoint) {
	delete(p.failing, ep)
	if ep.lanes.health.succeeded() {
		p.submit(op{kind: opHealthy, ep: ep})
	}
}

// unhealthy notes a failed attempt in the long record of an endpoint, and warns or
// disables when it is time for that.
func (p *Dispatcher) unhealthy(ep *Endpoint, out Outcome, now time.Time) {
	s := &ep.lanes
	if s.disabled {
		return
	}
	sub, o := ep.Subscription(), p.opts.Disable
	v := s.health.failed(now, o)
	p.failing[ep] = struct{}{}
	if v == verdictFailing || v == verdictWarn {
		p.recordFailing(ep)
	}
	since := s.health.since.UTC().Format(time.RFC3339)
	switch {
	case out.Gone:
		p.disable(ep, DisabledGone, "the endpoint answered 410")
	case v == verdictDisable:
		p.disable(ep, DisabledFailing, fmt.Sprintf("the endpoint has taken nothing since %s; the last attempt: %s", since, out.Reason))
	case v == verdictWarn:
		p.metrics.warned()
		p.changed(ep, changeWarned)
		p.notice(now, slog.LevelWarn, "endpoint keeps failing, it will be disabled", "subscription", ep.id, "tenant", sub.TenantID,
			"since", since, "disabled_after", o.After.String(), "reason", out.Reason, "hint", "see `relay subscriptions show`")
		p.note(ep, "endpoint.warning", map[string]any{"failing_since": s.health.since.UTC(), "disabled_after": o.After.String(), "reason": out.Reason})
	}
	p.announceFailing(ep, out.Reason)
}

// recordFailing puts on record since when an endpoint fails, and until when nothing is sent to it.
func (p *Dispatcher) recordFailing(ep *Endpoint) {
	s := &ep.lanes
	s.recorded = s.heldUntil()
	p.submit(op{kind: opFailing, ep: ep, at: s.health.since, warned: s.health.warned, dead: s.recorded.at, open: s.recorded.open})
}

// noteHeld puts on record when an endpoint that fails is tried next, where that has changed.
func (p *Dispatcher) noteHeld(ep *Endpoint) {
	if _, fails := p.failing[ep]; fails && ep.lanes.heldUntil() != ep.lanes.recorded {
		p.recordFailing(ep)
	}
}

// disable stops all attempts at an endpoint until it is enabled again. Its events
// are parked meanwhile. When somebody changes the subscription before this is written, that
// stands: the change is on its way to Changed.
func (p *Dispatcher) disable(ep *Endpoint, reason, text string) {
	ep.lanes.disabled = true
	delete(p.failing, ep)
	delete(p.open, ep)
	ep.lanes.announced = true // also when it was not seen failing for long: that it works again is worth a word
	p.metrics.disabled(reason)
	p.changed(ep, changeDisabled)
	p.notice(time.Now(), slog.LevelError, "subscription disabled, its events are kept", "subscription", ep.id,
		"tenant", ep.Subscription().TenantID, "reason", reason, "detail", text, "hint", "`relay subscriptions enable` sends them")
	p.submit(op{kind: opDisable, ep: ep, sub: ep.Subscription(), url: ep.lanes.url, text: reason + ": " + text})
}

// tellLocked logs of which endpoints the secret cannot be opened, or opens again. Many
// are locked for one reason, which is told once.
func (p *Dispatcher) tellLocked(eps ...*Endpoint) {
	first, count := make(map[string]*Endpoint), make(map[string]int)
	for _, ep := range eps {
		s, sub := &ep.lanes, ep.Subscription()
		was := s.locked
		s.locked = sub.Locked
		switch {
		case sub.Locked != nil && (was == nil || was.Error() != sub.Locked.Error()):
			why := sub.Locked.Error()
			if count[why]++; first[why] == nil {
				first[why] = ep
			}
		case was != nil && sub.Locked == nil:
			p.log.Info("secret and filter can be read again; what waited goes on", "subscription", ep.id, "tenant", sub.TenantID)
		}
	}
	for why, ep := range first {
		p.log.Error("nothing is sent for a subscription whose secret or filter cannot be read; its events are kept and wait", "subscription", ep.id,
			"tenant", ep.Subscription().TenantID, "subscriptions", count[why], "reason", why)
	}
}
