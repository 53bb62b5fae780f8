package api

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/deliver"
)

// Statistics is how a subscription has done lately, and what waits for it.
type Statistics struct {
	Since          time.Time  `json:"since" doc:"Begin of the time that the numbers of ended deliveries are of, by the commit of the event."`
	Partial        bool       `json:"partial" doc:"The tenant has had so many deliveries since then that only the latest were looked at."`
	Delivered      int64      `json:"delivered"`
	DeliveredFirst int64      `json:"delivered_at_first_try"`
	Dead           int64      `json:"dead"`
	Cancelled      int64      `json:"cancelled"`
	SuccessRate    *float64   `json:"success_rate" doc:"Delivered, of those that were delivered or given up. Null: there were none."`
	MedianMillis   *float64   `json:"median_ms" doc:"Of the attempts that were taken."`
	P95Millis      *float64   `json:"p95_ms"`
	Backlog        int64      `json:"backlog" doc:"Deliveries that wait."`
	BacklogMore    bool       `json:"backlog_more" doc:"There are more than were counted."`
	OldestWaiting  *time.Time `json:"oldest_waiting" doc:"Commit time of the event that waits longest: what is older is settled. Null: nothing waits, or more than was looked at."`
	NextAttemptAt  *time.Time `json:"next_attempt_at"`
	LastError      *string    `json:"last_error" doc:"Of a delivery that waits."`
	FailingSince   *time.Time `json:"failing_since" doc:"When its endpoint first failed since it last took something."`
	Watermark      int64      `json:"watermark" doc:"Number of its deliveries up to which all are on record: all that were sent to it, or wait."`
	Bookmark       int64      `json:"bookmark" doc:"Number up to which all have ended. What is above it, up to watermark, has ended or waits."`
	Breaker        *Breaker   `json:"breaker" doc:"Null: the relay that answers stands by, and only the one that sends knows."`
}

// Breaker says whether the endpoint is given up for a while.
type Breaker struct {
	State       string     `json:"state" enum:"closed,open,probing" doc:"closed: attempts are made. open: all that comes waits. probing: one delivery tries whether the endpoint works again."`
	Failures    int        `json:"failures" doc:"Failed attempts in a row."`
	NextProbeAt *time.Time `json:"next_probe_at" doc:"When one delivery tries again, at the earliest, while it is open."`
}

type statisticsOutput struct{ Body Statistics }

const (
	statisticsSpan = 24 * time.Hour
	statisticsRows = 20_000 // of the tenant's that are looked at
	backlogRows    = 10_000
)

func (s *server) statistics(ctx context.Context, c *caller, in *SubscriptionPath) (*statisticsOutput, error) {
	db := s.store(c)
	sub, err := db.subscription(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := &statisticsOutput{Body: Statistics{Since: time.Now().Add(-statisticsSpan).UTC().Truncate(time.Millisecond), FailingSince: utc(sub.FailingSince)}}
	b := &out.Body
	var median, p95 *int64
	if err := deliver.Reading(ctx, s.DB, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, sqlStatistics, c.tenant, sub.ID, deliver.FirstID(b.Since), b.Since, statisticsRows).Scan(&b.Delivered,
			&b.DeliveredFirst, &b.Dead, &b.Cancelled, &median, &p95, &b.Partial)
	}); err != nil {
		return nil, err
	}
	b.MedianMillis, b.P95Millis = millis(median), millis(p95)
	if ended := b.Delivered + b.Dead; ended > 0 {
		rate := float64(b.Delivered) / float64(ended)
		b.SuccessRate = &rate
	}
	err = s.DB.QueryRow(ctx, sqlBacklog, sub.ID, backlogRows).Scan(&b.Backlog, &b.NextAttemptAt, &b.OldestWaiting, &b.LastError)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, err
	}
	if err := s.DB.QueryRow(ctx, sqlBookmark, sub.ID).Scan(&b.Watermark, &b.Bookmark); err != nil {
		return nil, err
	}
	if state, ok := s.Breaker(sub.ID); ok {
		b.Breaker = &Breaker{State: state.State, Failures: state.Failures}
		if !state.Until.IsZero() {
			b.Breaker.NextProbeAt = utc(&state.Until)
		}
	}
	if b.BacklogMore = b.Backlog >= backlogRows; b.BacklogMore {
		b.OldestWaiting = nil
	}
	b.NextAttemptAt, b.OldestWaiting = utc(b.NextAttemptAt), utc(b.OldestWaiting)
	return out, nil
}

func millis(micros *int64) *float64 {
	if micros == nil {
		return nil
	}
	ms := float64(*micros) / 1000
	return &ms
}
