package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/time/rate"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// Position is how far the stream is recorded: all transactions that end at or
// below End, and the first Rows rows of the one whose commit begins at Partial.
type Position struct {
	End, Partial uint64
	Rows         int
}

func (p Position) covers(commit uint64, index int) bool {
	return commit < p.End || (commit == p.Partial && index < p.Rows)
}

// Progress is the stream's side of recording.
type Progress interface {
	// Position returns how far the tickets that are done reach.
	Position() Position
	// Finished returns the same, and takes the record of the transactions up to there
	// that no earlier call took; nil for none. It is committed with the position.
	Finished() (Position, []byte)
	// Unrecorded is how many transactions Finished would take.
	Unrecorded() int
	// Recorded is called when everything up to the position is committed; then,
	// and only then, it may be confirmed to the server.
	Recorded(Position)
}

// ErrSuperseded is returned when another relay has taken over the slot.
var ErrSuperseded = errors.New("another relay has taken over")

// LogPolicy says which ended deliveries are kept in relay.deliveries. Dead ones
// always are.
type LogPolicy string

// The policies.
const (
	LogAll      LogPolicy = "all"
	LogFailures LogPolicy = "failures" // what needed more than one attempt, or was cancelled
	LogNone     LogPolicy = "none"
)

// RecorderOptions are the knobs of recording.
type RecorderOptions struct {
	Slot             string
	Epoch            int64
	Interval         time.Duration // longest time that an outcome waits
	Batch            int           // so many outcomes are written at once
	Log              LogPolicy
	LogRetention     time.Duration // dead letters keep their body so long
	ProgressInterval time.Duration // progress without outcomes is written so often
	// OnError is told of each failed try.
	OnError func(error)
}

// maxBatch bounds a batch after a stall, and highMark is where admission waits.
const (
	maxBatch = 2000
	highMark = 20000
	// The same in bytes, mostly of bodies.
	maxBatchBytes = 16 << 20
	highMarkBytes = 128 << 20
)

// sweepRows is how many bodies one batch looks at, cancelRows how many rows of a
// subscription or a replay that is gone it takes, and hurryRows how many of an endpoint
// that works again it makes due: more would hold up everybody's outcomes.
const (
	sweepRows  = 2000
	sweepGap   = 100 * time.Millisecond
	sweepEvery = time.Minute
	cancelRows = 2000
	hurryRows  = 2000
)

// Transactions whose events nobody wants make no outcomes, and still have to be on
// record before they are confirmed.
const (
	accountEvery = time.Second
	accountMost  = 10000 // so many are written without waiting
)

// tryTimeout is how long a try of a batch may take, and sizeTries how often one may take longer before it is halved.
const (
	tryTimeout = 30 * time.Second
	sizeTries  = 3
)

// partialListed is how many of the first rows of an unfinished transaction are
// listed as settled although the position covers them: a rescue has no position.
const partialListed = 1000

// Recorder writes outcomes, parked rows and progress, in batches, each in one
// transaction under the leader's epoch. Nothing is confirmed before it is
// committed, and a batch that fails is tried again until it gets through.
type Recorder struct {
	opts     RecorderOptions
	db       Pool
	progress Progress
	metrics  *Metrics
	log      *slog.Logger
	onCommit func([]op)

	mu      sync.Mutex
	ops     []op
	bytes   int64         // of ops
	first   time.Time     // when the oldest op came
	room    chan struct{} // closed and replaced when ops fall below the mark
	busy    bool          // a batch is being written
	last    int64         // number of the last batch that is committed
	keep    bool          // relay.settled is not trimmed
	trying  trying        // the batch that is being written
	unsaved int           // outcomes that are not committed: of attempts that would be made again after a crash
	blocked atomic.Bool   // nothing may be started, and nothing more is taken in: see trying

	wake chan struct{}
	stop chan struct{}
	once sync.Once

	// The rest belongs to Run.
	number    int64 // of the last batch, within the epoch
	written   Position
	writtenAt time.Time
	untrimmed bool
	trimmedAt time.Time
	sweepDue  bool      // bodies may have become free since the last sweep began
	sweptAt   time.Time // when it ended
	sweep     sweep
	repeated  bool // the last commit was that of an earlier try, whose results are not known
	asides    asides
}

// Pool is the part of a connection pool that this package uses.
type Pool interface {
	querier
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// NewRecorder returns a Recorder that begins at the recorded position.
func NewRecorder(opts RecorderOptions, db Pool, pr Progress, m *Metrics, log *slog.Logger) *Recorder {
	now := time.Now()
	return &Recorder{opts: opts, db: db, progress: pr, metrics: m, log: log, onCommit: func([]op) {},
		room: make(chan struct{}), wake: make(chan struct{}, 1), stop: make(chan struct{}),
		written: pr.Position(), writtenAt: now, trimmedAt: now, sweptAt: now, untrimmed: true, sweepDue: true,
		asides: asides{tell: rate.Sometimes{First: 20, Interval: time.Second}}}
}

func (r *Recorder) add(o op) {
	r.mu.Lock()
	n := len(r.ops)
	if o.size = o.weight(); n > 0 && o.d != nil && r.ops[n-1].d != nil && r.ops[n-1].d.flight == o.d.flight {
		o.size = len(o.history) // they share the body
	}
	r.ops = append(r.ops, o)
	n++
	full := r.bytes < maxBatchBytes
	r.bytes += int64(o.size)
	full = full && r.bytes >= maxBatchBytes
	if n == 1 {
		r.first = time.Now()
	}
	if o.arrived() {
		r.unsaved++
		r.block(time.Time{})
	}
	r.mu.Unlock()
	if n == 1 || n == r.opts.Batch || full {
		poke(r.wake)
	}
}

// wait blocks while too much waits to be written, because the database is slow
// or away.
func (r *Recorder) wait(ctx context.Context) error {
	for {
		r.mu.Lock()
		if r.hasRoom() {
			r.mu.Unlock()
			return nil
		}
		room := r.room
		r.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hasRoom tells whether more may wait to be written. mu is held.
func (r *Recorder) hasRoom() bool {
	return len(r.ops) < highMark && r.bytes < highMarkBytes && !r.blocked.Load()
}

// Nudge tells the Recorder that the position may have moved without an outcome.
func (r *Recorder) Nudge() { poke(r.wake) }

// Quarantine keeps a row that could not become an event.
func (r *Recorder) Quarantine(e *QuarantineEntry) {
	r.add(op{kind: opQuarantine, quarantine: e})
}

// Stop lets Run write what is left and return.
func (r *Recorder) Stop() { r.once.Do(func() { close(r.stop) }) }

// Run writes batches until Stop, then writes the rest and returns nil. It
// returns ErrSuperseded when the epoch is over, and ctx's error when ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stopping := false
	for {
		batch, wait := r.take(stopping)
		switch {
		case len(batch) > 0:
			if err := r.write(ctx, batch); err != nil {
				return err
			}
			continue
		case stopping:
			return r.settle(ctx, true)
		}
		if err := r.settle(ctx, false); err != nil {
			return err
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.stop:
			stopping = true
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// take returns the ops that are to be written now, or how long to wait.
func (r *Recorder) take(all bool) ([]op, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.ops)
	r.busy = false
	if n == 0 {
		return nil, time.Second
	}
	if age := time.Since(r.first); !all && n < r.opts.Batch && r.bytes < maxBatchBytes && age < r.opts.Interval {
		return nil, r.opts.Interval - age
	}
	most := min(n, maxBatch)
	size := int64(0)
	for n = 0; n < most && (n == 0 || size+int64(r.ops[n].size) <= maxBatchBytes); n++ {
		size += int64(r.ops[n].size)
	}
	r.bytes -= size
	batch := r.ops[:n:n]
	r.busy = true
	if n == len(r.ops) {
		r.ops = nil
	} else {
		r.ops = r.ops[n:]
	}
	if r.hasRoom() {
		close(r.room)
		r.room = make(chan struct{})
	}
	return batch, 0
}

// settle handles what has no outcome: positions without rows are confirmed at
// once, and written from time to time. A write for each keepalive would make
// WAL, which makes a keepalive.
func (r *Recorder) settle(ctx context.Context, last bool) error {
	if r.pending() {
		return nil // the position must not be confirmed before its outcomes are written
	}
	pos, unrecorded := r.progress.Position(), r.progress.Unrecorded()
	since := time.Since(r.writtenAt)
	due := since >= r.opts.ProgressInterval || unrecorded > 0 && since >= accountEvery || unrecorded >= accountMost
	if (pos != r.written || unrecorded > 0) && (due || last) || !last && r.sweeps(time.Now()) {
		a := advance{}
		a.pos, a.accounted = r.progress.Finished()
		if err := r.commit(ctx, &pgx.Batch{}, a); err != nil {
			return err
		}
		pos, unrecorded = a.pos, 0
	}
	if unrecorded == 0 {
		r.progress.Recorded(pos)
	}
	return nil
}

// pending tells whether there are ops. A ticket is marked done only by the
// Recorder or for an event without deliveries, so with no ops all that the
// position covers is committed.
func (r *Recorder) pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops) > 0
}

// Written is the number of the last batch of this epoch that is committed.
func (r *Recorder) Written() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// KeepSettled tells whether relay.settled is left alone, because rows are being
// read from the table that it tells of.
func (r *Recorder) KeepSettled(keep bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep = keep
}

func (r *Recorder) keeps() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keep
}

// Idle tells whether everything that was given to the Recorder is committed.
func (r *Recorder) Idle() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops) == 0 && !r.busy
}

// write records one batch. What the database refuses in it is found by halves and set aside, and the rest goes on:
// see refused.go. The position moves with the last part, so it never covers what is not committed, and a crash in
// between leaves what is committed in relay.settled.
func (r *Recorder) write(ctx context.Context, batch []op) error {
	for i := range batch {
		o := &batch[i]
		switch {
		case o.kind == opQuarantine && o.quarantine.Ticket != nil:
			o.quarantine.Ticket.Done()
		case o.settles:
			f := o.d.flight
			if f.open--; f.open == 0 && f.Ticket != nil {
				f.Ticket.Done()
			}
		}
	}
	var whole advance
	whole.pos, whole.accounted = r.progress.Finished()
	for parts := [][]op{batch}; len(parts) > 0; {
		part := parts[len(parts)-1]
		parts = parts[:len(parts)-1]
		a := advance{pos: r.written}
		if len(parts) == 0 {
			a = whole
		}
		err := r.writePart(ctx, part, a)
		var refused *refusedError
		switch {
		case err == nil:
		case !errors.As(err, &refused):
			return err
		case len(part) > 1:
			half := len(part) / 2
			parts = append(parts, part[half:], part[:half])
		default:
			if err := r.paceAsides(ctx, part[0].kind, refused.err); err != nil {
				return err
			}
			part[0].setAside(refused.err)
			parts = append(parts, part)
		}
	}
	r.progress.Recorded(whole.pos)
	return nil
}

// writePart commits some ops of a batch.
func (r *Recorder) writePart(ctx context.Context, part []op, a advance) error {
	a.accounted = slices.Clip(a.accounted)
	for i := range part {
		o := &part[i]
		a.accounted = append(a.accounted, o.accounted...)
		a.size += int64(o.size)
		if o.arrived() {
			a.outcomes++
		}
		if !o.settles {
			continue
		}
		f := o.d.flight
		if listed := f.CommitLSN == a.pos.Partial && f.Index < partialListed; listed || !a.pos.covers(f.CommitLSN, f.Index) {
			a.settled = appendSettled(a.settled, settledKey{commit: f.CommitLSN, event: f.EventID, sub: o.ep.id})
			a.highest = max(a.highest, f.CommitLSN)
		}
	}
	b := &pgx.Batch{}
	w := writer{opts: &r.opts, batch: b}
	w.queue(part)
	r.sweepDue = r.sweepDue || w.freesBodies
	if faultpoint.Planted(faultpoint.ProgressBeforeParked) {
		_ = r.commit(ctx, &pgx.Batch{}, advance{pos: a.pos, accounted: a.accounted, settled: a.settled, highest: a.highest})
		r.progress.Recorded(a.pos)
		faultpoint.Hit(faultpoint.BetweenProgress)
	}
	a.splits = len(part) > 1 || part[0].aside < asideNames
	a.single = len(part) == 1
	if err := r.commit(ctx, b, a); err != nil {
		if a.splits {
			forgetNumbers(part)
		}
		return err
	}
	if faultpoint.Enabled {
		plantedCommitted(part)
	}
	r.countAsides(part)
	for i := range part {
		o := &part[i]
		o.more = o.more || r.repeated && o.some // what it found then was left over
		if o.written != nil {
			close(o.written)
		}
	}
	r.metrics.batch(len(part))
	r.onCommit(part)
	return nil
}

// advance is what a batch says of the stream.
type advance struct {
	pos       Position
	settled   []byte // deliveries of it above pos, for relay.settled
	highest   uint64 // commit LSN among them
	accounted []byte // transactions that are finished now, for relay.accounted

	size   int64 // bytes of what is recorded with it
	splits bool  // a smaller part, or less of it, may get through where this does not
	single bool  // it cannot be halved: what only asks for too much is tried again

	outcomes int // deliveries that arrived among what is recorded
}

// commit runs the statements and the move of progress in one transaction: a
// batch without transaction commands is one, between two Syncs of the protocol.
// It tries until it gets through.
//
// Source: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
func (r *Recorder) commit(ctx context.Context, b *pgx.Batch, a advance) error {
	trim := r.untrimmed && !r.keeps() && time.Since(r.trimmedAt) > 5*time.Second
	sweeping := r.sweeps(time.Now())
	if sweeping {
		r.sweepSome(b)
	}
	r.number++
	epoch := r.opts.Epoch
	if faultpoint.Enabled {
		epoch, a.pos = r.plantedAdvance(ctx, a.pos)
	}
	faultpoint.Hit(faultpoint.BeforeRecordCommit)
	b.Queue(sqlAdvance, r.opts.Slot, epoch, r.number, lsnText(a.pos.End), lsnText(a.pos.Partial), a.pos.Rows,
		a.settled, lsnText(a.highest), trim, a.accounted)
	r.repeated = false
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 20*time.Millisecond, 2*time.Second
	r.begin()
	unheard, tries := false, 0 // unheard: an earlier try may have been committed
	for {
		err := r.try(ctx, b, a.size)
		if err == nil {
			break
		}
		var pg *pgconn.PgError
		server := errors.As(err, &pg)
		if server && pg.Code == "RL002" {
			r.repeated = true // an earlier try was committed, and the answer to it was lost
			break
		}
		if server && pg.Code == "RL001" {
			return fmt.Errorf("%w: %s", ErrSuperseded, pg.Message)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err = fmt.Errorf("record %d statements: %w", b.Len(), err)
		why := judgeRefusal(err, a.size)
		tries++
		if a.splits && !unheard && (why == refusesContent || why == refusesSize && !a.single && tries >= sizeTries) {
			r.number--
			return &refusedError{err}
		}
		if unheard && why != refusesNothing {
			// The statements may fail because they have run already. The server knows.
			if committed, known := r.isWritten(ctx); committed {
				r.repeated = true
				break
			} else if known {
				unheard = false
				continue
			}
		}
		unheard = unheard || !server
		r.failed(err)
		r.opts.OnError(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry.NextBackOff()):
		}
	}
	now := time.Now()
	r.committed(a.outcomes)
	r.written, r.writtenAt = a.pos, now
	if sweeping {
		r.swept(now)
	}
	if trim {
		r.untrimmed, r.trimmedAt = false, now
	}
	r.untrimmed = r.untrimmed || a.settled != nil
	return nil
}

// isWritten asks whether the batch with the last number is committed; known is false when there is no answer.
func (r *Recorder) isWritten(ctx context.Context) (written, known bool) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var batch int64
	if err := r.db.QueryRow(ctx, "SELECT batch FROM relay.progress WHERE slot = $1 AND epoch = $2", r.opts.Slot, r.opts.Epoch).Scan(&batch); err != nil {
		return false, false
	}
	return batch == r.number, true
}

func (r *Recorder) try(ctx context.Context, b *pgx.Batch, size int64) error {
	// A body of hundreds of megabytes takes its time.
	ctx, cancel := context.WithTimeout(ctx, tryTimeout+time.Duration(size>>20)*time.Second)
	defer cancel()
	// A Batch remembers the prepared statements of the connection that it was
	// sent on, and the next try may be on another one.
	fresh := &pgx.Batch{}
	for _, q := range b.QueuedQueries {
		fresh.Queue(q.SQL, q.Arguments...).Fn = q.Fn
	}
	return r.db.SendBatch(ctx, fresh).Close()
}
