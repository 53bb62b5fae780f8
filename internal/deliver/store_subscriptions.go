package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/secret"
)

// ErrNotFound is returned for an id that does not exist.
var ErrNotFound = errors.New("not found")

// ErrBadFilter is returned for a subscription with a filter that cannot be read, which is not to be lost by another change.
var ErrBadFilter = errors.New("its filter cannot be read: give it another, or none")

var (
	sqlSubscriptions      = query("subscriptions")
	sqlSubscription       = sqlSubscriptions + "WHERE s.id = $1"
	sqlSubscriptionsAll   = sqlSubscriptions + "WHERE $1 = '' OR s.tenant_id = $1 ORDER BY s.created_at, s.id"
	sqlAddSubscription    = query("subscription_add")
	sqlUpdateSubscription = query("subscription_update")
	sqlSetHeaders         = query("subscription_headers")
	sqlSetCertificate     = query("subscription_certificate")
	sqlSomeSubscriptions  = sqlSubscriptions + "WHERE s.id = ANY ($1) ORDER BY s.id"
	sqlRemoveSubscription = query("subscription_remove")
	sqlWaiting            = query("waiting")
	sqlSwitchSubscription = query("subscription_switch")
)

// Subscriptions manages the subscriptions in the database. A relay that runs
// takes a change in at once. Keys seals what is written and opens what is read; nil:
// secrets are written as they are. Reading a subscription whose secret does not open
// is no error, it says so itself (Subscription.Locked).
type Subscriptions struct {
	DB   Execer
	Keys *secret.Keyring
}

// Execer runs statements. A pgx connection, pool or transaction does.
type Execer interface {
	querier
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Add stores a new subscription and fills in what it leaves open: its id, which is
// made here because the secret is sealed for it, and what the database decides. One that
// is not active keeps its events from the first on, as if it were disabled at once.
func (s Subscriptions) Add(ctx context.Context, sub *Subscription) error {
	id := sub.ID
	if id == uuid.Nil {
		var err error
		if id, err = uuid.NewV7(); err != nil {
			return fmt.Errorf("add subscription: %w", err)
		}
	}
	stored, err := s.Keys.Seal(sub.Secret, slotCurrent.place(id))
	if err != nil {
		return fmt.Errorf("add subscription: %w", err)
	}
	headers, err := s.sealOptional(sub.Headers, slotHeaders.place(id))
	if err != nil {
		return fmt.Errorf("add subscription: %w", err)
	}
	certificate, err := s.sealOptional(sub.ClientCertificate, slotCertificate.place(id))
	if err != nil {
		return fmt.Errorf("add subscription: %w", err)
	}
	row := s.DB.QueryRow(ctx, sqlAddSubscription, sub.TenantID, sub.URL, sub.Events, stored, sub.Description, sub.Ordering, sub.OnDead, id, headers,
		sub.rate(), sub.waits(), cmp.Or(sub.Format, FormatWebhook), sub.filter(), sub.Active, sub.DisabledReason, certificate, sub.timeout())
	if err := row.Scan(&sub.CreatedAt, &sub.UpdatedAt); err != nil {
		return fmt.Errorf("add subscription: %w", err)
	}
	sub.ID, sub.Format, sub.stored = id, cmp.Or(sub.Format, FormatWebhook), newStored(stored, nil, nil, headers, certificate)
	sub.open(s.Keys)
	return nil
}

// List returns the subscriptions of a tenant, of all tenants for "", oldest first.
func (s Subscriptions) List(ctx context.Context, tenant string) ([]Subscription, error) {
	return s.list(ctx, sqlSubscriptionsAll, tenant)
}

func (s Subscriptions) list(ctx context.Context, sql string, arg any) ([]Subscription, error) {
	rows, err := s.DB.Query(ctx, sql, arg)
	if err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Subscription, error) {
		sub, err := scanSubscription(row)
		if err == nil {
			sub.open(s.Keys)
		}
		return *sub, err
	})
	if err != nil {
		return nil, fmt.Errorf("list subscriptions: %w", err)
	}
	return list, nil
}

// Some returns those of some subscriptions that exist, in the order of their ids.
func (s Subscriptions) Some(ctx context.Context, ids []uuid.UUID) ([]Subscription, error) {
	return s.list(ctx, sqlSomeSubscriptions, ids)
}

// Get returns one subscription, or ErrNotFound.
func (s Subscriptions) Get(ctx context.Context, id uuid.UUID) (*Subscription, error) {
	sub, err := scanSubscription(s.DB.QueryRow(ctx, sqlSubscription, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("subscription %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read subscription %s: %w", id, err)
	}
	sub.open(s.Keys)
	return sub, nil
}

// Update stores what may be changed of a subscription: URL, events, filter, description, order, what becomes of dead
// letters, rate, retries and timeout. It fails with ErrBadFilter while the subscription has a filter that cannot be read: without one it
// would get everything.
func (s Subscriptions) Update(ctx context.Context, sub *Subscription) error {
	if sub.badFilter != nil {
		return fmt.Errorf("change subscription %s: %w", sub.ID, ErrBadFilter)
	}
	return s.change(ctx, sub.ID, sqlUpdateSubscription, sub.URL, sub.Events, sub.Description, sub.Ordering, sub.OnDead, sub.rate(), sub.waits(),
		cmp.Or(sub.Format, FormatWebhook), sub.filter(), sub.timeout())
}

// timeout is the column's value.
func (s *Subscription) timeout() *int64 {
	if s.Timeout == 0 {
		return nil
	}
	ms := time.Duration(s.Timeout).Milliseconds()
	return &ms
}

// rate is the column's value.
func (s *Subscription) rate() *float64 {
	if s.RateLimit == 0 {
		return nil
	}
	return &s.RateLimit
}

// filter is the column's value.
func (s *Subscription) filter() *string {
	if s.Filter == nil {
		return nil
	}
	text := s.Filter.String()
	return &text
}

// waits is the column's value.
func (s *Subscription) waits() []int64 {
	var ms []int64
	for _, d := range s.RetrySchedule {
		ms = append(ms, d.Milliseconds())
	}
	return ms
}

// SetHeaders stores the headers that a subscription wants, as NewHeaders makes them.
func (s Subscriptions) SetHeaders(ctx context.Context, id uuid.UUID, headers secret.Secret) error {
	return s.setSealed(ctx, id, sqlSetHeaders, headers, slotHeaders)
}

// SetClientCertificate stores the client certificate of a subscription, as NewClientCertificate makes it; the empty Secret
// takes it away.
func (s Subscriptions) SetClientCertificate(ctx context.Context, id uuid.UUID, certificate secret.Secret) error {
	return s.setSealed(ctx, id, sqlSetCertificate, certificate, slotCertificate)
}

func (s Subscriptions) setSealed(ctx context.Context, id uuid.UUID, sql string, text secret.Secret, at slot) error {
	stored, err := s.sealOptional(text, at.place(id))
	if err != nil {
		return fmt.Errorf("change subscription %s: %w", id, err)
	}
	return s.change(ctx, id, sql, stored)
}

// sealOptional seals what a subscription may have; nil when it has none.
func (s Subscriptions) sealOptional(text secret.Secret, place string) (*string, error) {
	if text.IsZero() {
		return nil, nil
	}
	stored, err := s.Keys.Seal(text, place)
	return &stored, err
}

// Waiting counts the deliveries that wait for a subscription in the table. What is in memory only is not among them.
func (s Subscriptions) Waiting(ctx context.Context, id uuid.UUID) (int64, error) {
	var n int64
	if err := s.DB.QueryRow(ctx, sqlWaiting, id).Scan(&n); err != nil {
		return 0, fmt.Errorf("count what waits for subscription %s: %w", id, err)
	}
	return n, nil
}

// Remove deletes a subscription. What waits for it is cancelled by the relay.
func (s Subscriptions) Remove(ctx context.Context, id uuid.UUID) error {
	return s.change(ctx, id, sqlRemoveSubscription)
}

// SetActive enables or disables a subscription. While it is disabled its events
// are parked, not dropped. reason tells why it is disabled; "" keeps the one that it has.
// Enabling one that is active makes the leader forget its failures all the same.
func (s Subscriptions) SetActive(ctx context.Context, id uuid.UUID, active bool, reason string) error {
	return s.change(ctx, id, sqlSwitchSubscription, active, reason)
}

func (s Subscriptions) change(ctx context.Context, id uuid.UUID, sql string, args ...any) error {
	tag, err := s.DB.Exec(ctx, sql, append([]any{id}, args...)...)
	if err != nil {
		return fmt.Errorf("change subscription %s: %w", id, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("subscription %s: %w", id, ErrNotFound)
	}
	return nil
}

// NewSubscription returns a subscription with its defaults.
func NewSubscription(tenant, url string, events []string, key string) *Subscription {
	return &Subscription{TenantID: tenant, URL: url, Events: events, Secret: secret.New(key), Ordering: OrderingKey,
		OnDead: OnDeadRelease, Active: true}
}
