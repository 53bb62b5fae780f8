package deliver

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A crash while nothing can be recorded repeats a few hundred deliveries, not thousands.
func TestBlocked_StartsNothingMoreWhenNothingCanBeRecorded(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(f *failTry) (mend func()){
		"tries fail": func(f *failTry) func() {
			err := errors.New("planted")
			f.err.Store(&err)
			return func() { f.err.Store(nil) }
		},
		"tries hang": func(f *failTry) func() {
			hang := &hanging{Pool: f.Pool, until: make(chan struct{})}
			f.Pool = hang
			return func() { close(hang.until) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			fail := &failTry{Pool: w.pool}
			w.db = fail
			mend := stop(fail)
			w.subscribe("a.test")
			l := w.lead(func(o *Options, ro *RecorderOptions) { o.HandoverAfter = time.Hour })
			first := l.send("k0")
			eventually(t, "recording counts as failing", func() bool { since, _ := l.rec.Failing(); return !since.IsZero() })
			const n = 2000
			sent := make(chan []*entry, 1)
			go func() {
				keys := make([]string, n)
				for i := range keys {
					keys[i] = "k" + string(rune('a'+i%26))
				}
				sent <- l.send(keys...)
			}()
			eventually(t, "it is blocked", l.rec.Blocked)
			eventually(t, "what is on the wire ends", func() bool { return l.p.Load().InFlight == 0 })
			if got, most := w.sink.attempts("a.test"), unsavedMost+8; got > most {
				t.Errorf("%d attempts while nothing was recorded, want at most %d", got, most)
			}
			if since, err := l.rec.Failing(); since.IsZero() || err == nil {
				t.Errorf("failing since %s: %v", since, err)
			}
			mend()
			all := append(first, <-sent...)
			eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == n+1 })
			w.inKeyOrder("a.test", all...)
			l.quiet()
			if l.rec.Blocked() {
				t.Error("still blocked")
			}
		})
	}
}

// With few outcomes, time decides.
func TestBlocked_StartsNothingWhenTriesFailForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fail := &failTry{Pool: w.pool}
	w.db = fail
	err := errors.New("planted")
	fail.err.Store(&err)
	w.subscribe("a.test")
	l := w.lead()
	first := l.send("k1")
	w.arrived("a.test", first...)
	eventually(t, "it is blocked", l.rec.Blocked)
	later := l.commit("k2")
	taken := make(chan struct{})
	go func() {
		defer close(taken)
		l.take(later...)
	}()
	eventually(t, "more tries fail", func() bool { return fail.tries.Load() > 5 })
	if got := w.sink.attempts("a.test"); got != 1 {
		t.Errorf("%d attempts, want 1", got)
	}
	fail.err.Store(nil)
	<-taken
	w.arrived("a.test", append(first, later...)...)
	l.quiet()
}

// A database that is slow and takes a whole batch each time holds up nothing, however many outcomes wait meanwhile.
func TestBlocked_LeavesASlowDatabaseAlone(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := &Recorder{unsaved: highMark, trying: trying{since: now}}
	if r.look(now.Add(slowCommit - 1)); r.Blocked() {
		t.Error("blocked before a try took too long")
	}
	if since, _ := r.Failing(); !since.IsZero() {
		t.Error("counts as failing before a try took too long")
	}
	if r.look(now.Add(slowCommit)); !r.Blocked() {
		t.Error("not blocked although a try takes too long")
	}
	few := &Recorder{unsaved: unsavedMost - 1, trying: trying{since: now}}
	if few.look(now.Add(time.Hour)); few.Blocked() {
		t.Error("blocked although few outcomes wait and no try has failed")
	}
}

// hanging answers batches only once until is closed.
type hanging struct {
	Pool
	until chan struct{}
}

func (h *hanging) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	select {
	case <-h.until:
	case <-ctx.Done():
	}
	return h.Pool.SendBatch(ctx, b)
}
