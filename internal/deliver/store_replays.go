package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// States of a replay.
const (
	ReplayRunning   = "RUNNING"
	ReplayDone      = "DONE"
	ReplayCancelled = "CANCELLED"
)

// ReplayRecord is a replay as operators see it. Found is what matched when it
// was asked for; Queued of these are deliveries by now, and each of them ends as
// one of Delivered, Dead and Cancelled.
type ReplayRecord struct {
	ID             int64      `json:"id"`
	SubscriptionID uuid.UUID  `json:"subscription_id"`
	TenantID       string     `json:"tenant_id"`
	Events         []string   `json:"events"`
	From           time.Time  `json:"from"`
	To             time.Time  `json:"to"`
	Rate           int        `json:"rate"`
	State          string     `json:"state"`
	Detail         *string    `json:"detail"`
	Found          int64      `json:"found"`
	Queued         int64      `json:"queued"`
	Skipped        int64      `json:"skipped"`
	Delivered      int64      `json:"delivered"`
	Dead           int64      `json:"dead"`
	Cancelled      int64      `json:"cancelled"`
	ReadAll        bool       `json:"read_all"`
	Cancelling     bool       `json:"cancelling"`
	CreatedAt      time.Time  `json:"created_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
	EndedAt        *time.Time `json:"ended_at"`
	// Skips are the first rows that it skipped, MaxReplaySkips of them.
	Skips []ReplaySkip `json:"skips"`
	// Disabled is why its subscription is disabled: nil when that is gone, empty
	// when it is not.
	Disabled *string `json:"subscription_disabled"`
}

// Why a replay skips a row: one of these, "quarantined" or "discarded" when the row never became an event, or the reason of a
// rejection when it cannot be read as one.
const (
	SkipGone       = "gone"       // retention took the row meanwhile
	SkipSuppressed = "suppressed" // the event says that nothing changed
)

// MaxReplaySkips is how many skipped rows a replay names.
const MaxReplaySkips = 100

// ReplaySkip is a row that a replay skips.
type ReplaySkip struct {
	EventID string `json:"event_id"`
	Reason  string `json:"reason"`
	Detail  string `json:"detail"`
}

// ReplayFound is what a replay would come upon.
type ReplayFound struct {
	Events  []ReplayCount // by type; rows that it would skip are among them
	Rows    int64         // of all types
	Skipped int64         // of these
	Skips   []ReplaySkip  // the first MaxReplaySkips
}

// ReplayCount is how many rows there are of one type.
type ReplayCount struct {
	Event string `json:"event"`
	Rows  int64  `json:"rows"`
}

// ByEvent returns the counts by type.
func (f ReplayFound) ByEvent() map[string]int64 {
	m := make(map[string]int64, len(f.Events))
	for _, e := range f.Events {
		m[e.Event] = e.Rows
	}
	return m
}

// Waiting is how many of its deliveries have not ended.
func (r *ReplayRecord) Waiting() int64 { return r.Queued - r.Delivered - r.Dead - r.Cancelled }

// ReplayRequest asks for a replay.
type ReplayRequest struct {
	Subscription uuid.UUID
	Events       []string // patterns that narrow those of the subscription
	From, To     time.Time
	Rate         int
	Found        int64
	Spec         string // the request as it was typed
}

// ErrReplayRuns is returned when another replay of the subscription is running.
var ErrReplayRuns = errors.New("is running")

// Replays reads and asks for replays. The leader carries them out.
type Replays struct{ DB Execer }

// Ask asks for a replay and returns its id. While one is running, the same
// request again is that one, and any other is refused with ErrReplayRuns.
func (r Replays) Ask(ctx context.Context, q ReplayRequest) (id int64, already bool, err error) {
	for range 3 {
		err = r.DB.QueryRow(ctx, sqlReplayAsk, q.Subscription, append([]string{}, q.Events...), q.Spec, q.From, q.To, q.Rate, q.Found).Scan(&id)
		if err == nil || !errors.Is(err, pgx.ErrNoRows) {
			break
		}
		var spec string
		err = r.DB.QueryRow(ctx, sqlReplaySame, q.Subscription).Scan(&id, &spec)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			continue // it has just ended, or the subscription has
		case err == nil && spec != q.Spec:
			return 0, false, fmt.Errorf("replay %d of this subscription %w, for another request; wait for it, or `relay replay cancel %d --yes`",
				id, ErrReplayRuns, id)
		case err == nil:
			return id, true, nil
		}
		break
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, fmt.Errorf("subscription %s: %w", q.Subscription, ErrNotFound)
	}
	if err != nil {
		return 0, false, fmt.Errorf("ask for a replay: %w", err)
	}
	return id, false, nil
}

// List returns replays, newest first.
func (r Replays) List(ctx context.Context, limit int) ([]ReplayRecord, error) {
	return r.read(ctx, 0, limit)
}

// Get returns one replay, or ErrNotFound.
func (r Replays) Get(ctx context.Context, id int64) (*ReplayRecord, error) {
	list, err := r.read(ctx, id, 1)
	if err != nil {
		return nil, err
	}
	if id < 1 || len(list) == 0 {
		return nil, fmt.Errorf("replay %d: %w", id, ErrNotFound)
	}
	return &list[0], nil
}

// Cancel asks the leader to end a replay; false when it has ended already.
func (r Replays) Cancel(ctx context.Context, id int64) (bool, error) {
	tag, err := r.DB.Exec(ctx, sqlReplayStop, id)
	if err != nil {
		return false, fmt.Errorf("cancel replay %d: %w", id, err)
	}
	return tag.RowsAffected() > 0, nil
}

func (r Replays) read(ctx context.Context, id int64, limit int) ([]ReplayRecord, error) {
	rows, err := r.DB.Query(ctx, sqlReplays, id, limit)
	if err != nil {
		return nil, fmt.Errorf("read replays: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ReplayRecord])
	if err != nil {
		return nil, fmt.Errorf("read replays: %w", err)
	}
	return list, nil
}

// ReplayPatience is how long a replay waits for a subscription that is disabled. What
// it has still to read is kept in the outbox meanwhile, beyond all retention.
const ReplayPatience = 24 * time.Hour

// RunningReplay is a replay as the leader needs it.
type RunningReplay struct {
	ID           int64
	Subscription uuid.UUID
	TenantID     string
	Events       []string
	From, To     time.Time
	Rate         int
	Cancel       bool
	Cursor       ReplayCursor
	ReadAll      bool
	Queued       int64
	Ended        int64
	Stuck        bool // for ReplayPatience, because its subscription is disabled
}

// LoadRunningReplays reads the replays that are not over.
func LoadRunningReplays(ctx context.Context, db querier) ([]RunningReplay, error) {
	rows, err := db.Query(ctx, sqlReplaysRunning, ReplayPatience)
	if err != nil {
		return nil, fmt.Errorf("read running replays: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (RunningReplay, error) {
		var r RunningReplay
		err := row.Scan(&r.ID, &r.Subscription, &r.TenantID, &r.Events, &r.From, &r.To, &r.Rate, &r.Cancel, &r.Cursor.Key,
			&r.Cursor.ID, &r.ReadAll, &r.Queued, &r.Ended, &r.Stuck)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("read running replays: %w", err)
	}
	return list, nil
}

// MatchesReplay tells whether a replay sends events of a type: what the
// subscription matches, narrowed by the replay's own patterns.
func (s *Subscription) MatchesReplay(events []string, eventType string) bool {
	return s.Matches(eventType) && (len(events) == 0 ||
		slices.ContainsFunc(events, func(p string) bool { return patternMatches(p, eventType) }))
}
