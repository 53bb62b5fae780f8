package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/health"
)

// A part that fails for longer than patience makes the relay not ready, one that no retry mends does at once. A batch of
// recording may take a while when it is large, and no longer than this.
const patience = 4 * time.Second

// rightsEvery is how often an idle relay looks whether it still could do its job. One statement on catalogs.
const rightsEvery = 3 * time.Second

// troubles remembers what fails on ordinary connections, by part.
type troubles struct {
	mu    sync.Mutex
	since map[string]time.Time // first failure of a part since it last worked
}

// trouble is told that a part has failed, and that it tries again.
func (l *leader) trouble(part string, err error) {
	l.d.dbErrors.Inc()
	t := &l.troubles
	t.mu.Lock()
	if t.since == nil {
		t.since = make(map[string]time.Time)
	}
	first, again := t.since[part]
	if !again {
		first = time.Now()
		t.since[part] = first
	}
	t.mu.Unlock()
	if again { // the board says that it lasts
		l.log.Debug("database statement failed, will be tried again", "part", part, "error", health.Describe(err))
	} else {
		l.log.Warn("database statement failed, will be tried again", "part", part, "error", health.Describe(err))
	}
	c := l.d.diagnose(err)
	if lasting(c.State) || time.Since(first) >= patience {
		l.raise(part, c, first)
	}
	l.letGoIfDown(err)
}

// lasting reports whether a state is of the kind that no retry mends.
func lasting(s health.State) bool {
	return s == health.Misconfigured || s == health.ReadOnly
}

// raise shows what is wrong with a part of a leader that streams.
func (l *leader) raise(part string, c health.Condition, since time.Time) {
	if part == health.PartRecording {
		c.Sentence = fmt.Sprintf("nothing has been recorded since %s: %s", since.UTC().Format(time.RFC3339), c.Sentence)
		if !lasting(c.State) && c.State != health.OutOfResources {
			c.State = health.RecordingStalled
		}
	} else if c.State == health.Standby || c.State == health.ShuttingDown {
		c.State = health.Unreachable
	}
	l.d.board.Raise(part, c)
}

// works is told that a part got through.
func (l *leader) works(part string) {
	t := &l.troubles
	t.mu.Lock()
	_, failed := t.since[part]
	delete(t.since, part)
	t.mu.Unlock()
	if failed {
		l.d.board.Clear(part)
	}
}

// fails reports whether a part has failed since it last worked.
func (l *leader) fails(part string) bool {
	t := &l.troubles
	t.mu.Lock()
	defer t.mu.Unlock()
	_, failed := t.since[part]
	return failed
}

// recordingFailed is told of each failed try to record.
func (l *leader) recordingFailed(err error) {
	l.trouble(health.PartRecording, health.During(health.Record, err))
}

// loaded is told of each try to load parked deliveries.
func (l *leader) loaded(err error) {
	if err != nil {
		l.trouble(health.PartLoading, err)
		return
	}
	l.works(health.PartLoading)
}

// lookAtRecording notices a batch that is not committed within a few seconds, whether its statement fails or hangs.
func (l *leader) lookAtRecording() {
	since, err := l.recorder.Failing()
	switch {
	case since.IsZero():
		l.works(health.PartRecording)
		l.d.board.Clear(health.PartRecording)
	case time.Since(since) < patience: // trouble knows those that no retry mends
	case errors.Is(err, deliver.ErrNoAnswer):
		l.raise(health.PartRecording, health.Condition{State: health.RecordingStalled, Sentence: err.Error(),
			Remedy: "look for what it waits for: SELECT pid, wait_event_type, wait_event, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE application_name = 'relay'"}, since)
	default:
		l.raise(health.PartRecording, l.d.diagnose(health.During(health.Record, err)), since)
	}
}

// lookAtRights notices on an idle outbox, too, that the relay could not do its job: a table, a function or a right is
// gone, or the database takes no writes.
func (l *leader) lookAtRights(ctx context.Context) {
	asked, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, ok, err := health.CheckRights(asked, l.d.pool, Facts(l.settings))
	switch {
	case ctx.Err() != nil:
	case err != nil:
		l.trouble(health.PartRights, err)
	case !ok:
		l.d.board.Raise(health.PartRights, c)
	default:
		l.works(health.PartRights)
		l.d.board.Clear(health.PartRights)
	}
}
