package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/filter"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
)

// Pace of replays.
const (
	replayTick    = 100 * time.Millisecond // between two steps
	replayLook    = time.Second            // between two looks at what was asked for
	replayPage    = 20_000                 // keys that one scan of the table brings
	replayBytes   = 1 << 20                // of stored payloads that are read at once
	replayRows    = 200                    // and rows
	replayWaiting = 1000                   // deliveries that may wait in the table, or ten seconds of the rate
)

// replayer carries out replays, one step of each in turn. It parks a little at a
// time, by the rate, and waits while what it has parked does not end: the rest
// stays in the outbox, where it costs nothing. One goroutine runs it.
type replayer struct {
	l      *leader
	wake   chan struct{}
	table  *replayTable
	mapper *outbox.Mapper
	conn   *pgx.Conn // open while there are replays
	runs   map[int64]*replayRun
}

// replayRun is a replay at work.
type replayRun struct {
	deliver.RunningReplay
	number  int64       // of the next row, counted over all leaders
	page    []replayKey // read and not yet parked
	last    bool        // there is nothing behind page
	reread  bool        // page was read again, because rows of it were not in their place
	done    bool        // all is read, or it is cancelled: only the Recorder is to write it
	allowed float64     // rows that the rate lets through now
	paced   time.Time   // until when allowed is reckoned
}

func newReplayer(l *leader) *replayer {
	return &replayer{l: l, wake: make(chan struct{}, 1), runs: make(map[int64]*replayRun)}
}

func (r *replayer) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run returns when ctx ends. With no replay to carry out it leaves the database
// alone until it is woken.
func (r *replayer) run(ctx context.Context) error {
	defer r.hangUp(ctx)
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 100*time.Millisecond, 10*time.Second
	for {
		wait, err := r.rounds(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			r.hangUp(ctx)
			r.l.trouble(health.PartReplay, fmt.Errorf("replay: %w", err))
			wait = retry.NextBackOff()
		default:
			r.l.works(health.PartReplay)
			retry.Reset()
			r.hangUp(ctx)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-r.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (r *replayer) hangUp(ctx context.Context) {
	if r.conn != nil {
		_ = r.conn.Close(context.WithoutCancel(ctx))
		r.conn = nil
	}
}

// rounds works until no replay is running, and returns how long to sleep then.
func (r *replayer) rounds(ctx context.Context) (time.Duration, error) {
	tick := time.NewTicker(replayTick)
	defer tick.Stop()
	var looked time.Time
	for {
		now := time.Now()
		if now.Sub(looked) >= replayLook {
			looked = now
			if err := r.look(ctx); err != nil {
				return 0, err
			}
			if len(r.runs) == 0 {
				return time.Hour, nil
			}
		}
		for _, run := range r.runs {
			if err := r.step(ctx, run, now); err != nil {
				return 0, fmt.Errorf("%d: %w", run.ID, err)
			}
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-r.wake:
			looked = time.Time{}
		case <-tick.C:
		}
	}
}

// look takes in what was asked for, and forgets what is over.
func (r *replayer) look(ctx context.Context) error {
	list, err := deliver.LoadRunningReplays(ctx, r.l.d.pool)
	if err != nil {
		return err
	}
	r.l.d.gauges.replays.Set(float64(len(list)))
	seen := make(map[int64]bool, len(list))
	for i := range list {
		now := &list[i]
		seen[now.ID] = true
		run := r.runs[now.ID]
		if run == nil {
			run = &replayRun{RunningReplay: *now, number: now.Queued, done: now.ReadAll, paced: time.Now()}
			r.runs[now.ID] = run
			r.l.log.Info("replay", "id", now.ID, "subscription", now.Subscription, "from", now.From, "to", now.To,
				"rate", now.Rate, "queued_before", now.Queued)
		}
		run.Ended, run.Cancel, run.Stuck = now.Ended, now.Cancel, now.Stuck
	}
	for id := range r.runs {
		if !seen[id] {
			delete(r.runs, id)
			r.l.log.Info("replay is over", "id", id)
		}
	}
	return nil
}

// step does what one replay may do now.
func (r *replayer) step(ctx context.Context, run *replayRun, now time.Time) error {
	run.allowed = min(run.allowed+now.Sub(run.paced).Seconds()*float64(run.Rate), max(1, float64(run.Rate)/2))
	run.paced = now
	ep := r.l.dir.Get(run.Subscription)
	switch {
	case run.Cancel && (!run.done || run.ReadAll):
		run.done, run.ReadAll = true, false
		r.l.dispatcher.CancelReplay(ep, run.ID, "cancelled by an operator")
		return nil
	case ep == nil && (!run.done || run.ReadAll):
		run.done, run.ReadAll = true, false
		r.l.dispatcher.CancelReplay(nil, run.ID, "its subscription was removed")
		return nil
	case run.Stuck && ep != nil && !ep.Subscription().Active && (!run.done || run.ReadAll):
		run.done, run.ReadAll = true, false
		why := fmt.Sprintf("its subscription has been disabled for %.0f h; ask for it again once that is enabled",
			deliver.ReplayPatience.Hours())
		r.l.log.Warn("replay ended", "id", run.ID, "subscription", run.Subscription, "reason", why)
		r.l.dispatcher.CancelReplay(ep, run.ID, why)
		return nil
	case run.done || ep.Held() || r.l.pressed.Load(): // what is parked is written to the WAL
		return nil
	}
	// A slow table must not keep other replays, or the wish to cancel, waiting.
	for run.allowed >= 1 && !run.done && time.Since(now) < replayTick && run.number-run.Ended < int64(max(replayWaiting, 10*run.Rate)) {
		if err := r.chunk(ctx, run, ep); err != nil {
			return err
		}
	}
	return nil
}

// chunk parks the next few rows.
func (r *replayer) chunk(ctx context.Context, run *replayRun, ep *deliver.Endpoint) error {
	if err := r.connect(ctx); err != nil {
		return err
	}
	if len(run.page) == 0 {
		if run.last {
			run.done, run.ReadAll = true, true
			r.l.dispatcher.ReplayRead(deliver.ReplayStep{Replay: run.ID, Cursor: run.Cursor, ReadAll: true})
			return nil
		}
		page, err := r.table.keys(ctx, r.conn, &run.RunningReplay, ep.Subscription(), run.Cursor, replayPage)
		if err != nil {
			return err
		}
		run.page, run.last = page, len(page) < replayPage
	}
	n, size := 0, 0
	var wanted []replayKey
	for _, k := range run.page {
		if k.wanted {
			if len(wanted) == min(int(run.allowed), replayRows) || len(wanted) > 0 && size+k.size > replayBytes {
				break
			}
			size += k.size
			wanted = append(wanted, k)
		}
		n++
	}
	var rows map[string]cdc.Row
	if len(wanted) > 0 {
		found, err := r.table.rows(ctx, r.conn, wanted)
		if err != nil {
			return err
		}
		if len(found) < len(wanted) && !run.reread {
			// The default partition gave them to one of their own, many at a time.
			run.page, run.last, run.reread = nil, false, true
			return nil
		}
		if len(found) < len(wanted) {
			if err := r.table.lookFor(ctx, r.conn, &run.RunningReplay, wanted, found); err != nil {
				return err
			}
		}
		rows, run.reread = found, false
	}
	rejected, err := r.rejected(ctx, wanted)
	if err != nil {
		return err
	}
	var skipped []deliver.ReplaySkip
	sent := deliver.ReplayCursor{}
	for _, k := range run.page[:n] {
		run.Cursor = k.cursor
		if !k.wanted {
			continue
		}
		run.allowed--
		f, skip := r.flight(run, k, rows, rejected, ep.Subscription().Filter)
		if skip != nil {
			skipped = append(skipped, *skip)
			continue
		}
		if f == nil { // filtered
			run.allowed++
			continue
		}
		run.number++
		if err := r.l.dispatcher.Replay(ctx, f, ep, deliver.ReplayStep{Replay: run.ID, Cursor: k.cursor, Skipped: skipped}); err != nil {
			return err
		}
		skipped, sent = nil, k.cursor
	}
	if n > 0 && (len(skipped) > 0 || run.Cursor != sent) {
		r.l.dispatcher.ReplayRead(deliver.ReplayStep{Replay: run.ID, Cursor: run.Cursor, Skipped: skipped})
	}
	if run.page = run.page[n:]; len(run.page) == 0 {
		run.page = nil // let its memory go
	}
	return nil
}

// connect opens the connection, and reads the catalog as it is now.
func (r *replayer) connect(ctx context.Context) error {
	if r.conn != nil {
		return nil
	}
	var err error
	r.table = newReplayTable(r.l.d.cfg(), r.l.d.catalog.Load())
	options := mappingOptions(r.l.d.cfg())
	options.Retained = true
	if r.mapper, err = outbox.NewMapper(options, r.l.d.catalog.Load()); err != nil {
		return err
	}
	r.conn, err = r.l.d.direct(ctx)
	return err
}

// rejected returns those of some rows that never became events. Whether a row is one was decided when the stream brought it.
func (r *replayer) rejected(ctx context.Context, keys []replayKey) (map[string]outbox.Rejected, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.cursor.ID
	}
	return outbox.ReadRejected(ctx, r.conn, ids)
}

// flight makes the delivery of a row, or says why it is skipped: it never was an event, says nothing, or is gone. Neither: the
// subscription does not want what is in it.
func (r *replayer) flight(run *replayRun, k replayKey, rows map[string]cdc.Row, rejected map[string]outbox.Rejected,
	wanted *filter.Filter) (*deliver.Flight, *deliver.ReplaySkip) {
	row, ok := rows[k.cursor.ID]
	if !ok {
		return nil, &deliver.ReplaySkip{EventID: k.cursor.ID, Reason: deliver.SkipGone, Detail: "the outbox does not hold the row any more"}
	}
	if no, ok := rejected[k.cursor.ID]; ok {
		return nil, skipRejected(k.cursor.ID, no)
	}
	event, err := r.mapper.Map(row)
	var rejection *outbox.Rejection
	switch {
	case errors.Is(err, outbox.ErrSuppressed):
		return nil, skipSuppressed(k.cursor.ID)
	case errors.As(err, &rejection):
		return nil, &deliver.ReplaySkip{EventID: k.cursor.ID, Reason: string(rejection.Reason), Detail: rejection.Detail}
	case err != nil:
		return nil, &deliver.ReplaySkip{EventID: k.cursor.ID, Reason: string(outbox.ReasonInvalidColumn), Detail: "the row cannot be mapped"}
	case !wanted.Match(filter.NewPayload(event.Payload)):
		return nil, nil
	}
	// It is a delivery of today, whatever the age of its event: that is the
	// partition that its record belongs into, and where one looks for it.
	f := flight(&event, place{commit: deliver.ReplayPosition(run.ID, run.number), at: time.Now()}, nil)
	f.Replay = run.ID
	return f, nil
}

// skipRejected words why a row that never became an event is skipped.
func skipRejected(id string, r outbox.Rejected) *deliver.ReplaySkip {
	return &deliver.ReplaySkip{EventID: id, Reason: r.Status, Detail: r.Reason + ": " + r.Detail}
}

func skipSuppressed(id string) *deliver.ReplaySkip {
	return &deliver.ReplaySkip{EventID: id, Reason: deliver.SkipSuppressed, Detail: outbox.ErrSuppressed.Error()}
}

// neededByReplay returns the replay that still has to read rows from before upper.
func neededByReplay(ctx context.Context, tx pgx.Tx, upper time.Time) (id int64, err error) {
	err = tx.QueryRow(ctx, "SELECT id FROM relay.replays WHERE state = 'RUNNING' AND NOT read_all AND from_at < $1 ORDER BY id LIMIT 1",
		upper).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for replays: %w", err)
	}
	return id, nil
}

func isUndefinedTable(err error) bool { return hasCode(err, "42P01") }

func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}
