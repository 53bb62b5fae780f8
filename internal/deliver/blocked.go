package deliver

import (
	"errors"
	"time"
)

// Bounds of what is sent while nothing can be recorded. Everything that is taken by then comes again after a crash.
const (
	// unsavedMost is how many outcomes may be unrecorded once a try to record has failed, or has gone on for slowCommit.
	// More than these may be on record nowhere only if they were there already.
	unsavedMost = 200
	// failsFor is how long tries may fail before nothing is started, however few outcomes there are.
	failsFor = time.Second
	// slowCommit is how long a try may go on before it counts as one that fails. A database that is only slow is not
	// held up: it takes a whole batch meanwhile.
	slowCommit = 2 * time.Second
)

// trying is the batch that is being written. Recorder.mu guards it.
type trying struct {
	since  time.Time // when its first try began; zero: none is being written
	failed time.Time // when a try of it first failed; zero: none has
	err    error     // of the last one that did
	late   bool      // it has been going on for slowCommit
}

// ErrNoAnswer says why recording fails when no try has ended.
var ErrNoAnswer = errors.New("the database has not answered yet")

// begin notes that a batch is being written.
func (r *Recorder) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trying.since.IsZero() {
		r.trying.since = time.Now()
	}
}

// failed notes that a try to write it has failed.
func (r *Recorder) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.trying.failed.IsZero() {
		r.trying.failed = now
	}
	r.trying.err = err
	r.block(now)
}

// committed notes that a batch with so many outcomes is written. Dispatcher.committed lets attempts start again.
func (r *Recorder) committed(outcomes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = r.number
	r.unsaved -= outcomes
	r.trying = trying{}
	if r.blocked.Swap(false) && r.hasRoom() {
		close(r.room)
		r.room = make(chan struct{})
	}
}

// block decides whether anything may be started. A zero now leaves time out. mu is held.
func (r *Recorder) block(now time.Time) {
	t := &r.trying
	if !now.IsZero() && !t.since.IsZero() && now.Sub(t.since) >= slowCommit {
		t.late = true
	}
	failed := !t.failed.IsZero()
	if (failed || t.late) && r.unsaved >= unsavedMost || failed && !now.IsZero() && now.Sub(t.failed) >= failsFor {
		r.blocked.Store(true)
	}
}

// Blocked reports whether nothing may be started because nothing can be recorded. It is cheap.
func (r *Recorder) Blocked() bool { return r.blocked.Load() }

// look lets time decide what Blocked says.
func (r *Recorder) look(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.block(now)
}

// Failing tells since when nothing could be recorded and why, when a try to record has failed or goes on for too long;
// else the time is zero.
func (r *Recorder) Failing() (since time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.block(time.Now())
	switch t := &r.trying; {
	case !t.failed.IsZero():
		return t.since, t.err
	case t.late:
		return t.since, ErrNoAnswer
	}
	return time.Time{}, nil
}
