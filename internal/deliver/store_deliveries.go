package deliver

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Record is a delivery as tenants and operators see it.
type Record struct {
	ID             uuid.UUID  `json:"id"`
	EventID        uuid.UUID  `json:"event_id"`
	SubscriptionID uuid.UUID  `json:"subscription_id"`
	URL            *string    `json:"url"` // of the subscription now; nil: it was removed
	TenantID       string     `json:"tenant_id"`
	Event          string     `json:"event"`
	AggregateType  string     `json:"aggregate_type"`
	AggregateID    string     `json:"aggregate_id"`
	Status         Status     `json:"status"`
	Attempts       int        `json:"attempts"`
	LastError      *string    `json:"last_error"`
	LastStatusCode *int       `json:"last_status_code"`
	CreatedAt      time.Time  `json:"created_at"` // commit time of the event's transaction
	EndedAt        *time.Time `json:"ended_at"`
	DeliveredAt    *time.Time `json:"delivered_at"`
	NextAttemptAt  *time.Time `json:"next_attempt_at"` // never in the past; nil also while Held
	// Waits tells that an earlier event of the same key is ahead of it.
	Waits bool `json:"waits_for_earlier"`
	// Halts tells that it is dead and that later events of its key wait behind it.
	Halts bool `json:"halts"`
	// Held tells that its subscription is disabled, so that it waits until that is enabled.
	Held bool `json:"subscription_disabled"`
	// DurationMicros is how long the last attempt took.
	DurationMicros *int `json:"duration_us"`
	// History has an entry an attempt, from the first failure or opened connection on (see Attempt).
	History json.RawMessage `json:"history"`
	// Replay is the replay that it belongs to, nil when it came through the stream.
	Replay *int64 `json:"replay_id"`
	// Sequence is its number among the deliveries of its subscription; nil: it has none, as those of replays.
	Sequence *int64 `json:"sequence"`
	// XID is the transaction that wrote its row into the outbox; nil: not known.
	XID *int64 `json:"-"`

	commitLSN string // with its event's id, the key of its body
}

// Filter narrows a list of deliveries; zero fields match everything.
type Filter struct {
	Status       Status
	TenantID     string
	Event        string
	Subscription uuid.UUID
	Aggregate    Aggregate
	From, To     time.Time   // of the commit, To not among them, both cut to milliseconds
	among        []uuid.UUID // subscriptions of the tenant's: nil: all
	Before       uuid.UUID   // the id after which a page goes on
	Limit        int         // at least 1
}

// Aggregate names what an event is about; empty parts match everything.
type Aggregate struct{ Type, ID string }

// Records reads deliveries.
type Records struct{ DB Pool }

// TenantCount is a number of deliveries of one tenant.
type TenantCount struct {
	TenantID string `json:"tenant_id"`
	Count    int    `json:"deliveries"`
}

var sqlParkedTenants = query("parked_tenants")

// newestSpan is how far back List looks first; each further look goes spanGrowth
// times as far, and the one beyond oldestSpan to the beginning.
const (
	newestSpan = time.Minute
	spanGrowth = 8
	oldestSpan = 200 * 24 * time.Hour
)

// List returns deliveries, newest first. What is in memory only, for at most the
// hand-over time and one recording interval, is not among them yet.
//
// No index has the records of all tenants in the order of their ids: it would
// cost the recording more than all else. But they are stored nearly in that
// order, so the newest are found by looking back step by step.
func (r Records) List(ctx context.Context, f Filter) ([]Record, error) {
	top, oldest := f.bounds()
	now := time.Now()
	if top.to != uuid.Max {
		now = idTime(top.to)
	}
	if f.TenantID != "" { // has an index
		top.from = oldest
		return r.read(ctx, f, top)
	}
	var found []Record
	for span := newestSpan; ; span *= spanGrowth {
		top.from = FirstID(now.Add(-span))
		last := span > oldestSpan || compareIDs(top.from, oldest) <= 0
		if last {
			top.from = oldest
		}
		page, err := r.read(ctx, f, top)
		if err != nil {
			return nil, err
		}
		found = append(found, page...)
		if f.Limit -= len(page); last || f.Limit <= 0 {
			return found, nil
		}
		top.to = top.from
	}
}

// Get returns one delivery, or ErrNotFound.
func (r Records) Get(ctx context.Context, id uuid.UUID) (*Record, error) {
	list, err := r.read(ctx, Filter{Limit: 1}, interval{from: id, to: nextID(id)})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("delivery %s: %w", id, ErrNotFound)
	}
	return &list[0], nil
}

// IDs returns the ids of all deliveries that match, by commit time, oldest first:
// the order in which those of a key are to be tried again.
func (r Records) IDs(ctx context.Context, f Filter) ([]uuid.UUID, error) {
	var ids []uuid.UUID
	f.Limit = 1000
	for {
		page, err := r.List(ctx, f)
		if err != nil {
			return nil, err
		}
		for i := range page {
			ids = append(ids, page[i].ID)
		}
		if len(page) < f.Limit {
			slices.Reverse(ids)
			return ids, nil
		}
		f.Before = page[len(page)-1].ID
	}
}

// DeadSince counts those of some deliveries that died before a time and have not
// come back.
func (r Records) DeadSince(ctx context.Context, ids []uuid.UUID, t time.Time) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	from, to := idTime(slices.MinFunc(ids, compareIDs)), idTime(slices.MaxFunc(ids, compareIDs)).Add(time.Millisecond)
	n := 0
	if err := r.DB.QueryRow(ctx, sqlDeadSince, ids, t, from, to).Scan(&n); err != nil {
		return 0, fmt.Errorf("count dead deliveries: %w", err)
	}
	return n, nil
}

func compareIDs(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }

// ParkedByTenant counts what waits, for the tenants that have most of it.
func (r Records) ParkedByTenant(ctx context.Context, limit int) ([]TenantCount, error) {
	rows, err := r.DB.Query(ctx, sqlParkedTenants, limit)
	if err != nil {
		return nil, fmt.Errorf("count parked deliveries: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[TenantCount])
	if err != nil {
		return nil, fmt.Errorf("count parked deliveries: %w", err)
	}
	return list, nil
}

// bounds are the end of the ids that the filter lets through, and the oldest of them.
func (f Filter) bounds() (top interval, oldest uuid.UUID) {
	top.to = uuid.Max
	if !f.To.IsZero() {
		top.to = FirstID(f.To)
	}
	if f.Before != uuid.Nil && compareIDs(f.Before, top.to) < 0 {
		top.to = f.Before
	}
	if !f.From.IsZero() {
		oldest = FirstID(f.From)
	}
	return top, oldest
}

// interval holds the ids of a stretch of commit time, to not among them.
type interval struct{ from, to uuid.UUID }

// times are the bounds of created_at that follow from those of the ids.
func (i interval) times() (from, to pgtype.Timestamptz) {
	from = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	to = pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	if i.from != uuid.Nil {
		from = pgtype.Timestamptz{Time: idTime(i.from), Valid: true}
	}
	if i.to != uuid.Max {
		to = pgtype.Timestamptz{Time: idTime(i.to).Add(time.Millisecond), Valid: true}
	}
	return from, to
}

// idTime is the commit time in the id of a delivery, cut to milliseconds.
func idTime(id uuid.UUID) time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)) // 48 bits
}

// FirstID is not above any id of a delivery committed at t, cut to milliseconds,
// or later.
func FirstID(t time.Time) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(max(0, t.UnixMilli()))<<16)
	return id
}

// nextID is the id that follows.
func nextID(id uuid.UUID) uuid.UUID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			return id
		}
	}
	return uuid.Max
}

func idOrNil(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

func (r Records) read(ctx context.Context, f Filter, i interval) ([]Record, error) {
	from, to := i.times()
	var list []Record
	err := Reading(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sqlDeliveries, string(f.Status), f.TenantID, f.Event, idOrNil(f.Subscription),
			i.from, i.to, from, to, f.Limit, f.Aggregate.Type, f.Aggregate.ID, f.among)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanRecord)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read deliveries: %w", err)
	}
	return list, nil
}

// Reading runs f in a transaction that sees each row of relay.deliveries once, also
// while rows are moved from one partition to another: a query of its own may look up
// the partitions before the move is committed and take its snapshot after, or name a
// time for which it looks at the new partition alone, in an older snapshot. So the table
// is locked first, in the mode of any query, which a move waits for.
func Reading(ctx context.Context, db Pool, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE relay.deliveries IN ACCESS SHARE MODE"); err != nil {
			return err
		}
		return f(tx)
	})
}

func scanRecord(row pgx.CollectableRow) (Record, error) {
	var d Record
	var held *bool // null: its subscription is gone
	err := row.Scan(&d.ID, &d.EventID, &d.SubscriptionID, &d.TenantID, &d.Event, &d.AggregateType, &d.AggregateID,
		&d.Status, &d.Attempts, &d.LastError, &d.LastStatusCode, &d.CreatedAt, &d.EndedAt, &d.NextAttemptAt,
		&d.Waits, &d.Halts, &d.DurationMicros, &d.History, &d.Replay, &d.Sequence, &d.XID, &d.commitLSN, &held, &d.URL)
	d.Held = held != nil && *held
	if d.Status == StatusDelivered {
		d.DeliveredAt = d.EndedAt
	}
	return d, err
}
