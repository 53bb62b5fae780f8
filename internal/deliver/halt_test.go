package deliver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// subscribeHalting adds a subscription whose keys wait behind a dead letter.
func (w *world) subscribeHalting(host string) uuid.UUID {
	w.t.Helper()
	id := w.subscribe(host)
	w.exec("UPDATE relay.subscriptions SET on_dead = 'halt' WHERE id = $1", id)
	return id
}

// halted are the deliveries that halt their lanes.
func (w *world) halted() []uuid.UUID {
	w.t.Helper()
	list, err := (Records{DB: w.pool}).List(context.Background(), Filter{Status: StatusDead, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	var out []uuid.UUID
	for _, d := range list {
		if d.Halts {
			out = append(out, d.ID)
		}
	}
	return out
}

func (l *leader) retry(id uuid.UUID) {
	l.t.Helper()
	if err := l.p.Retry(context.Background(), l.pool, l.dir, id, 0); err != nil {
		l.t.Fatal(err)
	}
}

func (l *leader) discard(id uuid.UUID) {
	l.t.Helper()
	if err := l.p.Discard(context.Background(), l.pool, l.dir, id, 0); err != nil {
		l.t.Fatal(err)
	}
}

func attempts(n int) setting {
	return func(o *Options, _ *RecorderOptions) {
		o.Schedule.Delays = make([]time.Duration, n)
		for i := range n - 1 {
			o.Schedule.Delays[i+1] = 5 * ms
		}
	}
}

func TestHalt_ADeadHeadKeepsItsKeyWaitingAndOthersFlow(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"dead in memory": 1, "dead from the table": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.subscribeHalting("a.test")
			l := w.lead(attempts(n))
			head := w.commit("k1")
			w.sink.on("a.test", only(head[0], failing))
			l.take(head...)
			behind := l.send("k1", "k1")
			eventually(t, "it is dead and halts", func() bool { return len(w.halted()) == 1 })
			behind = append(behind, l.send("k1")...)
			others := l.send("k2", "k3")
			w.arrivedInAll("a.test", others...)
			l.quiet() // the stream does not wait for anybody
			if n := w.count("SELECT count(*) FROM relay.parked WHERE next_attempt_at IS NOT NULL"); n != 0 {
				t.Errorf("%d rows of a lane that halts are due", n)
			}
			if got := w.count("SELECT count(*) FROM relay.deliveries WHERE status = 'DEAD'"); got != 0 {
				t.Errorf("%d records of a delivery that still stands in its lane", got)
			}
			l.kill() // and through a crash
			l = w.lead(attempts(n))
			l.replay()
			behind = append(behind, l.send("k1")...)
			others = append(others, l.send("k4")...)
			w.arrivedInAll("a.test", others...)
			if len(w.halted()) != 1 {
				t.Fatal("the crash has released it")
			}
			w.sink.on("a.test", ok)
			l.retry(w.halted()[0])
			w.arrivedInAll("a.test", slices.Concat(others, head, behind)...)
			w.inKeyOrder("a.test", slices.Concat(head, behind)...)
			eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
		})
	}
}

func TestHalt_DiscardingLetsTheKeyGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribeHalting("a.test")
	l := w.lead(attempts(2))
	head := w.commit("k1")
	w.sink.on("a.test", only(head[0], failing))
	l.take(head...)
	behind := l.send("k1", "k1")
	eventually(t, "it is dead and halts", func() bool { return len(w.halted()) == 1 })
	id := w.halted()[0]
	l.discard(id)
	l.discard(id) // while the first is being carried out, and after
	l.retry(id)
	w.arrived("a.test", behind...)
	eventually(t, "all is recorded", func() bool { return w.parked() == 0 && l.rec.Idle() })
	l.discard(id)
	d, err := (Records{DB: w.pool}).Get(t.Context(), id)
	if err != nil || d.Status != StatusCancelled || d.Halts || d.LastError == nil || *d.LastError != "discarded; http_5xx: HTTP 503 Service Unavailable" {
		t.Errorf("the discarded one is %+v, %v", d, err)
	}
	if len(mustHistory(t, d.History)) != 2 {
		t.Errorf("its history is %s", d.History)
	}
	if n := l.p.Parked(); n != 0 {
		t.Errorf("%d parked when none is", n)
	}
	more := l.send("k1")
	w.arrived("a.test", append(behind, more...)...)
}

func TestHalt_DiscardingLeavesAloneWhatIsNotDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribeHalting("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, time.Hour} })
	w.sink.on("a.test", failing)
	l.send("k1")
	eventually(t, "it waits", func() bool { return w.parked() == 1 })
	l.discard(uuid.MustParse(w.text("SELECT id::text FROM relay.parked")))
	l.discard(uuid.New())
	l.quiet()
	if w.parked() != 1 || l.p.Parked() != 1 {
		t.Errorf("%d rows, %d counted, want the one that waits", w.parked(), l.p.Parked())
	}
}

func TestHalt_OnlyWhereThereIsOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribeOrdered("a.test", OrderingNone)
	w.exec("UPDATE relay.subscriptions SET on_dead = 'halt' WHERE id = $1", id)
	l := w.lead(attempts(2))
	w.sink.on("a.test", failing)
	l.send("k1")
	eventually(t, "it is dead", func() bool { return w.ended(StatusDead) == 1 && w.parked() == 0 })
}

// An event that died earlier, under release, is retried into a key that halts now.
func TestHalt_AnEarlierOneThatIsRevivedGoesBeforeTheDeadHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead(attempts(2))
	w.sink.on("a.test", failing)
	first := l.send("k1")
	eventually(t, "the first is dead", func() bool { return w.ended(StatusDead) == 1 && w.parked() == 0 })
	w.exec("UPDATE relay.subscriptions SET on_dead = 'halt' WHERE id = $1", sub)
	l.refresh(sub)
	second := l.send("k1")
	behind := l.send("k1")
	eventually(t, "the second halts", func() bool { return len(w.halted()) == 1 })
	dead := w.halted()[0]
	w.sink.on("a.test", ok)
	l.retry(uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries WHERE event_id = $1", first[0].f.EventID)))
	w.arrived("a.test", first...)
	l.quiet()
	eventually(t, "two wait", func() bool { return w.parked() == 2 && l.rec.Idle() })
	l.retry(dead)
	w.arrived("a.test", slices.Concat(first, second, behind)...)
}

// Random deaths, retries, discards, crashes: the order of each key holds among all
// that was not discarded, and nothing is lost.
func TestHalt_KeepsOrderWhateverDiesAndWhoeverHelps(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.subscribeHalting("a.test")
			rnd := rand.New(rand.NewPCG(seed, 9))
			var mu sync.Mutex
			fate := make(map[string]int) // failures before an event is taken
			w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
				mu.Lock()
				n, known := fate[r.EventID]
				if !known && rnd.IntN(4) == 0 {
					n = 1 + rnd.IntN(7)
				}
				fate[r.EventID] = n
				mu.Unlock()
				if try <= n {
					return errOutcome
				}
				return ok(ctx, r, try)
			})
			tune := func(o *Options, ro *RecorderOptions) {
				o.HandoverAfter, ro.Interval = 30*ms, 2*ms
			}
			l := w.lead(attempts(2), tune)
			discarded := make(map[string]bool)
			help := func() {
				for _, id := range w.halted() {
					mu.Lock()
					give := rnd.IntN(3) == 0
					mu.Unlock()
					if give {
						d, err := (Records{DB: w.pool}).Get(t.Context(), id)
						if err != nil || !d.Halts {
							continue
						}
						l.discard(id) // unless a retry is under way
						eventually(t, "one of both is carried out", func() bool { return !l.p.isAsked(id) })
						if w.count("SELECT count(*) FROM relay.deliveries WHERE id = $1 AND status = 'CANCELLED'", id) == 1 {
							discarded[d.EventID.String()] = true
						}
					} else {
						l.retry(id)
					}
				}
			}
			var sent []*entry
			for i := range 50 {
				rows := w.commit(fmt.Sprintf("k%d", i%5), fmt.Sprintf("k%d", i%3))
				sent = append(sent, rows...)
				l.take(rows...)
				if i%10 == 5 {
					help()
				}
				if i%20 == 15 {
					l.kill()
					l = w.lead(attempts(2), tune)
					l.replay()
				}
			}
			eventually(t, "everything has ended", func() bool {
				help()
				return l.p.Load() == Load{} && l.rec.Idle() && w.parked() == 0
			})
			l.quiet()
			sent = slices.DeleteFunc(sent, func(e *entry) bool { return discarded[e.f.EventID.String()] })
			w.firstInKeyOrder("a.test", sent...)
			if n := w.ended(StatusDead); n != 0 {
				t.Errorf("%d dead ones have left their lanes", n)
			}
			if n := w.ended(StatusDelivered); n != len(sent) {
				t.Errorf("%d are recorded as delivered, want %d", n, len(sent))
			}
		})
	}
}

// A subscription that lets go from now on lets go what it has halted before.
func TestHalt_SwitchingToReleaseLetsHaltedKeysGo(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"while the relay runs": false, "while none runs": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			sub := w.subscribeHalting("a.test")
			l := w.lead(attempts(2))
			heads := append(w.commit("k1"), w.commit("k2")...)
			bad := ids(heads...)
			w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
				if slices.Contains(bad, r.EventID) {
					return errOutcome
				}
				return ok(ctx, r, try)
			})
			l.take(heads...)
			behind := l.send("k1", "k2", "k1", "k2")
			eventually(t, "both halt", func() bool { return len(w.halted()) == 2 && w.parked() == 6 })
			l.quiet()
			if restart {
				l.stop(patience)
			}
			w.exec("UPDATE relay.subscriptions SET on_dead = 'release' WHERE id = $1", sub)
			if restart {
				l = w.lead(attempts(2))
			} else {
				l.refresh(sub)
			}
			w.arrivedInAll("a.test", behind...)
			w.inKeyOrder("a.test", behind...)
			eventually(t, "all is recorded", func() bool { return l.rec.Idle() && w.parked() == 0 && l.p.Parked() == 0 })
			if n := w.ended(StatusDead); n != 2 {
				t.Fatalf("%d are dead, want 2", n)
			}
			if n := w.count("SELECT count(*) FROM relay.bodies WHERE keep_until > now()"); n != 2 {
				t.Errorf("%d bodies of dead ones are kept, want 2", n)
			}
			w.sink.on("a.test", ok)
			l.retry(uuid.MustParse(w.text("SELECT id::text FROM relay.deliveries WHERE event_id = $1", heads[0].f.EventID)))
			w.arrivedInAll("a.test", append(behind, heads[0])...)
		})
	}
}

// gated lets no batch through while it is locked.
type gated struct {
	Pool
	sync.RWMutex
}

func (g *gated) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	g.RLock()
	defer g.RUnlock()
	return g.Pool.SendBatch(ctx, b)
}

// looking does something between the look at halted lanes and what comes back of it.
type looking struct {
	Pool
	then func()
}

func (l *looking) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := l.Pool.Query(ctx, sql, args...)
	if sql == sqlHaltedOf {
		l.then()
	}
	return rows, err
}

// Somebody wants a halted delivery tried again, and that is committed between the look at what
// halts and the decision about it.
func TestHalt_WhatIsRetriedAtThatMomentIsNotLetGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gate := &gated{Pool: w.pool}
	w.db = gate
	sub := w.subscribeHalting("a.test")
	l := w.lead(attempts(1))
	head := w.commit("k1")[0]
	w.sink.on("a.test", only(head, failFirst(1)))
	l.take(head)
	eventually(t, "it halts", func() bool { return len(w.halted()) == 1 && l.rec.Idle() })
	id := w.halted()[0]
	w.exec("UPDATE relay.subscriptions SET on_dead = 'release' WHERE id = $1", sub)
	ep, _, err := l.dir.Refresh(t.Context(), w.pool, sub)
	if err != nil {
		t.Fatal(err)
	}
	gate.Lock()
	l.retry(id)
	l.p.mu.Lock()
	l.p.toLetGo[ep] = beforeAll
	l.p.mu.Unlock()
	if _, err := l.p.letHaltedGo(t.Context(), &looking{w.pool, func() {
		gate.Unlock()
		eventually(t, "the retry is committed", func() bool { return !l.p.isAsked(id) })
	}}); err != nil {
		t.Fatal(err)
	}
	w.arrived("a.test", head)
	eventually(t, "all is recorded", func() bool { return l.rec.Idle() && w.parked() == 0 && l.p.Parked() == 0 })
}
