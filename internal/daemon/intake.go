package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/faultpoint"
	"github.com/outbox-relay/relay/internal/outbox"
)

// subscriptionPrefix marks the messages that relay.subscriptions' trigger puts
// into the WAL.
const subscriptionPrefix = "relay.subscription"

// markerPrefix marks the messages of the audit.
const markerPrefix = "relay.marker"

// errDiverged is returned when the stream does not go on where it broke.
var errDiverged = errors.New("the stream does not go on where it broke")

// intake turns what the stream brings into flights. One goroutine runs it.
type intake struct {
	mapper     *outbox.Mapper
	dir        *deliver.Directory
	dispatcher *deliver.Dispatcher
	recorder   *deliver.Recorder
	watermark  *cdc.Watermark
	journal    *audit.Journal
	settled    *deliver.Settled
	metrics    *deliver.Metrics
	log        *slog.Logger
	refresh    func(ctx context.Context, id uuid.UUID) error
	visible    func(ctx context.Context, xid uint32) error // waits until queries see the transaction
	suits      func(ctx context.Context) error             // waits until rows of the outbox can become events

	next atomic.Pointer[outbox.Mapper] // to be used from the next row on, after a reload

	feed atomic.Pointer[feed] // of the connection that there is
	turn sync.Mutex           // held while a batch is taken in

	start  cdc.Position // what was recorded when this leader began
	table  string       // the outbox, as schema.table
	outbox uint32       // its OID, whatever it is called by now

	shown    *cdc.Relation // of the latest row
	relation *cdc.Relation // the same under the name of the outbox; nil when it is another table

	commit  cdc.LSN   // of the open transaction
	at      time.Time // its commit time
	index   int       // of the next row
	resumed int       // rows of it that came in before the connection broke
	passed  bool      // it was recorded by an earlier leader
	xid     uint32    // its id; 0 once queries are known to see it
	writer  uint32    // its id
	other   bool      // its row at hand names another transaction
	moved   movedRows
	share   *outbox.Share // of rows that go into quarantine; nil where nobody counts
}

// feed brings what one connection reads.
type feed struct {
	batches chan []cdc.Item
	over    chan struct{} // closed when another connection has taken its place
}

// renew gives the intake the feed of a new connection. When it returns, what the old
// one brought has been taken in as a whole batch or will never be: the watermark says
// where the new one has to begin.
func (in *intake) renew() {
	in.turn.Lock()
	defer in.turn.Unlock()
	old := in.feed.Swap(&feed{batches: make(chan []cdc.Item, 4), over: make(chan struct{})})
	if old != nil {
		close(old.over)
	}
}

// run takes batches until ctx ends.
func (in *intake) run(ctx context.Context) error {
	for {
		f := in.feed.Load()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.over:
		case batch := <-f.batches:
			if err := in.takeBatch(ctx, f, batch); err != nil {
				return err
			}
		}
	}
}

func (in *intake) takeBatch(ctx context.Context, f *feed, batch []cdc.Item) error {
	in.turn.Lock()
	defer in.turn.Unlock()
	if in.feed.Load() != f {
		return nil
	}
	for i := range batch {
		if err := in.take(ctx, &batch[i]); err != nil {
			return err
		}
	}
	return nil
}

func (in *intake) take(ctx context.Context, it *cdc.Item) error {
	switch it.Kind {
	case cdc.ItemBegin:
		return in.begin(it)
	case cdc.ItemRow:
		return in.row(ctx, it)
	case cdc.ItemMessage:
		return in.message(ctx, it)
	case cdc.ItemCommit:
		if in.passed {
			return nil
		}
		if err := in.watermark.Commit(it.EndLSN, in.journal.Commit(it.CommitLSN)); err != nil {
			return err
		}
		in.recorder.Nudge()
	case cdc.ItemKeepalive:
		in.watermark.Keepalive(it.EndLSN)
		in.recorder.Nudge()
	}
	return nil
}

func (in *intake) begin(it *cdc.Item) error {
	in.commit, in.at, in.index, in.resumed, in.xid, in.writer = it.CommitLSN, it.CommitTime, 0, 0, it.XID, it.XID
	// The start position was read before the slot was ours; the leader before us
	// may have gone on in between.
	in.passed = it.CommitLSN < in.start.End
	if in.passed {
		return nil
	}
	if open, rows, ok := in.watermark.Open(); ok {
		if open != it.CommitLSN {
			return fmt.Errorf("%w: it broke in transaction %s and begins with %s", errDiverged, open, it.CommitLSN)
		}
		in.resumed = rows
		return nil
	}
	return in.watermark.Begin(it.CommitLSN)
}

func (in *intake) row(ctx context.Context, it *cdc.Item) error {
	index := in.index
	in.index++
	if in.passed || index < in.resumed {
		return nil
	}
	if faultpoint.Planted(faultpoint.RowOverlooked) && everyNth(500) {
		return nil
	}
	if it.Row.Relation != in.shown {
		if err := in.learn(ctx, it.Row.Relation); err != nil {
			return err
		}
	}
	foreign, again := in.relation == nil, false
	if !foreign {
		it.Row.Relation = in.relation
		in.other, again = in.journal.Row(it.Row, in.writer)
	}
	ticket, err := in.watermark.Row()
	if err != nil {
		return err
	}
	done := settle{in.watermark, ticket}
	if foreign {
		in.metrics.Foreign()
		done.Done()
		return nil
	}
	if in.start.Covers(in.commit, index) {
		done.Done()
		return nil
	}
	if again {
		in.passMoved(done)
		return nil
	}
	return in.admit(ctx, it.Row, nil, place{commit: uint64(in.commit), index: index, at: in.at}, done)
}

// learn finds out whether a relation that the stream shows is the outbox, by its oid or by its name: a table that was renamed stays
// the outbox, and one that has taken its name is it. Rows of others are passed over. A publication of all tables
// brings them, the relay's own among them: one of those that went into quarantine would bring another.
//
// A relation comes anew when the table has changed. If the table of now cannot be mapped, its rows wait: they would go into
// quarantine one and all. If only the rows from before it was mended cannot, those do, and are read again from the table later.
func (in *intake) learn(ctx context.Context, r *cdc.Relation) error {
	in.shown, in.relation = nil, nil
	switch name := r.Schema + "." + r.Name; {
	case name == in.table:
		in.relation = r
	case r.ID == in.outbox:
		in.log.Info("the outbox has another name where the stream stands", "table", name, "outbox.table", in.table)
		as := *r
		as.Schema, as.Name, _ = strings.Cut(in.table, ".")
		in.relation = &as
	}
	if in.relation != nil {
		if err := in.suits(ctx); err != nil {
			return err
		}
	}
	in.shown = r
	return nil
}

// place is where an event stands in the stream. Rows that are read from the
// table have no commit time; their creation stands for it.
type place struct {
	commit uint64
	index  int
	at     time.Time
	// behind is how many places an event stands behind index, because they are taken. A row that
	// becomes no event keeps index: it may have been read before, and is the same in quarantine.
	behind int
}

// settle is a Ticket that knows its watermark.
type settle struct {
	w *cdc.Watermark
	t cdc.Ticket
}

func (s settle) Done() { s.w.Done(s.t) }

// admit maps a row and sends the event on its way, except to the subscriptions of known,
// whose deliveries are on record.
func (in *intake) admit(ctx context.Context, row cdc.Row, known []string, at place, ticket deliver.Ticket) error {
	event, err := in.interpret(ctx, row, at, ticket)
	if event == nil {
		return err
	}
	eps := in.dir.Route(event.TenantID, event.Type, event.Payload)
	if faultpoint.Planted(faultpoint.OtherTenant) && everyNth(50) {
		eps = in.dir.All()
	}
	in.metrics.Event(len(eps) > 0)
	if len(known) > 0 {
		eps = slices.DeleteFunc(slices.Clone(eps), func(ep *deliver.Endpoint) bool {
			return slices.Contains(known, ep.Subscription().ID.String())
		})
	}
	if len(eps) == 0 {
		ticket.Done()
		return nil
	}
	return in.dispatcher.Admit(ctx, flight(event, at, ticket), eps)
}

// admitLate parks the event of a row that did not come through the stream, and tells
// whether anybody wants it who has not got it: a transaction that was not wholly
// recorded when its leader died may have been delivered in part.
func (in *intake) admitLate(ctx context.Context, row cdc.Row, at place) (wanted bool, err error) {
	event, err := in.interpret(ctx, row, at, nil)
	if event == nil {
		return false, err
	}
	eps := in.settled.Unsettled(event.ID, in.dir.Route(event.TenantID, event.Type, event.Payload))
	in.metrics.Event(len(eps) > 0)
	return len(eps) > 0, in.dispatcher.Park(ctx, flight(event, at, nil), eps)
}

// interpret maps a row; nil when nothing is to be sent. A row that is no event
// goes into quarantine and stops nothing. ticket may be nil.
func (in *intake) interpret(ctx context.Context, row cdc.Row, at place, ticket deliver.Ticket) (*outbox.Event, error) {
	event, err := in.mapRow(row)
	var rejection *outbox.Rejection
	if in.other && ticket != nil {
		id, tenant := event.ID, event.TenantID
		if errors.As(err, &rejection) {
			id, tenant = uuid.Nil, rejection.TenantID
			_ = id.UnmarshalText([]byte(rejection.EventID)) // without one nothing is known
		}
		known, err := in.moved.known(ctx, id, tenant, cdc.LSN(at.commit))
		if err != nil {
			return nil, err
		}
		if known {
			in.passMoved(ticket)
			return nil, nil
		}
		in.noteUnproven()
	}
	if in.share != nil {
		why := outbox.Reason("")
		if errors.As(err, &rejection) {
			why = rejection.Reason
		}
		in.share.Note(time.Now(), why)
	}
	switch {
	case errors.Is(err, outbox.ErrSuppressed):
		in.metrics.Suppressed(event.Type)
		if ticket != nil {
			ticket.Done()
		}
		return nil, nil
	case errors.As(err, &rejection):
		if at.at.IsZero() {
			at.at = time.Now()
		}
		in.metrics.Quarantined(string(rejection.Reason))
		in.log.Warn("row quarantined", "reason", string(rejection.Reason), "detail", rejection.Detail,
			"event_id", rejection.EventID, "commit_lsn", cdc.LSN(at.commit).String())
		in.recorder.Quarantine(&deliver.QuarantineEntry{CommitLSN: at.commit, Index: at.index, CommitTime: at.at,
			Reason: string(rejection.Reason), Detail: rejection.Detail, EventID: rejection.EventID,
			TenantID: rejection.TenantID, EventType: rejection.EventType, Raw: outbox.EncodeRow(row), Ticket: ticket})
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("map row %d of transaction %s: %w", at.index, cdc.LSN(at.commit), err)
	}
	return &event, nil
}

// mapRow keeps a fault in the mapping of one row from taking the relay down.
func (in *intake) mapRow(row cdc.Row) (event outbox.Event, err error) {
	defer func() {
		if p := recover(); p != nil {
			in.log.Error("panic while mapping a row", "panic", p)
			err = &outbox.Rejection{Reason: outbox.ReasonInvalidPayload, Detail: "the relay could not map this row (a defect: see its log)"}
		}
	}()
	if next := in.next.Swap(nil); next != nil {
		in.mapper = next
	}
	return in.mapper.Map(row)
}

func flight(e *outbox.Event, at place, ticket deliver.Ticket) *deliver.Flight {
	switch {
	case e.CreatedAt.IsZero():
		e.CreatedAt = at.at
	case at.at.IsZero():
		at.at = e.CreatedAt
	}
	return &deliver.Flight{EventID: e.ID, TenantID: e.TenantID, Type: e.Type, AggregateType: e.AggregateType,
		AggregateID: e.AggregateID, Key: e.Key(), CommitLSN: at.commit, Index: at.index + at.behind, CommitTime: at.at, XID: e.XID,
		Body: e.Body(), Ticket: ticket}
}

// message loads a subscription that was changed before anything that was
// committed after it is matched.
func (in *intake) message(ctx context.Context, it *cdc.Item) error {
	switch it.Prefix {
	case markerPrefix:
		if !in.passed {
			in.journal.Marker(string(it.Content), in.commit)
		}
		return nil
	case subscriptionPrefix:
	default:
		return nil
	}
	id, err := uuid.Parse(strings.TrimSpace(string(it.Content)))
	if err != nil {
		in.log.Warn("message with a prefix of ours and foreign content", "prefix", it.Prefix)
		return nil
	}
	// The stream brings a transaction a moment before queries see it.
	if in.xid != 0 {
		if err := in.visible(ctx, in.xid); err != nil {
			return err
		}
		in.xid = 0
	}
	return in.refresh(ctx, id)
}
