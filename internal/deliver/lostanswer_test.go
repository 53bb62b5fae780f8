package deliver

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// lostAnswers commits each batch and then says, every other time, that the
// connection broke.
type lostAnswers struct {
	Pool
	n atomic.Int64
}

func (l *lostAnswers) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	res := l.Pool.SendBatch(ctx, b)
	if l.n.Add(1)%2 == 1 {
		return lostResults{res}
	}
	return res
}

type lostResults struct{ pgx.BatchResults }

func (l lostResults) Close() error {
	return errors.Join(l.BatchResults.Close(), errors.New("the connection broke after the commit"))
}

func TestRecorder_WritesABatchOnceThoughTheAnswerToItsCommitIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lost := &lostAnswers{Pool: w.pool}
	w.db = lost
	w.subscribe("a.test")
	l := w.lead()
	for range 20 {
		l.send("k1", "k2", "k3")
		l.quiet()
	}
	if n := w.count("SELECT count(*) FROM relay.deliveries"); n != 60 {
		t.Errorf("%d records, want 60", n)
	}
	if lost.n.Load() < 4 {
		t.Errorf("only %d batches were sent: no answer was lost in between", lost.n.Load())
	}
}

// What is revived or parked late is counted by what the statement says, and what it
// says at a second try is not what it did at the first.
func TestRecorder_CountsWhatIsParkedLateOnceThoughTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]func(w *world, l *leader, e *entry){
		"released": func(_ *world, l *leader, e *entry) {
			f := e.f
			l.p.Release(&f, l.dir.Match(f.TenantID, f.Type), 0, 0)
		},
		"revived": func(w *world, l *leader, e *entry) {
			w.sink.on("a.test", only(e, failFirst(1)))
			l.take(e)
			eventually(w.t, "it is dead", func() bool { return w.ended(StatusDead) == 1 && l.rec.Idle() })
			l.retry(uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries WHERE status = 'DEAD'")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.db = &lostAnswers{Pool: w.pool}
			id := w.subscribe("a.test")
			l := w.lead(attempts(1))
			var sent []*entry
			for range 4 {
				e := w.commit("k1")[0]
				late(w, l, e)
				l.setActive(id, false)
				eventually(t, "it is written", l.rec.Idle)
				l.setActive(id, true)
				sent = append(append(sent, e), l.send("k1")...)
				eventually(t, "both have arrived", func() bool {
					return len(w.sink.took("a.test")) == len(sent) && l.rec.Idle() && w.parked() == 0
				})
				if n := l.p.Parked(); n != 0 {
					t.Fatalf("%d are counted as parked when none is", n)
				}
			}
			w.inKeyOrder("a.test", sent...)
		})
	}
}

// The second try of a part finds less than the first one took.
func TestRecorder_CancelsAllThoughTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.db = &lostAnswers{Pool: w.pool}
	sub := w.subscribe("a.test")
	w.exec("UPDATE relay.subscriptions SET active = false")
	const n = cancelRows + 7
	w.parkRows(n, sub, 0, "NULL")
	l := w.lead()
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", sub)
	l.refresh(sub)
	eventually(t, "all are cancelled", func() bool { return w.parked() == 0 && l.rec.Idle() })
	if got := w.ended(StatusCancelled); got != n {
		t.Errorf("%d are cancelled, want %d", got, n)
	}
}
