package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/google/uuid"
)

func TestRecorder_KeepsTheLogThatThePolicyAsksFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policy                     LogPolicy
		delivered, dead, cancelled int
	}{
		{LogAll, 2, 1, 1},
		{LogFailures, 1, 1, 1},
		{LogNone, 0, 1, 0},
	} {
		t.Run(string(c.policy), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			id := w.subscribe("a.test")
			l := w.lead(func(o *Options, ro *RecorderOptions) {
				ro.Log = c.policy
				o.Schedule.Delays = []time.Duration{0, time.Millisecond}
				// A handed-over attempt has a row, which is cancelled with its subscription. The hanging one stays in memory,
				// however long the count takes.
				o.HandoverAfter = time.Hour
			})
			again, dead := w.commit("k1"), w.commit("k2")
			w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
				switch r.EventID {
				case again[0].f.EventID.String():
					return failFirst(1)(ctx, r, try)
				case dead[0].f.EventID.String():
					return errOutcome
				}
				return ok(ctx, r, try)
			})
			l.take(again...)
			l.take(dead...)
			l.send("k3")
			l.quiet()
			eventually(t, "all have ended", func() bool { return w.parked() == 0 })
			hung := make(chan struct{})
			w.sink.on("a.test", hold(hung))
			l.send("k4", "k4") // the second is cancelled in memory
			w.exec("DELETE FROM relay.subscriptions WHERE id = $1", id)
			l.refresh(id)
			l.quietButOne()
			for st, want := range map[Status]int{StatusDelivered: c.delivered, StatusDead: c.dead, StatusCancelled: c.cancelled} {
				if got := w.ended(st); got != want {
					t.Errorf("%d rows %s, want %d", got, st, want)
				}
			}
			close(hung)
			l.quiet()
			want := c.delivered
			if c.policy == LogAll {
				want++ // the attempt that was on the wire when its subscription went
			}
			if got := w.ended(StatusDelivered); got != want {
				t.Errorf("%d rows %s in the end, want %d", got, StatusDelivered, want)
			}
		})
	}
}

// quietButOne waits until the Recorder has nothing to write.
func (l *leader) quietButOne() {
	l.t.Helper()
	eventually(l.t, "nothing waits to be written", l.rec.Idle)
}

func TestRecorder_WritesWhatTheTenantSees(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays = []time.Duration{0, time.Millisecond, time.Hour}
	})
	w.sink.on("a.test", failing)
	e := l.send("k1")[0]
	eventually(t, "it waits", func() bool { return w.count("SELECT count(*) FROM relay.parked WHERE attempts = 2") == 1 })
	row := w.text(`SELECT concat_ws('|', subscription_id, event_id, attempts, last_error, last_status, history->0->>'n',
		history->1->>'reason', history->1->>'status', next_attempt_at > now() + interval '30 min') FROM relay.parked`)
	want := fmt.Sprintf("%s|%s|2|http_5xx: HTTP 503 Service Unavailable|503|1|http_5xx|503|t", sub, e.f.EventID)
	if row != want {
		t.Errorf("parked row\n got %s\nwant %s", row, want)
	}
	w.sink.on("a.test", ok)
	id := uuid.MustParse(w.text("SELECT id::text FROM relay.parked"))
	if err := l.p.Retry(context.Background(), l.pool, l.dir, id, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is delivered", func() bool { return w.ended(StatusDelivered) == 1 })
	row = w.text(`SELECT concat_ws('|', id, tenant_id, event_type, aggregate_type, aggregate_id, attempts, last_status,
		coalesce(last_error, 'none'), jsonb_array_length(history)) FROM relay.deliveries`)
	if want := id.String() + "|acme|payment.received|order|k1|3|204|none|3"; row != want {
		t.Errorf("ended row\n got %s\nwant %s", row, want)
	}
}

func TestRecorder_KeepsADeadBodyAndRetryRevivesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, time.Millisecond} })
	head := w.commit("k1")
	w.sink.on("a.test", only(head[0], failing))
	l.take(head...)
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 })
	if n := w.count("SELECT count(*) FROM relay.bodies WHERE keep_until > now() AND body = $1", head[0].f.Body); n != 1 {
		t.Fatalf("%d bodies of the dead delivery, want 1", n)
	}
	w.sink.on("a.test", ok)
	id := uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries"))
	request := int64(w.count("INSERT INTO relay.requests (kind, target) VALUES ('retry_delivery', $1) RETURNING id", id.String()))
	if err := l.p.Retry(context.Background(), l.pool, l.dir, id, request); err != nil {
		t.Fatal(err)
	}
	w.arrived("a.test", head...)
	eventually(t, "it is delivered", func() bool { return w.ended(StatusDelivered) == 1 && w.ended(StatusDead) == 0 })
	if n := w.count("SELECT count(*) FROM relay.requests"); n != 0 {
		t.Errorf("%d requests are left", n)
	}
}

func TestRetry_AskedTwiceRevivesOnceAndLeavesTheLaneFree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, ro *RecorderOptions) {
		o.Schedule.Delays = []time.Duration{0}
		ro.Interval = 100 * time.Millisecond
	})
	head := w.commit("k1")
	w.sink.on("a.test", only(head[0], failFirst(1)))
	l.take(head...)
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 })
	id := uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries"))
	for range 3 {
		if err := l.p.Retry(context.Background(), l.pool, l.dir, id, 0); err != nil {
			t.Fatal(err)
		}
	}
	w.arrived("a.test", head...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
	later := l.send("k1")
	w.arrived("a.test", append(head, later...)...)
}

func TestRetry_OfWhatIsUnknownOnlyForgetsTheRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	l.send("k1")
	eventually(t, "it is delivered", func() bool { return w.ended(StatusDelivered) == 1 })
	done := uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries"))
	for _, id := range []uuid.UUID{uuid.New(), done} {
		request := int64(w.count("INSERT INTO relay.requests (kind, target) VALUES ('retry_delivery', $1) RETURNING id", id.String()))
		if err := l.p.Retry(context.Background(), l.pool, l.dir, id, request); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the requests are gone", func() bool { return w.count("SELECT count(*) FROM relay.requests") == 0 })
	if n := w.sink.attempts("a.test"); n != 1 {
		t.Errorf("%d attempts, want 1", n)
	}
}

// A revived head stands in front of a row that has a time of its own. It must
// keep to its schedule, and the lane must not be loaded twice.
func TestRetry_ARevivedDeliveryKeepsToItsScheduleInFrontOfOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays = []time.Duration{0, 2 * time.Second, 2 * time.Second}
		o.Breaker.Failures = 1000 // a probe would come before its time
	})
	w.sink.on("a.test", failing)
	head := l.send("k1")
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 })
	id := uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries"))
	next := l.send("k1")
	eventually(t, "the next waits", func() bool { return w.parked() == 1 })
	tried := make(chan time.Time, 2)
	w.sink.on("a.test", only(head[0], func(ctx context.Context, r *Request, try int) Outcome {
		select {
		case tried <- time.Now():
			return errOutcome
		default:
			return ok(ctx, r, try)
		}
	}))
	if err := l.p.Retry(context.Background(), l.pool, l.dir, id, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it was tried twice", func() bool { return len(tried) == 2 })
	first := <-tried
	// The schedule counts from when the attempt was begun, and on a busy machine the sink learns of it later.
	if waited := (<-tried).Sub(first); waited < time.Second {
		t.Errorf("tried again after %s, the schedule says 2s", waited)
	}
	w.sink.on("a.test", ok)
	w.arrived("a.test", append(head, next...)...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
}

func TestRelease_ParksAnEventAtItsPlaceInTheOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead()
	early := w.commit("k1")
	w.exec(`INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, raw)
		VALUES ('0/1', 0, now(), 'unknown_type', '', '')`)
	q := int64(w.count("SELECT id FROM relay.quarantine"))
	l.setActive(id, false)
	later := l.send("k1")
	eventually(t, "the later one waits", func() bool { return w.parked() == 1 })
	f := early[0].f
	l.p.Release(&f, l.dir.Match(testTenant, f.Type), 0, q)
	eventually(t, "both wait", func() bool { return w.parked() == 2 })
	l.setActive(id, true)
	w.arrived("a.test", append(early, later...)...)
	if n := w.count("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Error("the quarantined row is still there")
	}
}

func TestRecorder_QuarantinesAndSettlesTheRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.lead()
	for range 2 { // the second time after a crash
		l.rec.Quarantine(&QuarantineEntry{CommitLSN: 0x42, Index: 3, CommitTime: time.Now(), Reason: "unknown_type",
			Detail: "no such type", TenantID: testTenant, Raw: []byte{0, 1, 0xff}})
	}
	eventually(t, "it is written", func() bool { return w.count("SELECT count(*) FROM relay.quarantine") == 1 })
	row := w.text("SELECT concat_ws('|', commit_lsn, row_index, reason, detail, event_id, tenant_id, raw) FROM relay.quarantine")
	if want := `0/42|3|unknown_type|no such type|acme|\x0001ff`; row != want {
		t.Errorf("row %s, want %s", row, want)
	}
}

func TestRecorder_StoresABodyOnceAndSweepsIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 5 {
		w.subscribe(fmt.Sprintf("a%d.test", i))
		w.sink.on(fmt.Sprintf("a%d.test", i), failFirst(1))
	}
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, 300 * time.Millisecond} })
	sent := l.send("k1", "k2")
	eventually(t, "all wait", func() bool { return w.parked() == 10 })
	if n := w.count("SELECT count(*) FROM relay.bodies"); n != 2 {
		t.Errorf("%d bodies for two events", n)
	}
	w.exec(query("sweep_bodies"), "0/0", uuid.Nil, 100)
	for i := range 5 {
		host := fmt.Sprintf("a%d.test", i)
		eventually(t, "all arrive", func() bool { return len(w.sink.took(host)) == 2 })
		w.inKeyOrder(host, sent...)
	}
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
	w.exec(query("sweep_bodies"), "0/0", uuid.Nil, 100)
	if n := w.count("SELECT count(*) FROM relay.bodies"); n != 0 {
		t.Errorf("%d bodies that nobody needs are left", n)
	}
}

func TestRecorder_SweepsByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ro := RecorderOptions{Slot: testSlot, OnError: func(err error) { t.Error(err) }, ProgressInterval: time.Hour}
	r := NewRecorder(ro, w.pool, &stream{t: t}, nil, nil)
	w.exec(`INSERT INTO relay.bodies VALUES ('0/1', gen_random_uuid(), 't', 'e', 'a', 'i', now(), '', NULL),
		('0/2', gen_random_uuid(), 't', 'e', 'a', 'i', now(), '', now() + interval '1 hour')`)
	w.exec(`INSERT INTO relay.bodies SELECT '0/3'::pg_lsn + g, gen_random_uuid(), 't', 'e', 'a', 'i', now(), '', NULL
		FROM generate_series(1, $1::int) AS g`, 2*sweepRows)
	r.sweptAt = time.Now().Add(-2 * time.Minute)
	if err := r.settle(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	if n := w.count("SELECT count(*) FROM relay.bodies"); n != sweepRows+3 {
		t.Errorf("%d bodies are left after the first step", n)
	}
	for range 2 { // with batches, too: on a busy relay something always waits
		r.sweep.at = time.Time{}
		if err := r.commit(context.Background(), &pgx.Batch{}, advance{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.count("SELECT count(*) FROM relay.bodies"); n != 1 || r.sweep.on {
		t.Errorf("%d bodies, want the one with time left; on: %v", n, r.sweep.on)
	}
}

func TestRecorder_ConfirmsOnlyWhatIsCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", failFirst(1))
	var sent []*entry
	l.stream.mu.Lock()
	l.stream.check = func(p Position) {
		n := 0
		for _, e := range w.entries() {
			if p.covers(e.tx.commit, e.index) {
				n++
			}
		}
		got := w.count(`SELECT (SELECT count(*) FROM relay.parked) + (SELECT count(*) FROM relay.deliveries)`)
		if got < n {
			t.Errorf("confirmed %d events and %d are recorded", n, got)
		}
		if at := w.text("SELECT end_lsn::text FROM relay.progress"); mustLSN(t, at) > p.End {
			t.Errorf("progress %s is above the confirmed %x", at, p.End)
		}
	}
	l.stream.mu.Unlock()
	for range 20 {
		rows := w.commit("k1", "k2", "k3")
		sent = append(sent, rows...)
		l.take(rows...)
	}
	l.quiet()
	eventually(t, "progress is written", func() bool {
		return mustLSN(t, w.text("SELECT end_lsn::text FROM relay.progress")) == sent[len(sent)-1].tx.end
	})
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	l.stop(patience)
	l.stream.mu.Lock()
	defer l.stream.mu.Unlock()
	if !slices.IsSortedFunc(l.stream.recorded, func(a, b Position) int { return int(int64(a.End) - int64(b.End)) }) {
		t.Error("a confirmed position went back")
	}
}

func (w *world) entries() []*entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

func TestRecorder_WritesPositionsWithoutOutcomes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.lead() // no subscription matches
	sent := l.send("k1", "k2")
	eventually(t, "progress is written", func() bool {
		return mustLSN(t, w.text("SELECT end_lsn::text FROM relay.progress")) == sent[1].tx.end
	})
}

func TestRecorder_TrimsWhatIsBelowTheWatermark(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
	release := make(chan struct{})
	first := w.commit("held")
	w.sink.on("a.test", only(first[0], hold(release)))
	l.take(first...)
	l.send("k1", "k2")
	eventually(t, "what is above the watermark is kept", func() bool { return w.count("SELECT count(*) FROM relay.settled") > 0 })
	close(release)
	l.quiet()
	l.stop(patience)
	last := w.lead()
	last.stop(patience)
	last.rec.trimmedAt = time.Now().Add(-time.Minute)
	if err := last.rec.commit(context.Background(), emptyBatch(), advance{pos: last.stream.Position()}); err != nil {
		t.Fatal(err)
	}
	if n := w.count("SELECT count(*) FROM relay.settled"); n != 0 {
		t.Errorf("%d rows of settled below the watermark are left", n)
	}
}

func TestRecorder_WritesNothingUnderAnEpochThatIsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	old := w.lead()
	old.send("k1")
	old.quiet()
	w.exec("UPDATE relay.progress SET epoch = epoch + 1")
	progress := w.text("SELECT end_lsn::text FROM relay.progress")
	w.sink.on("a.test", failFirst(1))
	old.send("k2")
	select {
	case err := <-old.recStopped:
		if !errors.Is(err, ErrSuperseded) {
			t.Fatalf("recorder: %v, want %v", err, ErrSuperseded)
		}
	case <-time.After(patience):
		t.Fatal("the recorder goes on")
	}
	if n := w.parked() + w.count("SELECT count(*) FROM relay.deliveries"); n != 1 {
		t.Errorf("%d rows, want the one from before", n)
	}
	if now := w.text("SELECT end_lsn::text FROM relay.progress"); now != progress {
		t.Errorf("progress moved from %s to %s", progress, now)
	}
	if n := old.errorCount(); n != 0 {
		t.Errorf("it was tried again %d times", n)
	}
}

func TestRecorder_HoldsAdmissionAtItsHighMark(t *testing.T) {
	t.Parallel()
	r := NewRecorder(RecorderOptions{Batch: 100}, nil, &stream{t: t}, nil, nil)
	for range highMark {
		r.add(op{kind: opForget})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := r.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wait: %v, want it to block", err)
	}
	passed := make(chan error, 1)
	go func() { passed <- r.wait(context.Background()) }()
	if batch, _ := r.take(false); len(batch) != maxBatch {
		t.Errorf("a batch of %d, want %d", len(batch), maxBatch)
	}
	if err := <-passed; err != nil {
		t.Error(err)
	}
}

// A dead delivery that is revived is tried at once, whatever a later one of its key
// waits for, in the table or on the wire.
func TestRetry_ARevivedDeliveryDoesNotWaitForALaterOne(t *testing.T) {
	t.Parallel()
	for name, onWire := range map[string]bool{"that waits": false, "that is on the wire": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.subscribe("a.test")
			l := w.lead(attempts(2), func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
			w.sink.on("a.test", failing)
			head := l.send("k1")
			eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 && l.rec.Idle() })
			release := make(chan struct{})
			later := w.commit("k1")
			w.sink.on("a.test", only(later[0], func(context.Context, *Request, int) Outcome {
				<-release
				return Outcome{Reason: ReasonHTTP5xx, StatusCode: 500, RetryAfter: time.Hour}
			}))
			if !onWire {
				close(release)
			}
			l.take(later...)
			eventually(t, "the later one is tried", func() bool { return w.sink.attempts("a.test") == 3 })
			const waits = "SELECT count(*) FROM relay.parked WHERE attempts = 1 AND next_attempt_at > now() + interval '30 min'"
			if !onWire {
				eventually(t, "it waits for an hour", func() bool { return w.count(waits) == 1 })
			}
			l.retry(uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries")))
			if onWire {
				eventually(t, "the revived one stands in the table", func() bool { return w.parked() == 1 && l.rec.Idle() })
				close(release)
			}
			w.arrived("a.test", head...)
			eventually(t, "all is recorded", func() bool { return l.rec.Idle() && w.parked() == 1 })
			if n := w.count(waits); n != 1 || w.sink.attempts("a.test") != 4 {
				t.Errorf("the later one does not keep its time: %d wait, %d attempts", n, w.sink.attempts("a.test"))
			}
		})
	}
}
