package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/faultpoint"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/progress"
)

// errLetGo ends a connection because PostgreSQL is shutting down.
var errLetGo = errors.New("PostgreSQL is shutting down")

// leader is one term of leading: from taking over the epoch to its end.
type leader struct {
	decoding bool // the board says that the server is silent and at work; belongs to watch

	d        *Daemon
	state    progress.State
	id       cdc.Identity
	settings *Settings // that its parts were made or configured with

	watermark  *cdc.Watermark
	dir        *deliver.Directory
	recorder   *deliver.Recorder
	dispatcher *deliver.Dispatcher
	intake     *intake
	journal    *audit.Journal
	settled    *deliver.Settled
	rescue     rescueTask
	replayer   *replayer

	stream atomic.Pointer[cdc.Stream]
	letGo  chan struct{} // one token: PostgreSQL goes down
	log    *slog.Logger

	recorded     atomic.Uint64 // end up to which everything is committed; only grows
	audited      atomic.Uint64 // marker up to which the table was compared
	auditedAt    atomic.Int64  // unix nanoseconds
	auditOff     atomic.Bool   // the table cannot be audited
	backfilling  atomic.Bool
	began        time.Time
	wal          atomic.Pointer[WALStatus] // as it was last looked at
	pressed      atomic.Bool               // the slot holds half of its WAL budget, or more
	requests     map[int64]bool            // carried out and not deleted yet; belongs to listen
	lastPosition cdc.Position              // belongs to watch
	movedAt      atomic.Int64              // unix nanoseconds
	troubles     troubles
}

// tracker lets the Recorder see the watermark and confirm through whatever
// connection there is.
type tracker struct{ l *leader }

func (t tracker) Position() deliver.Position {
	p := t.l.watermark.Position()
	return deliver.Position{End: uint64(p.End), Partial: uint64(p.Partial), Rows: p.Rows}
}

func (t tracker) Finished() (deliver.Position, []byte) {
	p, tallies := t.l.watermark.Finished()
	return deliver.Position{End: uint64(p.End), Partial: uint64(p.Partial), Rows: p.Rows}, cdc.AppendTallies(nil, tallies)
}

func (t tracker) Unrecorded() int { return t.l.watermark.Untaken() }

func (t tracker) Recorded(p deliver.Position) {
	t.l.recorded.Store(p.End) // only the Recorder calls, with positions that grow
	s := t.l.stream.Load()
	if s == nil {
		return
	}
	// After a reconnection the new session may not have received this much yet;
	// what it receives next brings the confirmation with it.
	_ = s.Confirm(min(cdc.LSN(p.End), s.Received()))
}

// lead waits for the slot and leads until the term ends. ctx's end is a wanted
// stop, and drains.
func (d *Daemon) lead(ctx context.Context) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	from, err := d.prepare(ctx, conn)
	if err != nil {
		conn.Close()
		return err
	}
	stream, err := conn.Start(ctx, d.streamOptions(), from.state.Position.End, from.state.Position.End)
	if err != nil {
		conn.Close()
		return err
	}
	l := &leader{d: d, id: conn.Identity(), letGo: make(chan struct{}, 1), log: d.log, began: time.Now(),
		requests: make(map[int64]bool)}
	if err := l.setUpHolding(ctx, stream, from); err != nil {
		_ = stream.Close(0)
		return err
	}
	if err := d.makeCurrent(l); err != nil {
		_ = stream.Close(0)
		return err
	}
	defer d.current.Store(nil)
	return l.run(ctx, stream)
}

func (d *Daemon) connect(ctx context.Context) (*cdc.Conn, error) {
	return cdc.Connect(ctx, d.cfg().Database.ReplicationURL, d.appName())
}

func (d *Daemon) streamOptions() cdc.StreamOptions {
	c := d.cfg().CDC
	return cdc.StreamOptions{Slot: c.Slot, Publication: c.Publication, StatusInterval: c.StatusInterval,
		SilenceTimeout: c.SilenceTimeout << min(d.silences.Load(), mostPatience), AtWork: d.senderAtWork}
}

// setUpHolding keeps the slot while it sets up, however long that takes: were the
// server to end the connection meanwhile, another relay would take over, and end this
// leader's epoch before it has sent anything.
func (l *leader) setUpHolding(ctx context.Context, stream *cdc.Stream, from start) error {
	ctx, cancel := context.WithCancelCause(ctx)
	held := make(chan struct{})
	go func() {
		defer close(held)
		if err := stream.Hold(ctx); err != nil {
			cancel(err)
		}
	}()
	err := l.setUp(ctx, stream, from)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-held
	return err
}

// setUp takes over the epoch, mends what only a leader may, and loads what an earlier
// leader left. from is what prepare found.
func (l *leader) setUp(ctx context.Context, stream *cdc.Stream, from start) error {
	cfg := l.d.cfg()
	l.settings = cfg
	var err error
	if l.state, err = progress.TakeOver(ctx, l.d.pool, cfg.CDC.Slot, l.id); err != nil {
		return err
	}
	l.d.lastEpoch.Store(l.state.Epoch)
	faultpoint.Hit(faultpoint.InTakeover)
	if err := l.bind(ctx, from.binding); err != nil {
		return err
	}
	if from.unpublished != nil {
		if err := l.d.repairPublication(ctx, l.state.Slot, from.unpublished); err != nil {
			return err
		}
	}
	if l.state.Timeline != from.state.Timeline {
		if err := l.noteFailover(ctx, from.state); err != nil {
			return err
		}
	}
	l.watermark = cdc.NewWatermark(l.state.Position.End)
	l.watermark.Remember(l.state.Position)
	l.recorded.Store(uint64(l.state.Position.End))
	l.dir = deliver.NewDirectory(l.d.policy.CheckURLOf, l.d.identify, l.d.keys.Load())
	if l.settled, err = deliver.LoadSettled(ctx, l.d.pool, cfg.CDC.Slot, l.state.Backfill != ""); err != nil {
		return err
	}
	if err := l.setUpAudit(ctx); err != nil {
		return err
	}
	l.recorder = deliver.NewRecorder(deliver.RecorderOptions{
		Slot: cfg.CDC.Slot, Epoch: l.state.Epoch, Interval: cfg.Deliver.Record.Interval, Batch: cfg.Deliver.Record.Batch,
		Log: deliver.LogPolicy(cfg.Deliver.Log), LogRetention: cfg.Deliver.LogRetention,
		ProgressInterval: cfg.CDC.ProgressInterval, OnError: l.recordingFailed,
	}, l.d.pool, tracker{l}, l.d.metrics, l.log)
	l.recorder.KeepSettled(true) // until the first audit, or the end of what is read from the table
	l.dispatcher = deliver.NewDispatcher(dispatchOptions(cfg), l.d.sink(), l.recorder, l.settled, l.d.metrics, l.log)
	mapper, err := l.d.newMapper()
	if err != nil {
		return err
	}
	l.intake = &intake{moved: movedRows{db: l.d.pool, onError: l.lookingForMoved, tell: rate.Sometimes{First: 1, Interval: time.Minute},
		tellUnproven: rate.Sometimes{First: 1, Interval: time.Minute}}, mapper: mapper, dir: l.dir, dispatcher: l.dispatcher, recorder: l.recorder,
		watermark: l.watermark, journal: l.journal, metrics: l.d.metrics, log: l.log, refresh: l.refresh, visible: l.awaitVisible, suits: l.awaitSource, share: &outbox.Share{}, start: l.state.Position}
	l.replayer = newReplayer(l)
	l.intake.renew()
	if err := l.lookAtOutbox(ctx); err != nil {
		return err
	}
	if _, _, err := l.dir.Load(ctx, l.d.pool); err != nil {
		return err
	}
	if err := l.dispatcher.Restore(ctx, l.d.pool, l.dir); err != nil {
		return err
	}
	l.stream.Store(stream)
	l.log.Info("leading", "slot", cfg.CDC.Slot, "epoch", l.state.Epoch, "from", l.state.Position.End.String(),
		"settled_above", l.settled.Len(), "subscriptions", l.dir.Len())
	return nil
}

// bind records what progress belongs to from now on, when an older relay did not, or what it belongs to has another name
// by now.
func (l *leader) bind(ctx context.Context, have progress.Binding) error {
	// Another leader may have recorded it since prepare looked.
	if err := l.state.CheckBinding(l.state.Slot, have, l.id.SystemID); err != nil {
		return err
	}
	was := l.state.Binding
	if was == have {
		return nil
	}
	if err := progress.Bind(ctx, l.d.pool, l.state, have); err != nil {
		return err
	}
	l.state.Binding = have
	attrs := []any{"slot", l.state.Slot, "database", have.Database, "publication", have.Publication, "table", have.Table}
	switch {
	case was.IsZero():
		l.log.Info("identity recorded: from now on the relay refuses another database, publication or table", attrs...)
	case was.Database == have.Database && was.Table == have.Table:
		l.log.Info("identity recorded: the table or the database was made anew under its name", attrs...)
		if was.DatabaseOID == have.DatabaseOID {
			return l.noteNewTable(ctx, have.Table)
		}
	default:
		l.log.Info("identity recorded: the table or the database has another name", append(attrs, "was", was.Database+" "+was.Table)...)
	}
	return nil
}

// noteNewTable tells that the outbox was dropped and made again. What had committed before is still in the WAL; rows that only
// the table had are gone.
func (l *leader) noteNewTable(ctx context.Context, table string) error {
	detail := fmt.Sprintf("table %s was dropped and made again: rows of the old one that had come neither through the stream nor on record are lost, "+
		"and none of it can be replayed", table)
	l.log.Error(detail)
	id, err := progress.NoteIncident(ctx, l.d.pool, l.state.Slot, "publication", detail)
	if err != nil {
		return err
	}
	return progress.EndIncident(ctx, l.d.pool, id, 0, 0)
}

// noteFailover tells that the slot came along to a server that was promoted.
func (l *leader) noteFailover(ctx context.Context, found progress.State) error {
	detail := fmt.Sprintf("the server was promoted from timeline %d to %d, and the slot came along: the stream goes on at %s, and the "+
		"first audit tells whether it shows everything", found.Timeline, l.state.Timeline, l.state.Position.End)
	l.log.Warn(detail)
	id, err := progress.NoteIncident(ctx, l.d.pool, l.state.Slot, "failover", detail)
	if err != nil {
		return err
	}
	return progress.EndIncident(ctx, l.d.pool, id, 0, 0)
}

// lookAtOutbox tells the intake which table the outbox is, and warns of a publication that brings others.
func (l *leader) lookAtOutbox(ctx context.Context) error {
	cfg := l.d.cfg()
	l.intake.table = cfg.Outbox.Table
	var all bool
	err := l.d.pool.QueryRow(ctx, `SELECT coalesce(to_regclass($1)::oid, 0),
		EXISTS (SELECT FROM pg_publication WHERE pubname = $2 AND puballtables)`, cfg.Outbox.Identifier().Sanitize(), cfg.CDC.Publication).Scan(&l.intake.outbox, &all)
	if err != nil {
		return fmt.Errorf("look at the outbox: %w", err)
	}
	if all {
		l.log.Warn("the publication publishes all tables: PostgreSQL sends every row of them, and the relay passes over what is not of the outbox; "+
			"make one for the outbox alone", "publication", cfg.CDC.Publication)
	}
	return nil
}

// configure takes in what a reload has changed.
func (l *leader) configure() error {
	mapper, err := l.d.newMapper()
	if err != nil {
		return err
	}
	l.settings = l.d.cfg()
	l.dir.Recheck()
	l.dispatcher.Configure(dispatchOptions(l.settings), l.d.sink())
	l.intake.next.Store(mapper)
	return nil
}

// newMapper returns a mapper of the catalog and the settings that the relay runs under. What stands in the files by now waits
// for a reload, which checks it. Each goroutine needs a mapper of its own.
func (d *Daemon) newMapper() (*outbox.Mapper, error) {
	return outbox.NewMapper(mappingOptions(d.cfg()), d.catalog.Load())
}

// run leads until the term ends, in stages: intake and the stream stop first,
// the Recorder last.
func (l *leader) run(ctx context.Context, stream *cdc.Stream) error {
	// What writes lives until the Recorder has written the last batch.
	inner, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	var back errgroup.Group
	broken := make(chan error, 1)
	fail := func(err error) {
		if overtaken(err) {
			abort(err)
			return
		}
		select {
		case broken <- err:
		default: // one is enough
		}
	}
	own := func(name string, f func(context.Context) error) {
		back.Go(func() error {
			if err := f(inner); err != nil && inner.Err() == nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
			return nil
		})
	}
	recorded := make(chan error, 1)
	back.Go(func() error {
		err := l.recorder.Run(inner)
		if err != nil {
			abort(err)
		}
		recorded <- err
		return nil
	})
	own("hand over", l.dispatcher.Run)
	own("load parked deliveries", func(ctx context.Context) error { return l.dispatcher.RunLoader(ctx, l.d.pool, l.loaded) })
	own("listen", l.listen)
	own("replay", l.replayer.run)
	own("watch", l.watch)
	own("audit", l.audit)
	own("fence", l.fence)

	taking, stopTaking := context.WithCancel(inner)
	defer stopTaking()
	taken := make(chan struct{})
	back.Go(func() error {
		defer close(taken)
		err := l.takeIn(taking)
		if err != nil && taking.Err() == nil {
			fail(fmt.Errorf("take in the stream: %w", err))
		}
		return nil
	})
	streaming, stopStream := context.WithCancel(inner)
	defer stopStream()
	streamed := make(chan struct{})
	back.Go(func() error {
		defer close(streamed)
		if err := l.keepStreaming(streaming, stream); err != nil && streaming.Err() == nil {
			fail(err)
		}
		return nil
	})

	var hole error
	select {
	case <-inner.Done():
		// Superseded, or something that cannot be mended in place: nothing of
		// this memory may be sent or written any more.
		l.dispatcher.Abort()
	case <-ctx.Done():
		l.d.board.Enter(health.Draining)
		l.wind(inner, l.d.cfg().Deliver.DrainTimeout, stopTaking, taken, recorded)
	case hole = <-broken:
		// The stream cannot go on, but what it brought is ours: it is recorded, so
		// that nothing of it is read from the table again. Others wait meanwhile.
		c := l.d.cfg().Deliver
		l.wind(inner, min(c.DrainTimeout, c.HandoverAfter+time.Second), stopTaking, taken, recorded)
	}
	cause := context.Cause(inner)
	if cause == nil {
		cause = hole
	}
	stopStream()
	<-streamed
	if s := l.stream.Swap(nil); s != nil {
		grace := time.Duration(0)
		if cause == nil {
			grace = 2 * time.Second
		}
		if err := s.Close(grace); err != nil {
			l.log.Warn("last confirmation may not have reached the server", "error", err)
		}
	}
	abort(nil)
	_ = back.Wait()
	l.dir.Close()
	if cause != nil {
		return cause
	}
	return ctx.Err()
}

// wind ends intake, delivery and recording, in this order.
func (l *leader) wind(ctx context.Context, limit time.Duration, stopTaking func(), taken <-chan struct{}, recorded <-chan error) {
	stopTaking()
	<-taken
	drain, cancel := context.WithTimeout(ctx, limit)
	l.dispatcher.Drain(drain)
	cancel()
	l.recorder.Stop()
	if err := l.awaitRecorder(recorded); err != nil {
		l.log.Error("last outcomes could not be recorded; they will be sent again", "error", err)
	}
}

// overtaken tells whether an error means that this leader's memory is worth nothing
// any more.
func overtaken(err error) bool {
	return errors.Is(err, deliver.ErrSuperseded) || errors.Is(err, progress.ErrWrongServer) || errors.Is(err, progress.ErrNone) ||
		errors.Is(err, errDiverged)
}

// awaitRecorder gives the last batch some time: the database may be away.
func (l *leader) awaitRecorder(done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		return errors.New("the database did not take them within 10s")
	}
}

// takeIn reads rows from before the slot, if that is still to be done, and then
// the stream.
func (l *leader) takeIn(ctx context.Context) error {
	if l.state.Backfill != "" {
		if err := l.backfill(ctx); err != nil {
			return err
		}
		l.backfilling.Store(false)
	}
	return l.intake.run(ctx)
}

// awaitVisible returns when a transaction that came through the stream is seen by
// queries. It is in the WAL first; its lock on its own id goes when it is seen.
func (l *leader) awaitVisible(ctx context.Context, xid uint32) error {
	const q = `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock'
                 AND transactionid = $1::text::xid)`
	for {
		var running bool
		wait := 2 * time.Millisecond
		err := l.d.pool.QueryRow(ctx, q, strconv.FormatUint(uint64(xid), 10)).Scan(&running)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			l.trouble(health.PartRouting, fmt.Errorf("wait for transaction %d: %w", xid, err))
			wait = 200 * time.Millisecond
		case !running:
			l.works(health.PartRouting)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// refresh reads a subscription again, until the database answers.
func (l *leader) refresh(ctx context.Context, id uuid.UUID) error {
	for {
		changed, removed, err := l.dir.Refresh(ctx, l.d.pool, id)
		if err == nil {
			l.works(health.PartRouting)
			if changed != nil {
				l.dispatcher.Changed(changed)
			}
			if removed != nil {
				l.dispatcher.Removed(removed)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.trouble(health.PartRouting, err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
