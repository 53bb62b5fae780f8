package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// afterEach calls f after each batch that was committed.
type afterEach struct {
	Pool
	f func()
}

func (a *afterEach) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return afterResults{a.Pool.SendBatch(ctx, b), a.f}
}

type afterResults struct {
	pgx.BatchResults
	f func()
}

func (a afterResults) Close() error {
	err := a.BatchResults.Close()
	if err == nil {
		a.f()
	}
	return err
}

// neverCoversTheUnrecorded makes each commit check that the recorded position covers only events that are on record.
func (w *world) neverCoversTheUnrecorded() {
	w.db = &afterEach{Pool: w.pool, f: func() {
		var at Position
		var end, partial string
		if err := w.pool.QueryRow(context.Background(), "SELECT end_lsn::text, partial_lsn::text, partial_rows FROM relay.progress").
			Scan(&end, &partial, &at.Rows); err != nil {
			w.t.Error(err)
			return
		}
		at.End, at.Partial = mustLSN(w.t, end), mustLSN(w.t, partial)
		for _, e := range w.entries() {
			if !at.covers(e.tx.commit, e.index) {
				continue
			}
			if n := w.count(`SELECT (SELECT count(*) FROM relay.deliveries WHERE event_id = $1) + (SELECT count(*) FROM relay.parked WHERE event_id = $1) +
				(SELECT count(*) FROM relay.quarantine WHERE event_id = $1::text)`, e.f.EventID); n == 0 {
				w.t.Errorf("position %x covers event %s, which is not on record", at.End, e.f.AggregateID)
			}
		}
	}}
}

func TestRefused_SetsTheRecordAsideThatTheDatabaseRefusesAndGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.neverCoversTheUnrecorded()
	sub := w.subscribe("a.test")
	w.exec("ALTER TABLE relay.deliveries ADD CONSTRAINT no_bad CHECK (aggregate_id NOT LIKE 'bad%')")
	l := w.lead(func(_ *Options, ro *RecorderOptions) { ro.Interval = 300 * ms })
	keys := make([]string, 60)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%d", i)
	}
	keys[7], keys[30], keys[31], keys[59] = "bad1", "bad2", "bad3", "bad4"
	sent := l.send(keys...)
	l.quiet()
	w.inKeyOrder("a.test", sent...)
	if n := w.ended(StatusDelivered); n != 56 {
		t.Errorf("%d records, want 56", n)
	}
	row := w.text(`SELECT string_agg(concat_ws('|', reason, split_part(detail, ':', 1), substring(detail FROM 'SQLSTATE.*'), event_id, tenant_id, event_type, only_for, raw IS NULL, row_bytes), E'\n' ORDER BY id)
		FROM relay.quarantine`)
	var want []string
	for _, i := range []int{7, 30, 31, 59} {
		want = append(want, fmt.Sprintf("unrecorded|delivered; the database refuses the record|SQLSTATE 23514), constraint no_bad|%s|acme|payment.received|{%s}|t|%d",
			sent[i].f.EventID, sub, len(sent[i].f.Body)))
	}
	got := strings.Split(row, "\n") // in the order of their recording, and only that of one key is promised
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("in quarantine\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	if n := testutil.ToFloat64(l.metrics.quarantine.WithLabelValues(ReasonUnrecorded)); n != 4 {
		t.Errorf("%v counted, want 4", n)
	}
	if n := w.count("SELECT recorded FROM relay.sequences WHERE subscription_id = $1", sub); n != 60 {
		t.Errorf("numbers up to %d are on record, want 60", n)
	}
	if since, err := l.rec.Failing(); !since.IsZero() {
		t.Errorf("recording fails since %s: %v", since, err)
	}
}

// What cannot be parked has no row to wait in. Its lane goes on without it, and it is found in quarantine.
func TestRefused_LetsTheLaneGoOnWithoutADeliveryThatCannotBeParked(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func(bad *entry, hung chan struct{}) rule{
		"after a failure": func(bad *entry, _ chan struct{}) rule { return only(bad, failing) },
		// It is handed over while it is on the wire, and ends only when its row was refused.
		"on the wire, failing":  func(bad *entry, hung chan struct{}) rule { return only(bad, after(hung, errOutcome)) },
		"on the wire, arriving": func(bad *entry, hung chan struct{}) rule { return only(bad, hold(hung)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.neverCoversTheUnrecorded()
			w.subscribe("a.test")
			w.exec("ALTER TABLE relay.parked ADD CONSTRAINT no_bad CHECK (row_index <> 1)")
			l := w.lead()
			rows := w.commit("k1", "k2", "k3") // k2 has index 1
			hung := make(chan struct{})
			w.sink.on("a.test", fails(rows[1], hung))
			l.take(rows...)
			eventually(t, "it is in quarantine", func() bool {
				return w.count("SELECT count(*) FROM relay.quarantine WHERE event_id = $1 AND reason = 'unrecordable'", rows[1].f.EventID.String()) == 1
			})
			eventually(t, "it is taken in", l.rec.Idle)
			behind := l.send("k2", "k2")
			close(hung)
			w.arrivedAtAll("a.test", append([]*entry{rows[0], rows[2]}, behind...)...)
			eventually(t, "nothing waits", func() bool { return w.parked() == 0 && l.p.Parked() == 0 && l.rec.Idle() })
			l.quiet()
			last := l.send("k2")
			w.arrivedAtAll("a.test", last...)
			w.inKeyOrder("a.test", append(behind, last...)...)
			if n := l.p.Load(); n.InFlight != 0 || n.Window != 0 || n.Loaded != 0 {
				t.Errorf("left in memory: %+v", n)
			}
		})
	}
}

// A row that waits already goes to quarantine when its next state is refused, and what waits behind it goes on.
func TestRefused_LetsTheLaneGoOnWhenTheStateOfAParkedRowIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.exec("ALTER TABLE relay.parked ADD CONSTRAINT no_third CHECK (attempts < 2)")
	l := w.lead()
	sent := l.commit("k1")
	w.sink.on("a.test", only(sent[0], failing))
	l.take(sent...)
	behind := l.send("k1", "k1")
	w.arrivedAtAll("a.test", behind...)
	l.quiet()
	eventually(t, "nothing waits", func() bool { return w.parked() == 0 && l.p.Parked() == 0 })
	if n := w.count("SELECT count(*) FROM relay.quarantine WHERE event_id = $1 AND detail LIKE 'not delivered yet; %'", sent[0].f.EventID.String()); n != 1 {
		t.Errorf("%d in quarantine, want 1", n)
	}
}

// A history that is refused is dropped, and the delivery goes on.
func TestRefused_DropsOnlyTheHistoryWhenThatIsWhatIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.exec("ALTER TABLE relay.parked ADD CONSTRAINT no_history CHECK (history IS NULL)")
	w.exec("ALTER TABLE relay.deliveries ADD CONSTRAINT no_history CHECK (history IS NULL)")
	l := w.lead()
	w.sink.on("a.test", failFirst(2))
	sent := l.send("k1")
	w.arrived("a.test", sent...)
	eventually(t, "it is recorded", func() bool { return w.ended(StatusDelivered) == 1 && l.rec.Idle() })
	if n := w.count("SELECT attempts FROM relay.deliveries"); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
	if n := w.count("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d in quarantine, want none", n)
	}
}

// A row that could not become an event and cannot be kept whole is kept by reference.
func TestRefused_KeepsAReferenceOfARowThatCannotBeKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.exec("ALTER TABLE relay.quarantine ADD CONSTRAINT small CHECK (length(raw) < 10)")
	l := w.lead()
	l.rec.Quarantine(&QuarantineEntry{CommitLSN: 0x42, Index: 3, CommitTime: time.Now(), Reason: "unknown_type", Detail: "no such type",
		EventID: "e1", TenantID: testTenant, XID: 77, Raw: make([]byte, 100)})
	l.rec.Quarantine(&QuarantineEntry{CommitLSN: 0x42, Index: 4, CommitTime: time.Now(), Reason: "unknown_type", Detail: "no such type", Raw: []byte("{}")})
	eventually(t, "both are written", func() bool { return w.count("SELECT count(*) FROM relay.quarantine") == 2 })
	got := w.text("SELECT concat_ws('|', reason, detail, event_id, xid, raw IS NULL, row_bytes) FROM relay.quarantine WHERE row_index = 3")
	if want := `unknown_type|no such type; the database refuses the record: new row for relation "quarantine" violates check constraint "small" (SQLSTATE 23514), constraint small|e1|77|t|100`; got != want {
		t.Errorf("row\n got %s\nwant %s", got, want)
	}
}

// Two subscriptions' records of one event are one entry; another reason, or another event at the place, has its own.
func TestRefused_KeepsEachReference(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.subscribe("a.test"), w.subscribe("b.test")
	l := w.lead()
	entry := func(event string, reason string, only ...[16]byte) *QuarantineEntry {
		q := &QuarantineEntry{CommitLSN: 0x42, Index: 3, CommitTime: time.Now(), Reason: reason, EventID: event}
		if len(only) > 0 {
			q.Only = only[0]
		}
		return q
	}
	for _, q := range []*QuarantineEntry{entry("e1", "unrecordable", a), entry("e1", "unrecordable", b), entry("e1", "unrecordable", b),
		entry("e1", "unrecorded", a), entry("e2", "unrecordable", a)} {
		l.rec.Quarantine(q)
		eventually(t, "it is written", l.rec.Idle)
	}
	got := w.text(`SELECT string_agg(concat_ws('|', row_index, event_id, reason, cardinality(only_for)), ' ' ORDER BY id) FROM relay.quarantine`)
	if want := "3|e1|unrecordable|2 -1|e1|unrecorded|1 -2|e2|unrecordable|1"; got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
}

// failTry fails tries with an error for as long as one is set.
type failTry struct {
	Pool
	err   atomic.Pointer[error]
	tries atomic.Int64
}

func (f *failTry) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := f.err.Load(); err != nil {
		f.tries.Add(1)
		return refusedResults{err: *err}
	}
	return f.Pool.SendBatch(ctx, b)
}

type refusedResults struct {
	pgx.BatchResults
	err error
}

func (l refusedResults) Close() error { return l.err }

// What is wrong with the database, its rights or the way to it sets nothing aside, however often it comes.
func TestRefused_SetsNothingAsideForAFaultOfTheDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fail := &failTry{Pool: w.pool}
	w.db = fail
	w.subscribe("a.test")
	l := w.lead()
	for _, code := range []string{"42501", "42P01", "3F000", "25006", "40001", "40P01", "53100", "53200", "53300", "53400", "57P01", "57P03", "55P03",
		"08006", "08P01", "XX000", "XX001", "57014", "58030", ""} {
		err := error(&pgconn.PgError{Code: code, Message: "planted"})
		if code == "" {
			err = errors.New("the connection broke")
		}
		was := fail.tries.Load()
		fail.err.Store(&err)
		l.send("k1", "k2")
		eventually(t, code+" is met", func() bool { return fail.tries.Load() >= was+2 })
		if since, why := l.rec.Failing(); since.IsZero() || !errors.Is(why, err) {
			t.Errorf("%s: failing since %s: %v", code, since, why)
		}
		fail.err.Store(nil)
		l.quiet()
		if since, why := l.rec.Failing(); !since.IsZero() {
			t.Errorf("%s: still failing since %s: %v", code, since, why)
		}
	}
	if n := w.count("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d in quarantine, want none", n)
	}
	if n := w.ended(StatusDelivered); n != 40 {
		t.Errorf("%d records, want 40", n)
	}
}

func TestJudgeRefusal(t *testing.T) {
	t.Parallel()
	pg := func(code, message string) error { return &pgconn.PgError{Code: code, Message: message} }
	for _, c := range []struct {
		err  error
		size int64
		want refusal
	}{
		{pg("23514", ""), 1, refusesContent},
		{pg("22P05", ""), 1, refusesContent},
		{pg("22021", ""), 1, refusesContent},
		{pg("54000", "string buffer exceeds maximum allowed length (1073741824 bytes)"), 1, refusesContent},
		{pg("XX000", "invalid memory alloc request size 1073741824"), 1, refusesContent},
		{pg("XX000", "cache lookup failed for relation 7"), 1, refusesNothing},
		{pg("P0001", "not on my table"), 1, refusesContent},
		{pg("53200", "out of memory"), 1, refusesNothing},
		{pg("53200", "out of memory"), hugeOp, refusesContent},
		{pg("08P01", "invalid message length"), 1, refusesContent},
		{pg("08P01", "query_wait_timeout"), hugeOp, refusesNothing},
		{pg("57014", ""), 1, refusesSize},
		{context.DeadlineExceeded, 1, refusesSize},
		{errors.New("message body too large"), 1, refusesContent},
		{errors.New("unexpected EOF"), 1, refusesNothing},
	} {
		if got := judgeRefusal(fmt.Errorf("record: %w", c.err), c.size); got != c.want {
			t.Errorf("%v with %d bytes: %d, want %d", c.err, c.size, got, c.want)
		}
	}
}

// An earlier try may have been committed although its answer was lost: what the next one is refused for then says
// nothing of the ops.
func TestRefused_AsksTheServerWhenATryBeforeMayHaveBeenCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	db := &lostThenRefused{Pool: w.pool}
	w.db = db
	w.subscribe("a.test")
	l := w.lead()
	for range 10 {
		l.send("k1", "k2", "k3")
		l.quiet()
	}
	if n := w.count("SELECT count(*) FROM relay.deliveries"); n != 30 {
		t.Errorf("%d records, want 30", n)
	}
	if n := w.count("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d in quarantine, want none", n)
	}
	if db.n.Load() < 4 {
		t.Error("no answer was lost")
	}
}

// lostThenRefused commits a batch, loses the answer, and refuses the next try.
type lostThenRefused struct {
	Pool
	n atomic.Int64
}

func (l *lostThenRefused) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if l.n.Add(1)%2 == 1 {
		return lostResults{l.Pool.SendBatch(ctx, b)}
	}
	return refusedResults{err: &pgconn.PgError{Code: "23505", Message: "it is there already"}}
}

func TestNumbers_TakesOffTheRecordWhatIsWrittenInParts(t *testing.T) {
	t.Parallel()
	n := numbers{}
	for v := int64(1); v <= 9; v++ {
		n.add(v, time.Time{})
	}
	n.add(12, time.Time{})
	n.add(13, time.Time{})
	n.add(14, time.Time{})
	for _, c := range []struct {
		v    int64
		want string
	}{{13, "9 {[12,12],[14,14]}"}, {12, "9 {[14,14]}"}, {9, "8 {[14,14]}"}, {4, "3 {[5,8],[14,14]}"}, {20, "3 {[5,8],[14,14]}"}, {5, "3 {[6,8],[14,14]}"}, {8, "3 {[6,7],[14,14]}"}} {
		n.remove(c.v)
		if got := fmt.Sprint(n.whole, " ", n.multirange()); got != c.want {
			t.Errorf("without %d: %s, want %s", c.v, got, c.want)
		}
	}
	for _, v := range []int64{4, 5, 8, 9, 12, 13} {
		n.add(v, time.Time{})
	}
	if got := fmt.Sprint(n.whole, " ", n.multirange()); got != "9 {[12,14]}" {
		t.Errorf("again: %s", got)
	}
}

// after answers with out when release is closed.
func after(release <-chan struct{}, out Outcome) rule {
	return func(ctx context.Context, _ *Request, _ int) Outcome {
		select {
		case <-release:
			return out
		case <-ctx.Done():
			return Outcome{Aborted: true}
		}
	}
}

// arrivedAtAll waits until a host has taken these events, among others, in whatever order.
func (w *world) arrivedAtAll(host string, entries ...*entry) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d events are among those at %s", len(entries), host), func() bool {
		took := w.sink.took(host)
		return !slices.ContainsFunc(entries, func(e *entry) bool { return !slices.Contains(took, e.f.EventID.String()) })
	})
}
