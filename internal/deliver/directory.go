package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/filter"
	"github.com/outbox-relay/relay/internal/secret"
)

// Directory is the live set of subscriptions. Finding the matches of an event
// costs the same with a hundred thousand subscriptions as with ten: one look-up
// by tenant and one by event type. Safe for concurrent use.
type Directory struct {
	check   CheckURL
	as      Identify
	keys    *secret.Keyring // guarded by mu
	reading sync.Mutex      // held from a query to its effect, so that no older answer replaces a newer one
	mu      sync.RWMutex
	byID    map[uuid.UUID]*Endpoint
	tenants map[string]*tenantIndex
	left    []*client // whose connections unlock closes
}

// tenantIndex holds one tenant's endpoints by pattern, and the answers that were
// already worked out.
type tenantIndex struct {
	byPattern map[string][]*Endpoint
	memo      map[string][]*Endpoint // event type to matches; dropped at each change
}

// NewDirectory returns an empty Directory whose endpoints get the URLs that
// check lets through, the secrets that keys open, and identities that as makes; nil: those
// with a client certificate cannot be attempted. Close it when nothing is attempted any more.
func NewDirectory(check CheckURL, as Identify, keys *secret.Keyring) *Directory {
	return &Directory{check: check, as: as, keys: keys, byID: make(map[uuid.UUID]*Endpoint), tenants: make(map[string]*tenantIndex)}
}

// scanSubscription reads a row of sqlSubscriptions. Its secrets are not opened yet.
func scanSubscription(row pgx.Row) (*Subscription, error) {
	var s Subscription
	var current string
	var next, previous, headers, certificate, wanted *string
	var rate *float64
	var waits []int64
	var timeout *int64
	err := row.Scan(&s.ID, &s.TenantID, &s.URL, &s.Events, &current, &next, &s.NextStagedAt, &previous, &s.PreviousExpiresAt,
		&headers, &certificate, &s.Description, &s.Ordering, &s.OnDead, &rate, &waits, &timeout, &s.Format, &wanted, &s.RulesSince, &s.Active, &s.DisabledReason, &s.EnabledAt, &s.CreatedAt, &s.UpdatedAt,
		&s.FailingSince, &s.WarnedAt)
	if rate != nil {
		s.RateLimit = *rate
	}
	if timeout != nil {
		s.Timeout = Timeout(time.Duration(*timeout) * time.Millisecond)
	}
	for _, ms := range waits {
		s.RetrySchedule = append(s.RetrySchedule, time.Duration(ms)*time.Millisecond)
	}
	s.stored = newStored(current, next, previous, headers, certificate)
	if wanted != nil {
		s.Filter, s.badFilter = filter.Parse([]byte(*wanted))
	}
	return &s, err
}

// querier reads rows. A pgx connection, pool or transaction does.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Load reads all subscriptions and returns the endpoints that are new or
// changed, and those that are gone.
func (d *Directory) Load(ctx context.Context, db querier) (changed, removed []*Endpoint, err error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	rows, err := db.Query(ctx, sqlSubscriptions)
	if err != nil {
		return nil, nil, fmt.Errorf("load subscriptions: %w", err)
	}
	defer rows.Close()
	seen := make(map[uuid.UUID]bool)
	d.mu.Lock()
	defer d.unlock()
	for rows.Next() {
		s, err := scanSubscription(rows)
		if err != nil {
			return nil, nil, fmt.Errorf("load subscriptions: %w", err)
		}
		seen[s.ID] = true
		if ep := d.put(s); ep != nil {
			changed = append(changed, ep)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("load subscriptions: %w", err)
	}
	for id, ep := range d.byID {
		if !seen[id] {
			d.drop(ep)
			removed = append(removed, ep)
		}
	}
	return changed, removed, nil
}

// Refresh reads one subscription again.
func (d *Directory) Refresh(ctx context.Context, db querier, id uuid.UUID) (changed, removed *Endpoint, err error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	s, err := scanSubscription(db.QueryRow(ctx, sqlSubscription, id))
	d.mu.Lock()
	defer d.unlock()
	if errors.Is(err, pgx.ErrNoRows) {
		ep := d.byID[id]
		if ep != nil {
			d.drop(ep)
		}
		return nil, ep, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("load subscription %s: %w", id, err)
	}
	return d.put(s), nil, nil
}

// put adds or replaces a subscription; nil when nothing changed, however its secrets
// are sealed by now. The Endpoint, with its lanes, stays the same over changes:
// deliveries on their way keep it.
func (d *Directory) put(s *Subscription) *Endpoint {
	s.open(d.keys)
	s.FailingSince, s.WarnedAt = nil, nil // they are the Dispatcher's to know
	ep := d.byID[s.ID]
	if ep != nil && ep.Subscription().alike(s, time.Now()) {
		if ep.Subscription().stored != s.stored {
			d.leave(ep.replace(s, d.check, d.as))
		}
		return nil
	}
	if ep == nil {
		ep = newEndpoint(s, d.check, d.as)
		d.byID[s.ID] = ep
	} else {
		d.unindex(ep)
		d.leave(ep.replace(s, d.check, d.as))
	}
	t := d.tenants[s.TenantID]
	if t == nil {
		t = &tenantIndex{byPattern: make(map[string][]*Endpoint)}
		d.tenants[s.TenantID] = t
	}
	for _, p := range s.Events {
		if !slices.Contains(t.byPattern[p], ep) {
			t.byPattern[p] = append(t.byPattern[p], ep)
		}
	}
	t.memo = nil
	return ep
}

func (d *Directory) drop(ep *Endpoint) {
	d.unindex(ep)
	delete(d.byID, ep.id)
	d.leave(ep.client())
}

// leave notes that nobody calls as a client any more; nil: as nobody.
func (d *Directory) leave(c *client) {
	if c != nil {
		d.left = append(d.left, c)
	}
}

// unlock gives mu back, and closes the connections of those that were left. TLS says a last word on each, which may take a
// while, and events wait for mu.
func (d *Directory) unlock() {
	left := d.left
	d.left = nil
	d.mu.Unlock()
	for _, c := range left {
		c.identity.Close()
	}
}

// Close closes the connections that are a single subscription's. What is attempted later is attempted all the same.
func (d *Directory) Close() {
	d.mu.Lock()
	defer d.unlock()
	for _, ep := range d.byID {
		d.leave(ep.client())
	}
}

func (d *Directory) unindex(ep *Endpoint) {
	sub := ep.Subscription()
	t := d.tenants[sub.TenantID]
	for _, p := range sub.Events {
		list := slices.DeleteFunc(slices.Clone(t.byPattern[p]), func(e *Endpoint) bool { return e == ep })
		if len(list) == 0 {
			delete(t.byPattern, p)
		} else {
			t.byPattern[p] = list
		}
	}
	t.memo = nil
	if len(t.byPattern) == 0 {
		delete(d.tenants, sub.TenantID)
	}
}

// maxMemo bounds the answers that are kept for a tenant. Event types come from
// the catalog, so it is never reached in practice.
const maxMemo = 1024

// Match returns the endpoints of a tenant whose patterns cover an event type,
// each once, disabled ones too: their deliveries are parked. The slice is
// shared and must not be changed.
func (d *Directory) Match(tenant, eventType string) []*Endpoint {
	d.mu.RLock()
	t := d.tenants[tenant]
	if t == nil {
		d.mu.RUnlock()
		return nil
	}
	found, ok := t.memo[eventType]
	d.mu.RUnlock()
	if ok {
		return found
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// A change may have come in between and put another index in this one's place.
	if t = d.tenants[tenant]; t == nil {
		return nil
	}
	if t.memo == nil || len(t.memo) >= maxMemo {
		t.memo = make(map[string][]*Endpoint)
	}
	seen := make(map[*Endpoint]bool)
	add := func(pattern string) {
		for _, ep := range t.byPattern[pattern] {
			if !seen[ep] {
				seen[ep] = true
				found = append(found, ep)
			}
		}
	}
	add("*")
	for i, c := range eventType {
		if c == '.' && i+1 < len(eventType) {
			add(eventType[:i+1] + "*")
		}
	}
	if !strings.HasSuffix(eventType, "*") {
		add(eventType)
	}
	t.memo[eventType] = found
	return found
}

// Route returns the endpoints that an event goes to: those of Match whose filter lets its payload through. The slice may be
// shared and must not be changed.
func (d *Directory) Route(tenant, eventType string, payload []byte) []*Endpoint {
	matched := d.Match(tenant, eventType)
	if !slices.ContainsFunc(matched, func(ep *Endpoint) bool { return ep.Subscription().Filter != nil }) {
		return matched
	}
	p := filter.NewPayload(payload)
	return slices.DeleteFunc(slices.Clone(matched), func(ep *Endpoint) bool { return !ep.Subscription().Filter.Match(p) })
}

// Get returns the endpoint of a subscription, nil when there is none.
func (d *Directory) Get(id uuid.UUID) *Endpoint {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byID[id]
}

// All returns the endpoints of all subscriptions.
func (d *Directory) All() []*Endpoint {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]*Endpoint, 0, len(d.byID))
	for _, ep := range d.byID {
		out = append(out, ep)
	}
	return out
}

// Recheck asks again of every URL whether it is allowed, after the rule changed.
func (d *Directory) Recheck() {
	d.mu.Lock()
	defer d.unlock()
	for _, ep := range d.byID {
		d.leave(ep.replace(ep.Subscription(), d.check, d.as))
	}
}

// Rekey opens all secrets with other keys from now on, and returns the endpoints
// that this changes. It changes nothing, and returns an error, when the keys do not
// open a secret that is open.
func (d *Directory) Rekey(keys *secret.Keyring) ([]*Endpoint, error) {
	d.mu.Lock()
	defer d.unlock()
	if keys == d.keys {
		return nil, nil
	}
	subs := make([]*Subscription, 0, len(d.byID))
	var lost int
	var first error
	for _, ep := range d.byID {
		s := *ep.Subscription()
		open := s.Locked == nil
		if s.open(keys); open && s.Locked != nil {
			if lost++; first == nil {
				first = fmt.Errorf("subscription %s: %w", s.ID, s.Locked)
			}
		}
		subs = append(subs, &s)
	}
	if lost > 0 {
		return nil, fmt.Errorf("the new keyset does not open the secrets of %d subscriptions, which are open with the old one: %w", lost, first)
	}
	d.keys = keys
	var changed []*Endpoint
	for _, s := range subs {
		if ep := d.put(s); ep != nil {
			changed = append(changed, ep)
		}
	}
	return changed, nil
}

// Locked is the number of subscriptions whose secret or filter cannot be read.
func (d *Directory) Locked() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	n := 0
	for _, ep := range d.byID {
		if ep.Subscription().Locked != nil {
			n++
		}
	}
	return n
}

// Len is the number of subscriptions.
func (d *Directory) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.byID)
}
