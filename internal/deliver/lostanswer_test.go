package deliver

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

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
