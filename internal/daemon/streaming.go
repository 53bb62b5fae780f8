package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/faultpoint"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/progress"
)

// keepStreaming runs the stream and replaces its connection when that breaks. It
// returns when ctx ends or this term cannot go on.
func (l *leader) keepStreaming(ctx context.Context, stream *cdc.Stream) error {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 50*time.Millisecond, longestPause
	for {
		l.d.noteStreaming()
		began, from := time.Now(), stream.Received()
		err := l.runStream(ctx, stream)
		if ctx.Err() != nil {
			return ctx.Err() // the stream stays for the last confirmation
		}
		l.stream.Store(nil)
		l.dispatcher.Hold()
		_ = stream.Close(0)
		if cdc.Classify(err) == health.PublicationMissing && !errors.Is(err, cdc.ErrPublicationMissing) {
			err = fmt.Errorf("%w where the stream stands: %w", cdc.ErrPublicationMissing, err)
		}
		if errors.Is(err, cdc.ErrPublicationMissing) || errors.Is(err, cdc.ErrMalformed) {
			return err
		}
		l.log.Warn("replication connection lost", "error", err)
		l.d.noteSilence(errors.Is(err, cdc.ErrSilent), stream.Received() > from)
		if time.Since(began) > 10*time.Second {
			retry.Reset()
		}
		for {
			l.d.noteFailure(err)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(retry.NextBackOff()):
			}
			if stream, err = l.reconnect(ctx); err == nil {
				l.dispatcher.Resume()
				break
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if endsTerm(err) {
				return err
			}
		}
	}
}

func (l *leader) runStream(ctx context.Context, stream *cdc.Stream) error {
	select { // a token from before this connection says nothing of it
	case <-l.letGo:
	default:
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		select {
		case <-l.letGo:
			cancel(errLetGo)
		case <-ctx.Done():
		}
	}()
	err := stream.Run(ctx, l.intake.feed.Load().batches)
	if cause := context.Cause(ctx); errors.Is(cause, errLetGo) {
		err = cause
	}
	cancel(nil)
	return err
}

// endsTerm tells whether an error of reconnecting means that this leader's
// memory is worth nothing any more, or that a person has to look.
func endsTerm(err error) bool {
	if overtaken(err) {
		return true
	}
	switch cdc.Classify(err) {
	case health.SlotMissing, health.SlotLost, health.PublicationMissing, health.PublicationIncomplete:
		return true
	}
	return false
}

// reconnect opens a new connection of the same term. The stream goes on after
// the last transaction that came in whole.
func (l *leader) reconnect(ctx context.Context) (*cdc.Stream, error) {
	conn, err := l.d.connect(ctx)
	if err != nil {
		return nil, err
	}
	id := conn.Identity()
	if id.SystemID != l.id.SystemID || id.Timeline != l.id.Timeline {
		conn.Close()
		return nil, fmt.Errorf("%w: it was system %s on timeline %d, it is system %s on timeline %d",
			progress.ErrWrongServer, l.id.SystemID, l.id.Timeline, id.SystemID, id.Timeline)
	}
	slot, err := cdc.InspectSlot(ctx, l.d.pool, l.d.cfg().CDC.Slot)
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.intake.renew()
	arrived := l.watermark.Arrived()
	if id.XLogPos < arrived {
		conn.Close()
		return nil, fmt.Errorf("%w: its WAL ends at %s, and this relay has received up to %s", progress.ErrWrongServer, id.XLogPos, arrived)
	}
	if slot.Exists && slot.ConfirmedFlush > arrived && !faultpoint.Planted(faultpoint.EpochUnchecked) {
		conn.Close()
		return nil, fmt.Errorf("%w: the slot stands at %s, and this relay has received up to %s", deliver.ErrSuperseded, slot.ConfirmedFlush, arrived)
	}
	stream, err := conn.Start(ctx, l.d.streamOptions(), arrived, l.recordedEnd())
	if err != nil {
		conn.Close()
		return nil, err
	}
	written := l.recorder.Written()
	now, err := progress.Load(ctx, l.d.pool, l.d.cfg().CDC.Slot)
	switch {
	case err != nil:
	case now.Epoch != l.state.Epoch:
		if !faultpoint.Planted(faultpoint.EpochUnchecked) {
			err = fmt.Errorf("%w: epoch %d has begun", deliver.ErrSuperseded, now.Epoch)
		}
	case now.Batch < written:
		// It was restored under a living relay. The stream may show nothing for long by which that would be noticed.
		err = fmt.Errorf("%w: batch %d of this epoch is gone, the database has gone back to batch %d", deliver.ErrSuperseded, written, now.Batch)
	}
	if err != nil {
		_ = stream.Close(0)
		return nil, err
	}
	l.stream.Store(stream)
	return stream, nil
}

// recordedEnd is how far everything is committed. The watermark may be further:
// it counts what the Recorder is writing.
func (l *leader) recordedEnd() cdc.LSN { return cdc.LSN(l.recorded.Load()) }

// letGoIfDown lets go of the replication connection when err says that PostgreSQL goes
// down. An ordinary session is ended in the same words when somebody calls
// pg_terminate_backend; a server that goes down takes no new ones.
func (l *leader) letGoIfDown(err error) {
	if !cdc.ServerGoesDown(err) || cdc.SessionEnded(err) && l.d.takesSessions() {
		return
	}
	l.release()
}

// takesSessions asks PostgreSQL itself, past any pooler.
func (d *Daemon) takesSessions() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := d.direct(ctx)
	if err != nil {
		return cdc.TooManySessions(err)
	}
	_ = conn.Close(ctx)
	return true
}

// release lets go of the replication connection, so that PostgreSQL can stop.
func (l *leader) release() {
	select {
	case l.letGo <- struct{}{}:
	default:
	}
}
