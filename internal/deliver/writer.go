package deliver

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// writer turns a batch of ops into statements: one a kind, with an array a
// column, in an order in which each sees what it needs.
type writer struct {
	opts        *RecorderOptions
	batch       *pgx.Batch
	freesBodies bool
}

func lsnText(v uint64) string {
	b := strconv.AppendUint(make([]byte, 0, 17), v>>32, 16)
	b = append(b, '/')
	return string(strconv.AppendUint(b, v&0xffffffff, 16))
}

// rowKey is the primary key of relay.parked, column by column.
type rowKey struct {
	sub  [][16]byte
	lane []int64
	lsn  []string
	idx  []int32
}

func (k *rowKey) add(o *op) {
	k.sub = append(k.sub, o.ep.id)
	k.lane = append(k.lane, int64(o.lane)) // #nosec G115 -- the table stores the bits
	k.lsn = append(k.lsn, lsnText(o.d.flight.CommitLSN))
	k.idx = append(k.idx, int32(o.d.flight.Index)) // #nosec G115 -- a transaction has fewer rows
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (w *writer) queue(ops []op) {
	var park, ended, update, remove []*op
	latest := make(map[*Delivery]int) // place in update of a delivery's last one
	var promoted, cancelled []*op
	health := make(map[uuid.UUID]*op) // the last one of each
	for i := range ops {
		o := &ops[i]
		if o.referenced() {
			w.reference(o)
			continue
		}
		switch o.kind {
		case opPark:
			park = append(park, o)
		case opUpdate:
			if at, ok := latest[o.d]; ok {
				update[at] = o
			} else {
				latest[o.d] = len(update)
				update = append(update, o)
			}
		case opEnded:
			if o.status == StatusDead || w.opts.Log == LogAll ||
				(w.opts.Log == LogFailures && (o.attempts > 1 || o.status != StatusDelivered)) {
				ended = append(ended, o)
			}
			if o.deletes {
				remove = append(remove, o)
			}
		case opPromote:
			promoted = append(promoted, o)
		case opCancel:
			cancelled = append(cancelled, o)
		case opFailing, opHealthy:
			health[o.ep.id] = o
		}
	}
	w.bodies(park, ended)
	w.numbers(ops)
	late := park[:0:0]
	first := park[:0]
	for _, o := range park {
		if o.settles || o.replay != nil {
			first = append(first, o)
		} else {
			late = append(late, o)
		}
	}
	w.park(first)
	w.parkLate(late)
	w.update(update)
	w.ended(ended)
	w.remove(remove)
	w.health(health)
	w.others(ops)
	w.cancel(cancelled)
	w.replays(ops)
	w.promote(promoted)
}

// reference keeps a reference in place of an op that the database refuses, alone in its part. What is not about an
// event is dropped. Its row in relay.parked goes, and counts as absent.
func (w *writer) reference(o *op) {
	if !o.holdsEvent() {
		o.absent = o.kind == opRevive
		return
	}
	w.quarantine(o.reference())
	switch {
	case o.kind == opPark:
		o.absent = true
	case o.kind == opUpdate:
		o.absent = true
		w.remove([]*op{o})
	case o.deletes:
		w.remove([]*op{o})
	}
}

func (w *writer) quarantine(q *QuarantineEntry) {
	var only []string
	if q.Only != uuid.Nil {
		only = []string{q.Only.String()}
	}
	w.batch.Queue(sqlQuarantine, lsnText(q.CommitLSN), q.Index, q.CommitTime, q.Reason, q.Detail, q.EventID, q.TenantID, q.EventType,
		q.Raw, only, int64(q.Size), int64(q.XID)) // #nosec G115 -- the bits, as PostgreSQL casts it
}

// numbers puts the numbers of new deliveries on record.
func (w *writer) numbers(ops []op) {
	// By id, of which there may be two Endpoints, when a subscription was removed and is back: the later one goes on.
	touched := make(map[uuid.UUID]*Endpoint)
	for i := range ops {
		if n := ops[i].numbered(); n != 0 {
			ops[i].ep.numbers.add(n, ops[i].d.flight.CommitTime)
			touched[ops[i].ep.id] = ops[i].ep
		}
	}
	if len(touched) == 0 {
		return
	}
	var ids [][16]byte
	var whole []int64
	var ahead []string
	var latest []time.Time
	for _, id := range slices.SortedFunc(maps.Keys(touched), compareIDs) {
		n := &touched[id].numbers
		ids, whole, ahead = append(ids, id), append(whole, n.whole), append(ahead, n.multirange())
		latest = append(latest, n.latest)
	}
	w.batch.Queue(sqlSequences, ids, whole, ahead, latest)
}

// bodies keeps the bodies of what waits, once an event, and those of dead
// letters for as long as their records.
func (w *writer) bodies(park, ended []*op) {
	var (
		lsn, tenant, typ, aggType, aggID []string
		event                            [][16]byte
		committed                        []time.Time
		body                             [][]byte
		keep                             []*time.Time
	)
	type key struct {
		lsn   uint64
		event [16]byte
	}
	seen := make(map[key]int)
	add := func(o *op, until *time.Time) {
		f := o.d.flight
		k := key{f.CommitLSN, f.EventID}
		if at, ok := seen[k]; ok {
			if until != nil {
				keep[at] = until
			}
			return
		}
		seen[k] = len(lsn)
		lsn, event = append(lsn, lsnText(f.CommitLSN)), append(event, f.EventID)
		tenant, typ = append(tenant, f.TenantID), append(typ, f.Type)
		aggType, aggID = append(aggType, f.AggregateType), append(aggID, f.AggregateID)
		committed, body, keep = append(committed, f.CommitTime), append(body, f.Body), append(keep, until)
	}
	for _, o := range park {
		add(o, nil)
	}
	for _, o := range ended {
		if o.status == StatusDead && o.d.flight.Body != nil {
			until := o.at.Add(w.opts.LogRetention)
			add(o, &until)
		}
	}
	if len(lsn) > 0 {
		w.batch.Queue(sqlBodies, lsn, event, tenant, typ, aggType, aggID, committed, body, keep)
	}
}

// parkColumns are rows of relay.parked, column by column.
type parkColumns struct {
	rowKey
	event, id       [][16]byte
	attempts, st    []int32
	next, dead      []*time.Time
	errs, hist      []string
	created, parked []time.Time
	replay          []int64
	number, xid     []int64
	mark            []int64
}

func newParkColumns(ops []*op) *parkColumns {
	k := &parkColumns{}
	for _, o := range ops {
		k.add(o)
		k.event, k.id = append(k.event, o.d.flight.EventID), append(k.id, o.d.id)
		k.attempts, k.st = append(k.attempts, int32(o.attempts)), append(k.st, int32(o.httpStatus)) // #nosec G115 -- small
		k.next, k.dead = append(k.next, timeOrNil(o.next)), append(k.dead, timeOrNil(o.dead))
		k.errs, k.hist = append(k.errs, o.lastError), append(k.hist, string(o.history))
		k.created = append(k.created, o.d.flight.CommitTime)
		if !o.at.IsZero() { // of those that are late
			k.parked = append(k.parked, o.at)
		}
		k.replay = append(k.replay, o.d.flight.Replay)
		k.mark = append(k.mark, o.mark)
		k.number, k.xid = append(k.number, o.number), append(k.xid, int64(o.d.flight.XID)) // #nosec G115 -- the bits, as PostgreSQL casts it
	}
	return k
}

// park queues new rows.
func (w *writer) park(ops []*op) {
	if len(ops) == 0 || faultpoint.Planted(faultpoint.ForgetFailures) {
		return
	}
	k := newParkColumns(ops)
	w.batch.Queue(sqlPark, k.sub, k.lsn, k.idx, k.event, k.id, k.lane, k.attempts, k.next, k.errs, k.st, k.hist, k.created,
		k.dead, k.replay, k.number, k.xid, k.mark)
}

// parkLate queues new rows that did not come through the stream, and notes of which
// there was one already.
func (w *writer) parkLate(ops []*op) {
	if len(ops) == 0 || faultpoint.Planted(faultpoint.ForgetFailures) {
		return
	}
	k := newParkColumns(ops)
	w.batch.Queue(sqlParkLate, k.sub, k.lsn, k.idx, k.event, k.id, k.lane, k.attempts, k.next, k.errs, k.st, k.hist, k.created,
		k.dead, k.replay, k.parked, k.number, k.xid, k.mark).Query(func(rows pgx.Rows) error {
		type brought struct {
			id uuid.UUID
			at int64
		}
		there := make(map[brought]bool, len(ops))
		var id uuid.UUID
		var at time.Time
		if _, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error {
			there[brought{id, at.UnixMicro()}] = true
			return nil
		}); err != nil {
			return err
		}
		for _, o := range ops {
			o.absent = !there[brought{o.d.id, o.at.UnixMicro()}]
		}
		return nil
	})
}

func (w *writer) update(ops []*op) {
	if len(ops) == 0 {
		return
	}
	var (
		k            rowKey
		attempts, st []int32
		next, dead   []*time.Time
		errs, hist   []string
	)
	for _, o := range ops {
		k.add(o)
		dead = append(dead, timeOrNil(o.dead))
		attempts, st = append(attempts, int32(o.attempts)), append(st, int32(o.httpStatus)) // #nosec G115 -- small
		next = append(next, timeOrNil(o.next))
		errs, hist = append(errs, o.lastError), append(hist, string(o.history))
	}
	w.batch.Queue(sqlUpdate, k.sub, k.lane, k.lsn, k.idx, attempts, next, errs, st, hist, dead)
}

func (w *writer) remove(ops []*op) {
	if len(ops) == 0 {
		return
	}
	var k rowKey
	for _, o := range ops {
		k.add(o)
	}
	w.freesBodies = true
	w.batch.Queue(sqlDelete, k.sub, k.lane, k.lsn, k.idx)
}

func (w *writer) ended(ops []*op) {
	if len(ops) == 0 {
		return
	}
	n := len(ops)
	var (
		id, sub, event                             = make([][16]byte, n), make([][16]byte, n), make([][16]byte, n)
		created, ended                             = make([]time.Time, n), make([]time.Time, n)
		tenant, typ, aggType, aggID                = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		lsn, status, errs, hist                    = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		index, attempts, statusCode, durationMicro = make([]int32, n), make([]int32, n), make([]int32, n), make([]int32, n)
		replay, number, xid, mark                  = make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	)
	for i, o := range ops {
		f := o.d.flight
		id[i], sub[i], event[i], replay[i] = o.d.id, o.ep.id, f.EventID, f.Replay
		mark[i] = o.mark
		number[i], xid[i] = o.number, int64(f.XID) // #nosec G115 -- the bits, as PostgreSQL casts it
		created[i], ended[i] = f.CommitTime, o.at
		tenant[i], typ[i], aggType[i], aggID[i] = f.TenantID, f.Type, f.AggregateType, f.AggregateID
		lsn[i], status[i], errs[i], hist[i] = lsnText(f.CommitLSN), string(o.status), o.lastError, string(o.history)
		index[i], attempts[i] = int32(f.Index), int32(o.attempts)            // #nosec G115 -- small
		statusCode[i] = int32(o.httpStatus)                                  // #nosec G115 -- three digits
		durationMicro[i] = int32(min(o.took, 30*time.Minute).Microseconds()) // #nosec G115 -- half an hour
	}
	w.batch.Queue(sqlEnded, id, created, tenant, sub, event, typ, aggType, aggID, lsn, index, status, attempts,
		errs, statusCode, durationMicro, ended, hist, replay, number, xid, mark)
}

func (w *writer) health(last map[uuid.UUID]*op) {
	var failing, healthy [][16]byte
	var since []time.Time
	var warned, notBefore []*time.Time
	var open []bool
	for id, o := range last {
		if o.kind == opHealthy {
			healthy = append(healthy, id)
			continue
		}
		failing, since, warned = append(failing, id), append(since, o.at), append(warned, timeOrNil(o.warned))
		notBefore, open = append(notBefore, timeOrNil(o.dead)), append(open, o.open)
	}
	if len(failing) > 0 {
		w.batch.Queue(sqlFailing, failing, since, warned, notBefore, open)
	}
	if len(healthy) > 0 {
		w.batch.Queue(sqlHealthy, healthy)
	}
}

// others queues the rare ops one by one.
func (w *writer) others(ops []op) {
	for i := range ops {
		o := &ops[i]
		kind := o.kind
		if o.referenced() {
			kind = 0 // see reference; what it asks to forget is forgotten
		}
		switch kind {
		case opDisable:
			w.batch.Queue(sqlDisable, [16]byte(o.ep.id), o.text, o.sub.UpdatedAt, o.url)
		case opNote:
			w.batch.Queue(sqlNoteChange, [16]byte(o.ep.id), o.text, string(o.history))
		case opHurry:
			w.batch.Queue(sqlHurry, [16]byte(o.ep.id), o.next, hurryRows).QueryRow(moreThan(hurryRows, o))
		case opKick:
			w.batch.Queue(sqlKick, [16]byte(o.id), o.next)
		case opRevive:
			from, to := (interval{from: o.id, to: o.id}).times()
			w.batch.Queue(sqlRevive, [16]byte(o.id), int64(o.lane), o.next, from, to, o.at).QueryRow(func(row pgx.Row) error { // #nosec G115 -- bits
				var there bool
				err := row.Scan(&there)
				o.absent = !there
				return err
			})
		case opDiscard:
			w.freesBodies = true
			w.batch.Queue(sqlDiscard, [16]byte(o.id))
		case opLetGo:
			w.freesBodies = true
			w.batch.Queue(sqlLetGo, [16]byte(o.id), o.at.Add(w.opts.LogRetention))
		case opQuarantine:
			w.quarantine(o.quarantine)
		}
		if o.forget.request != 0 {
			w.batch.Queue("DELETE FROM relay.requests WHERE id = $1", o.forget.request)
		}
		if o.forget.quarantine != 0 {
			w.batch.Queue("DELETE FROM relay.quarantine WHERE id = $1", o.forget.quarantine)
		}
	}
}

func (w *writer) cancel(ops []*op) {
	if len(ops) == 0 {
		return
	}
	var ids [][16]byte
	for _, o := range ops {
		ids = append(ids, o.ep.id)
	}
	w.freesBodies = true
	w.batch.Queue(sqlCancel, ids, cancelRows).QueryRow(moreThan(cancelRows, ops...))
	w.batch.Queue(sqlHealthy, ids)
}

// moreThan reads how many rows a statement took that takes most at a time, and notes
// in its ops whether there may be more.
func moreThan(most int, ops ...*op) func(pgx.Row) error {
	return func(row pgx.Row) error {
		var n int
		if err := row.Scan(&n); err != nil {
			return err
		}
		for _, o := range ops {
			o.some, o.more = n > 0, n >= most
		}
		return nil
	}
}

func (w *writer) promote(ops []*op) {
	if len(ops) == 0 {
		return
	}
	var sub [][16]byte
	var lane []int64
	for _, o := range ops {
		sub, lane = append(sub, o.ep.id), append(lane, int64(o.lane)) // #nosec G115 -- bits
	}
	w.batch.Queue(sqlPromote, sub, lane, time.Now())
}
