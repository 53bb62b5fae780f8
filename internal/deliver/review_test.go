package deliver

import (
	"context"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// The only thing that may try an endpoint that was given up is on the wire when
// its replay is cancelled.
func TestReplay_CancelledDuringItsProbeLetsAnotherProbe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	w.exec("INSERT INTO relay.failing (subscription_id, since) VALUES ($1, now())", sub)
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Hour })
	old := w.commit("k")
	id := w.replayOf(sub, 1)
	l.again(id, sub, 0, old...)
	eventually(t, "the replay probes", func() bool { return w.sink.attempts("a.test") == 1 })
	l.p.CancelReplay(l.dir.Get(sub), id, "by a test")
	eventually(t, "it is cancelled", func() bool { return w.replayState(id).State == ReplayCancelled })
	live := l.send("k", "j")
	close(release)
	eventually(t, "the live events arrive", func() bool { return len(w.sink.took("a.test")) == 3 && w.parked() == 0 })
	w.inKeyOrder("a.test", append(old, live...)...)
}

// An attempt that hangs outlives its subscription. The stream does not wait for it,
// and it leaves no row behind that nobody cancels.
func TestRemoved_AnAttemptThatHangsIsNotParked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	l := w.lead()
	l.send("k")
	eventually(t, "it is on the wire", func() bool { return w.sink.attempts("a.test") == 1 })
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", sub)
	l.refresh(sub)
	l.quiet()
	close(release)
	eventually(t, "nothing is on the wire", func() bool { return l.p.Load() == Load{} && l.rec.Idle() })
	if n := w.parked(); n != 0 {
		t.Errorf("%d rows of a subscription that is gone", n)
	}
	if n := w.ended(StatusCancelled); n != 1 {
		t.Errorf("%d are cancelled, want 1", n)
	}
}

// A request that is carried out twice parks its event twice: the second time there
// is a row already. A lane that counted it would wait for it for ever.
func TestRelease_TwiceCountsOneRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	e := w.commit("k")[0]
	behind := w.commit("k")
	f := e.f
	again := e.f
	l.p.Release(&f, l.dir.Match(f.TenantID, f.Type), 0, 0)
	l.p.Release(&again, l.dir.Match(f.TenantID, f.Type), 0, 0)
	l.take(behind...)
	eventually(t, "everything has ended", func() bool { return l.p.Load() == Load{} && l.rec.Idle() && w.parked() == 0 })
	if n := l.p.Parked(); n != 0 {
		t.Errorf("%d are counted as parked when none is", n)
	}
	more := l.send("k")
	eventually(t, "a later event of the key arrives", func() bool {
		took := w.sink.took("a.test")
		return len(took) > 0 && took[len(took)-1] == more[0].f.EventID.String()
	})
}

// A dead letter may be gone when it comes to bringing it back.
func TestRetry_OfADeadOneThatIsGoneCountsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.sink.on("a.test", failing)
	l := w.lead(attempts(1), func(_ *Options, ro *RecorderOptions) { ro.Interval = 200 * ms })
	l.send("k")
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 && l.rec.Idle() })
	w.sink.on("a.test", ok)
	list, err := (Records{DB: w.pool}).List(context.Background(), Filter{Status: StatusDead, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	l.retry(list[0].ID)
	w.exec("DELETE FROM relay.deliveries")
	more := l.send("k")
	w.arrived("a.test", more...)
	eventually(t, "nothing is parked", func() bool { return l.rec.Idle() && w.parked() == 0 && l.p.Parked() == 0 })
}

// Cancelling what waits for a subscription that is gone takes many batches when it
// is much, so that nobody's outcomes wait for it; and a crash in between loses nothing.
func TestRemoved_MuchIsCancelledLittleByLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead()
	const n = 2*cancelRows + 7
	w.exec(`INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id, committed_at, body)
SELECT '0/1'::pg_lsn + g, gen_random_uuid(), 'acme', 'x', 'order', g::text, now(), 'x' FROM generate_series(1, $1::int) AS g`, n)
	w.exec(`INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, created_at)
SELECT $1, commit_lsn, 0, event_id, gen_random_uuid(), hashtextextended(aggregate_id, 0), now() FROM relay.bodies`, sub)
	before := l.rec.Written()
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", sub)
	l.refresh(sub)
	eventually(t, "all are cancelled", func() bool { return w.parked() == 0 && l.rec.Idle() })
	if got := w.ended(StatusCancelled); got != n {
		t.Errorf("%d are cancelled, want %d", got, n)
	}
	if got := l.rec.Written() - before; got < 3 {
		t.Errorf("it took %d batches", got)
	}
}

// Deliveries that are as large as they may be fill the Recorder by their bytes long
// before their number does.
func TestRecorder_IsFullByBytesToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.lead()
	l.kill()
	r := NewRecorder(RecorderOptions{Batch: 100, Interval: time.Hour}, w.pool, l.stream, l.metrics, nil)
	body := make([]byte, 10<<20)
	for range 13 {
		r.add(op{kind: opEnded, d: &Delivery{flight: &Flight{Body: body}}})
	}
	shared := &Flight{Body: body}
	for range 5 { // one body
		r.add(op{kind: opEnded, d: &Delivery{flight: shared}})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*ms)
	defer cancel()
	if r.wait(ctx) == nil {
		t.Error("there is room for more")
	}
	for i := range 13 {
		if batch, _ := r.take(false); len(batch) != 1 {
			t.Fatalf("batch %d has %d of the largest", i, len(batch))
		}
	}
	if batch, _ := r.take(true); len(batch) != 5 || r.bytes != 0 {
		t.Errorf("a batch of %d that share a body, and %d bytes are left", len(batch), r.bytes)
	}
}

// What waits behind the first row of a lane is not read to load it or to give it its
// turn, however much it is.
func TestLane_ALongOneIsNotReadThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	const n = 20_000
	w.exec(`INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, created_at, next_attempt_at)
SELECT $1, '0/1'::pg_lsn + g, 0, gen_random_uuid(), gen_random_uuid(), 7, now(), CASE WHEN g = 1 THEN now() END
  FROM generate_series(1, $2::int) AS g`, sub, n)
	w.exec("ANALYZE relay.parked")
	for name, explain := range map[string]func() string{
		"load": func() string {
			return w.text("EXPLAIN (ANALYZE, FORMAT JSON) "+sqlLoad, [][16]byte{sub}, []int32{16}, time.Now(), [][16]byte{}, []int64{}, []int32{16}, []bool{false},
				[]time.Time{time.Now()}, [][16]byte{}, []int64{})
		},
		"promote": func() string {
			w.exec("UPDATE relay.parked SET next_attempt_at = NULL")
			return w.text("EXPLAIN (ANALYZE, FORMAT JSON) "+sqlPromote, [][16]byte{sub}, []int64{7}, time.Now())
		},
	} {
		plan := explain()
		for _, m := range regexp.MustCompile(`"Actual Rows": ([0-9]+)`).FindAllStringSubmatch(plan, -1) {
			if rows, _ := strconv.Atoi(m[1]); rows > n/2 {
				t.Errorf("%s reads %d rows of one lane: %s", name, rows, plan)
				break
			}
		}
	}
}
