package daemon

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/progress"
)

const (
	// idleMarkers is how much seldomer markers are emitted while the outbox is idle.
	idleMarkers = 12
	// markerPatience is how long a marker may take through the stream. One that was
	// skipped, because somebody has moved the slot, never comes.
	markerPatience = time.Minute
	// namedRows is how many missing rows the log names.
	namedRows = 20
)

// errGivenUp ends a comparison that never came through.
var errGivenUp = errors.New("given up")

// setUpAudit loads what is on record since the last marker. When rows are to be read
// from the table it says which need not be.
func (l *leader) setUpAudit(ctx context.Context) error {
	l.backfilling.Store(l.state.Backfill != "")
	recorded, err := progress.Accounted(ctx, l.d.pool, l.state.Slot)
	if err != nil {
		return err
	}
	marker := cdc.Snapshot{}
	if l.state.Marker != "" {
		if marker, err = cdc.ParseSnapshot(l.state.Marker); err != nil {
			return err
		}
	}
	if l.rescue.incident, err = progress.OpenIncident(ctx, l.d.pool, l.state.Slot); err != nil {
		return err
	}
	if l.state.Backfill == "" {
		l.journal = audit.NewJournal(l.d.auditColumns(), marker, recorded)
	} else {
		l.journal = audit.NewJournal(l.d.auditColumns(), cdc.Snapshot{}, nil)
		l.rescue.recorded = recorded
	}
	if n := l.d.opts.AuditKeeps; n > 0 {
		l.journal.Keep(n)
	}
	return nil
}

// audit emits markers and compares the table with what came before them through the
// stream, until ctx ends.
func (l *leader) audit(ctx context.Context) error {
	l.auditedAt.Store(time.Now().UnixNano())
	var last time.Time // the first at once: it tells how much of a backlog need not be kept
	for {
		if err := pause(ctx, min(l.d.cfg().CDC.MarkerInterval/4, 250*time.Millisecond)); err != nil {
			return err
		}
		if l.backfilling.Load() {
			continue
		}
		if !l.auditOff.Load() && l.journal.Blind() {
			l.auditOff.Store(true)
			l.recorder.KeepSettled(false)
			l.log.Warn("no audit and no rescue: the rows have no transaction id that can be read", "column", l.d.auditColumns().XID)
		}
		every := l.d.cfg().CDC.MarkerInterval
		quiet := l.journal.Rows() == 0 && !l.journal.Baseline().IsZero()
		since := time.Since(last)
		switch {
		case l.auditOff.Load():
			// Nothing is proved, so what is on record since the last marker is not trimmed: another leader,
			// or a rescue, may need it. That has an end too.
			if !l.journal.Overflowed() || since < every {
				continue
			}
		case l.journal.Rows() < audit.ManyRows && (since < every || quiet && since < idleMarkers*every):
			continue
		}
		if err := l.auditOnce(ctx); err != nil {
			return err
		}
		if l.fails(health.PartMarkers) { // soon again, however idle: until it works the relay is not ready
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
			continue
		}
		last = time.Now()
	}
}

// auditOnce sends one marker through the stream and proves what came before it.
func (l *leader) auditOnce(ctx context.Context) error {
	number := uuid.NewString()
	came := l.journal.Expect(number)
	var position, text string
	var own int64
	err := l.d.pool.QueryRow(ctx, "SELECT pg_logical_emit_message(true, $1, $2)::text, pg_current_snapshot()::text, pg_current_xact_id()::text::bigint",
		markerPrefix, number).Scan(&position, &text, &own)
	if err != nil {
		if ctx.Err() == nil {
			l.trouble(health.PartMarkers, fmt.Errorf("emit marker: %w", err))
		}
		return ctx.Err()
	}
	l.works(health.PartMarkers)
	snapshot, err := cdc.ParseSnapshot(text)
	if err != nil {
		return err
	}
	emitted, err := parseLSN(position)
	if err != nil {
		return err
	}
	l.journal.Emitted(uint64(own), snapshot) // #nosec G115 -- not negative
	if there, err := l.awaitMarker(ctx, came, emitted); !there {
		return err
	}
	window, leftOver := l.journal.Cut(snapshot)
	l.log.Debug("marker came", "lsn", window.LSN.String(), "from", window.From.String(), "to", window.To.String(), "left_over", len(leftOver))
	for l.recordedEnd() <= window.LSN {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	batch := l.recorder.Written()
	if window.Unknown > 0 {
		l.log.Warn("rows carry transaction ids that this server has not given out: they were restored, or the writer made the ids up; "+
			"they are delivered, and too many to be audited", "transactions", window.Unknown)
	}
	switch {
	case window.Forgotten && l.auditOff.Load():
		err = l.forgotten(ctx, window)
	case window.Forgotten:
		err = l.compareRecorded(ctx, window)
	case !window.From.IsZero(): // else no marker is known yet, and this is the first
		err = l.compare(ctx, window)
	}
	if errors.Is(err, errGivenUp) {
		return nil // the marker before it stands
	}
	if err != nil {
		return err
	}
	err = l.persist(ctx, func() error {
		return progress.Mark(ctx, l.d.pool, l.state, batch, snapshot, window.LSN, leftOver)
	})
	if err != nil {
		return err
	}
	if l.audited.Swap(uint64(window.LSN)) == 0 {
		// Whatever an earlier leader recorded is either proved, or the stream has it.
		l.settled.ForgetAnywhere()
		l.recorder.KeepSettled(false)
	}
	if !l.auditOff.Load() {
		l.auditedAt.Store(time.Now().UnixNano())
	}
	return nil
}

// awaitMarker waits until a marker has come, however long the backlog before it is;
// false when the stream has passed it over.
func (l *leader) awaitMarker(ctx context.Context, came <-chan struct{}, emitted cdc.LSN) (bool, error) {
	for {
		patience := time.NewTimer(markerPatience)
		select {
		case <-ctx.Done():
			patience.Stop()
			return false, ctx.Err()
		case <-came:
			patience.Stop()
			return true, nil
		case <-patience.C:
		}
		if l.watermark.Arrived() > emitted {
			l.log.Warn("a marker did not come through the stream; the next one will tell what is missing", "emitted_at", emitted.String())
			return false, nil
		}
	}
}

// forgotten tells that rows came which are not compared with the table.
func (l *leader) forgotten(ctx context.Context, w audit.Window) error {
	const detail = "more came between two markers than is kept, and it could not be compared with the table; `relay audit` compares the table with the deliveries"
	l.log.Error(detail, "up_to", w.LSN.String())
	return l.persist(ctx, func() error {
		id, err := progress.NoteIncident(ctx, l.d.pool, l.state.Slot, "audit", detail)
		if err != nil {
			return err
		}
		return progress.EndIncident(ctx, l.d.pool, id, 0, 0)
	})
}

// compare compares a window with the table, and delivers what is missing.
func (l *leader) compare(ctx context.Context, w audit.Window) error {
	var res audit.Result
	err := l.persist(ctx, func() (err error) {
		if l.journal.Overflowed() {
			return errGivenUp
		}
		res, err = l.d.auditTable().Compare(ctx, l.d.pool, l.state.Slot, w)
		return err
	})
	if errors.Is(err, errGivenUp) {
		l.log.Warn("the audit could not read the table for so long that it does not remember all that came meanwhile; it goes on with what is on record")
	}
	if err != nil {
		return err
	}
	return l.judge(ctx, w, res)
}

// compareRecorded compares with the table what is on record since the last marker, because
// more came than is kept in memory: a relay that was away for long begins with that.
func (l *leader) compareRecorded(ctx context.Context, w audit.Window) error {
	var res audit.Result
	err := l.persist(ctx, func() error {
		if l.journal.Overflowed() { // once more, while the table could not be read
			return errGivenUp
		}
		state, err := progress.Load(ctx, l.d.pool, l.state.Slot)
		if err != nil {
			return err
		}
		if state.Marker == "" {
			return errGivenUp
		}
		if w.From, err = cdc.ParseSnapshot(state.Marker); err != nil {
			return err
		}
		res, err = l.d.auditTable().CompareRecorded(ctx, l.d.pool, l.state.Slot, w.From, w.To)
		return err
	})
	if errors.Is(err, errGivenUp) {
		return l.forgotten(ctx, w)
	}
	if err != nil {
		return err
	}
	l.log.Info("more came between two markers than is kept in memory; what is on record was compared with the table", "rows", res.Rows)
	return l.judge(ctx, w, res)
}

// judge delivers what a comparison has found to be missing.
func (l *leader) judge(ctx context.Context, w audit.Window, res audit.Result) error {
	l.d.auditMetrics.rows.Add(float64(res.Rows))
	if res.Vanished > 0 {
		l.d.auditMetrics.vanished.Add(float64(res.Vanished))
		l.log.Warn("rows that came through the stream are gone from the table", "rows", res.Vanished)
	}
	if len(res.Missing) == 0 {
		return nil
	}
	found := late{gaps: make(map[uint64]audit.Gap, len(res.Missing)), tallies: make(map[uint64]*cdc.Tally), parked: make(map[uuid.UUID]bool)}
	for _, g := range res.Missing {
		found.gaps[g.XID] = g
	}
	if err := l.awaitSource(ctx); err != nil {
		return err
	}
	if err := l.persist(ctx, func() error { return l.deliverLate(ctx, w, &found) }); err != nil {
		return err
	}
	if found.rows == 0 { // they were known to have come, and others of their transaction are gone
		return nil
	}
	l.d.auditMetrics.missing.Add(float64(found.rows))
	detail := fmt.Sprintf("%d committed rows did not come through the stream (of the slot or the publication somebody had changed something); "+
		"they are delivered from the table", found.rows)
	l.log.Error(detail, "rows", found.rows, "sent", found.sent, "ids", found.named)
	return l.persist(ctx, func() error {
		id, err := progress.NoteIncident(ctx, l.d.pool, l.state.Slot, "audit", detail)
		if err != nil {
			return err
		}
		return progress.EndIncident(ctx, l.d.pool, id, found.rows, found.sent)
	})
}

// late is what deliverLate has found so far.
type late struct {
	gaps    map[uint64]audit.Gap
	tallies map[uint64]*cdc.Tally
	parked  map[uuid.UUID]bool // given to the dispatcher, by this try or an earlier one
	rows    int
	sent    int // of them, those that somebody wants
	named   []string
}

// deliverLate parks rows of the table that did not come through the stream. They
// stand in their lanes where the marker was that missed them. A second try leaves out
// what the first has parked.
func (l *leader) deliverLate(ctx context.Context, w audit.Window, found *late) error {
	conn, err := l.d.direct(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	mapper, err := l.d.newMapper()
	if err != nil {
		return err
	}
	in := &intake{mapper: mapper, dir: l.dir, dispatcher: l.dispatcher, recorder: l.recorder, settled: l.settled, metrics: l.d.metrics, log: l.log}
	reader := audit.NewRowReader(l.d.auditColumns())
	xids := make([]string, 0, len(found.gaps))
	for xid := range found.gaps {
		xids = append(xids, strconv.FormatUint(xid, 10))
	}
	where := l.d.auditTable().Among()
	err = l.d.tableRows(ctx, conn, outbox.TableQuery{Where: where, Args: []any{w.To.String(), w.From.String(), xids}}, func(row cdc.Row, _ []byte) error {
		id, xid, ok := reader.Read(row)
		if !ok || found.gaps[xid].Came(id) || found.parked[id] {
			return nil
		}
		wanted, err := in.admitLate(ctx, row, place{commit: uint64(w.LSN), index: firstBackfillIndex + found.rows})
		if err != nil {
			return err
		}
		found.add(w.LSN, id, xid, wanted)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read missing rows: %w", err)
	}
	list := make([]cdc.Tally, 0, len(found.tallies))
	for _, t := range found.tallies {
		list = append(list, *t)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.dispatcher.Account(cdc.AppendTallies(nil, list)):
		return nil
	}
}

func (f *late) add(at cdc.LSN, id uuid.UUID, xid uint64, wanted bool) {
	t := f.tallies[xid]
	if t == nil {
		t = &cdc.Tally{Commit: at, XID: xid}
		f.tallies[xid] = t
	}
	t.Rows++
	t.Sum += cdc.Fingerprint(id)
	f.parked[id] = true
	f.rows++
	if wanted {
		f.sent++
	}
	if len(f.named) < namedRows {
		f.named = append(f.named, id.String())
	}
}
