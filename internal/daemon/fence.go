package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/progress"
)

// fence makes sure, after the process stood still, that it still leads before it
// sends anything. Its writes need no such care: each carries the epoch.
func (l *leader) fence(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.dispatcher.Frozen():
		}
		woke := time.Now()
		l.log.Warn("the process stood still; nothing is sent until it is sure that no other relay leads")
		// A slot that another has taken is no longer ours to hear from.
		if !l.heardSince(ctx, woke) {
			continue // the connection is being replaced, which makes sure, and resumes
		}
		err := l.persist(ctx, func() error {
			now, err := progress.Load(ctx, l.d.pool, l.state.Slot)
			if err == nil && now.Epoch != l.state.Epoch {
				return fmt.Errorf("%w: epoch %d has begun", deliver.ErrSuperseded, now.Epoch)
			}
			return err
		})
		if err != nil {
			return err
		}
		l.dispatcher.Thaw()
		l.log.Info("this relay still leads", "verified_in", time.Since(woke).Round(time.Millisecond).String())
	}
}

// heardSince waits until the server has answered on the replication connection after
// t; false when that is lost, or ctx ends.
func (l *leader) heardSince(ctx context.Context, t time.Time) bool {
	for asked := (*cdc.Stream)(nil); ; {
		s := l.stream.Load()
		if s == nil {
			return false
		}
		if s.LastActivity().After(t) {
			return true
		}
		if s != asked {
			s.Ask()
			asked = s
		}
		if pause(ctx, 5*time.Millisecond) != nil {
			return false
		}
	}
}
