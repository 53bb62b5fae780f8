package deliver

// The metrics that have a label for the event and one for the tenant are bounded by their product: so many combinations of the
// two have series of their own. Behind them an event keeps its name, and its tenant is "other"; behind those both are.
//
// A combination has at most 23 series: 3 of deliveries by status, 12 of retries by reason, and 8 of the histogram, which has few
// buckets for that. The full histogram has the event alone, with 18 series. With the smaller metrics that stays below 10,000,
// whatever the number of tenants and of event types.
const (
	maxCombinations = 200 // of an event and a tenant, first come
	maxLooseEvents  = 99  // of an event and "other"
	maxTimedEvents  = 100 // of an event alone
	otherEvent      = "other"
)

// combination is a value of both labels.
type combination struct{ event, tenant string }

// labels returns what an event of a tenant is counted under.
func (m *Metrics) labels(event, tenant string) combination {
	key := combination{event, m.tenant(tenant)}
	m.mu.RLock()
	c, ok := m.combinations[key]
	m.mu.RUnlock()
	if ok {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok = m.combinations[key]; ok {
		return c
	}
	c = key
	if key.tenant == otherTenant {
		c = m.loose(event)
	} else if m.combined++; m.combined > maxCombinations {
		c = m.loose(event)
	}
	m.combinations[key] = c
	return c
}

// loose returns the combination of an event with the tenants that have none of their own. mu is held.
func (m *Metrics) loose(event string) combination {
	key := combination{event, otherTenant}
	if c, ok := m.combinations[key]; ok {
		return c
	}
	c := key
	if m.looseEvents++; m.looseEvents > maxLooseEvents {
		c.event = otherEvent
	}
	m.combinations[key] = c
	return c
}

// timed returns what the duration of an attempt is counted under where the tenant is no label.
func (m *Metrics) timed(event string) string {
	m.mu.RLock()
	label, ok := m.timedEvents[event]
	m.mu.RUnlock()
	if ok {
		return label
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if label, ok = m.timedEvents[event]; ok {
		return label
	}
	label = event
	if len(m.timedEvents) >= maxTimedEvents {
		label = otherEvent
	}
	m.timedEvents[event] = label // types are those of the catalog, so these are few
	return label
}

// statusLabel is a status as metrics have it.
func statusLabel(s Status) string {
	switch s {
	case StatusDelivered:
		return "delivered"
	case StatusDead:
		return "dead"
	}
	return "cancelled"
}
