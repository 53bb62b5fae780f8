package deliver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Random events for random endpoints that fail, hang and recover, while somebody
// changes subscriptions, removes one, retries and discards what is dead, a replay runs
// and the database fails now and then: without a crash each arrives exactly once, in
// the order of its key.
func TestDispatcher_DeliversExactlyOnceInKeyOrderWhateverTheEndpointsDo(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			runRandomly(t, seed, false)
		})
	}
}

// The same with crashes in between: nothing is lost, and no event arrives for
// the first time after a later one of its key.
func TestDispatcher_LosesNothingThroughCrashes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			runRandomly(t, 100+seed, true)
		})
	}
}

// uncertain is a Pool whose batches fail now and then: they are rolled back, or
// committed and nobody hears of it.
type uncertain struct {
	Pool
	mu  sync.Mutex
	rnd *rand.Rand
}

func (u *uncertain) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	u.mu.Lock()
	n := u.rnd.IntN(12)
	u.mu.Unlock()
	switch n {
	case 0:
		tx, err := u.BeginTx(ctx, pgx.TxOptions{})
		if err == nil {
			err = errors.Join(tx.SendBatch(ctx, b).Close(), tx.Rollback(ctx))
		}
		return failedResults{err: errors.Join(err, errors.New("the commit failed"))}
	case 1:
		return lostResults{u.Pool.SendBatch(ctx, b)}
	}
	return u.Pool.SendBatch(ctx, b)
}

type failedResults struct {
	pgx.BatchResults
	err error
}

func (f failedResults) Close() error { return f.err }

// fate is what is decided about an event at a host: the same each time.
func fate(salt uint64, host, event string) uint64 {
	h := salt
	for _, b := range []byte(host + event) {
		h = h*1099511628211 + uint64(b)
	}
	return h ^ h>>29
}

// dies tells whether an event's attempts fail until it is dead, and once more.
func dies(h uint64) bool { return h%100 >= 94 }

const randomAttempts = 6

// randomRule is an endpoint at which each event has its fate; at some, events die.
func randomRule(salt uint64, mayDie bool) rule {
	return func(ctx context.Context, r *Request, try int) Outcome {
		h := fate(salt, r.URL.Host, r.EventID)
		wait := time.Duration(0)
		switch {
		case h%100 < 20 && try <= int(h>>8%3)+1,
			mayDie && dies(h) && try <= randomAttempts+1:
			return errOutcome
		case h%100 < 23 && try <= int(h>>8%2)+1:
			return throttle(time.Duration(h>>12%20) * time.Millisecond)
		case h%100 < 25 && try == 1:
			out := errOutcome
			out.RetryAfter = 20 * time.Millisecond
			return out
		case h%100 < 31 && try == 1: // hangs past the hand-over
			wait = 60 * time.Millisecond
		case h%100 < 50:
			wait = time.Duration(h>>16%3) * time.Millisecond
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return Outcome{Aborted: true}
		}
		return Outcome{StatusCode: 200}
	}
}

// uuids reads a column of ids.
func (w *world) uuids(sql string, args ...any) []uuid.UUID {
	w.t.Helper()
	rows, err := w.pool.Query(context.Background(), sql, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// hosts of the random runs: at a nothing dies; at b dead ones halt their keys; at c they
// do now and then; d is removed.
var randomHosts = []string{"a.test", "b.test", "c.test", "d.test"}

func runRandomly(t *testing.T, seed uint64, crashes bool) {
	t.Helper()
	w := newWorld(t)
	rnd := rand.New(rand.NewPCG(seed, 1))
	w.db = &uncertain{Pool: w.pool, rnd: rand.New(rand.NewPCG(seed, rnd.Uint64()))}
	salt := rnd.Uint64()
	subs := make(map[string]uuid.UUID)
	for _, host := range randomHosts {
		subs[host] = w.subscribe(host)
		w.sink.on(host, randomRule(salt, host != "a.test"))
	}
	w.exec("UPDATE relay.subscriptions SET on_dead = 'halt' WHERE id = $1", subs["b.test"])
	anyone := func() uuid.UUID { return subs[randomHosts[rnd.IntN(len(randomHosts))]] }
	tune := func(o *Options, ro *RecorderOptions) {
		o.HandoverAfter, o.WindowEvents, o.EndpointConcurrency, o.Concurrency = 30*time.Millisecond, 12, 3, 9
		o.Timeout = 100 * time.Millisecond
		o.Schedule.Delays = make([]time.Duration, randomAttempts)
		for i := range o.Schedule.Delays[1:] {
			o.Schedule.Delays[i+1] = time.Duration(1+i) * time.Millisecond
		}
		ro.Batch, ro.Interval = 10, 3*time.Millisecond
	}
	l := w.lead(tune)
	help := func() { // somebody looks at what is dead
		for _, id := range w.uuids("SELECT id FROM relay.deliveries WHERE status = 'DEAD' LIMIT 5") {
			l.retry(id)
		}
		for _, id := range w.uuids("SELECT id FROM relay.parked WHERE dead_at IS NOT NULL LIMIT 5") {
			if rnd.IntN(4) == 0 {
				l.discard(id)
			} else {
				l.retry(id)
			}
		}
	}

	// Rows of the outbox that came before the stream, for the replay.
	var old []*entry
	for i := range 40 {
		old = append(old, w.commit(fmt.Sprintf("old%d", i%3))...)
	}
	w.log = nil
	replay := w.replayOf(subs["a.test"], len(old))
	fed := 0
	feed := func(n int) {
		n = min(n, len(old)-fed)
		l.again(replay, subs["a.test"], fed, old[fed:fed+n]...)
		fed += n
	}

	var sent, toRemoved []*entry
	var held, late []*entry // in the quarantine, and out of it
	lastAttempts := 0       // at the one that was removed
	remove := func() {
		ep := l.dir.Get(subs["d.test"])
		w.exec("DELETE FROM relay.subscriptions WHERE id = $1", ep.id)
		l.refresh(ep.id)
		eventually(t, "nothing for the removed one is on the wire, and all is recorded", func() bool {
			l.p.mu.Lock()
			defer l.p.mu.Unlock()
			return ep.lanes.inflight == 0 && l.rec.Idle()
		})
		toRemoved, lastAttempts = slices.Clone(sent), w.sink.attempts("d.test")
	}
	for step := range 60 {
		keys := make([]string, 1+rnd.IntN(5))
		for i := range keys {
			keys[i] = fmt.Sprintf("k%d", rnd.IntN(6))
		}
		if !crashes && rnd.IntN(6) == 0 {
			held = append(held, w.commit(keys[0])...)
		}
		rows := w.commit(keys...)
		sent = append(sent, rows...)
		l.take(rows...)
		feed(rnd.IntN(2))
		if step == 40 {
			remove()
		}
		switch rnd.IntN(18) {
		case 0:
			l.setActive(anyone(), false)
		case 1:
			for _, id := range subs {
				l.setActive(id, true)
			}
		case 3: // somebody wants some that wait tried now
			for _, id := range w.uuids("SELECT id FROM relay.parked WHERE next_attempt_at IS NOT NULL LIMIT 5") {
				l.retry(id)
			}
		case 4: // an event comes out of the quarantine
			if !crashes && len(held) > 0 {
				f := held[0].f
				l.p.Release(&f, l.dir.Match(f.TenantID, f.Type), 0, 0)
				sent, late, held = append(sent, held[0]), append(late, held[0]), held[1:]
			}
		case 5: // a probe of an endpoint that is given up may be on the wire
			id := anyone()
			w.exec("UPDATE relay.subscriptions SET url = url || '/x', updated_at = clock_timestamp() WHERE id = $1", id)
			l.refresh(id)
		case 6, 7:
			help()
		case 8:
			w.exec(`UPDATE relay.subscriptions SET updated_at = clock_timestamp(),
				on_dead = CASE on_dead WHEN 'halt' THEN 'release' ELSE 'halt' END WHERE id = $1`, subs["c.test"])
			l.refresh(subs["c.test"])
		case 2:
			if crashes {
				l.kill()
				l = w.lead(tune)
				l.replay()
				running, err := LoadRunningReplays(t.Context(), w.pool)
				if err != nil || len(running) != 1 {
					t.Fatal(running, err)
				}
				fed = int(running[0].Queued)
			}
		}
	}
	sent = append(sent, l.send("last")...)
	for _, id := range subs {
		l.setActive(id, true)
	}
	feed(len(old))
	l.readAll(replay)
	eventually(t, "everything has ended", func() bool {
		help()
		return l.p.Load() == Load{} && l.rec.Idle() && w.parked() == 0 && w.ended(StatusDead) == 0
	})
	l.quiet()
	if n := l.p.Parked(); n != 0 {
		t.Errorf("%d are counted as parked when none is", n)
	}
	if r := w.replayState(replay); r.State != ReplayDone || r.Delivered != int64(len(old)) || r.Queued != int64(len(old)) {
		t.Errorf("the replay of %d is %+v", len(old), r)
	}
	arrived := w.inKeyOrder
	if crashes {
		arrived = w.firstInKeyOrder
	}
	arrived("a.test", old...)
	for _, host := range randomHosts[:3] {
		discarded := w.uuids("SELECT event_id FROM relay.deliveries WHERE subscription_id = $1 AND status = 'CANCELLED'", subs[host])
		kept := slices.DeleteFunc(slices.Clone(sent), func(e *entry) bool { return slices.Contains(discarded, e.f.EventID) })
		delivered := w.uuids("SELECT event_id FROM relay.deliveries WHERE subscription_id = $1 AND status = 'DELIVERED' AND replay_id IS NULL", subs[host])
		if n := len(delivered); n != len(kept) {
			t.Errorf("%s: %d deliveries are recorded, want %d", host, n, len(kept))
		}
		for _, e := range kept {
			if !slices.Contains(delivered, e.f.EventID) || !slices.Contains(w.sink.took(host), e.f.EventID.String()) {
				t.Errorf("%s: %s is lost", host, w.names(ids(e)))
			}
		}
		kept = slices.DeleteFunc(kept, func(e *entry) bool { return slices.Contains(late, e) })
		if host == "c.test" { // a dead one that gave way comes late
			kept = slices.DeleteFunc(kept, func(e *entry) bool { return dies(fate(salt, host, e.f.EventID.String())) })
		}
		arrived(host, kept...)
	}
	if n := w.sink.attempts("d.test"); n != lastAttempts {
		t.Errorf("%d attempts at an endpoint after it was removed", n-lastAttempts)
	}
	ended := w.uuids("SELECT event_id FROM relay.deliveries WHERE subscription_id = $1", subs["d.test"])
	for _, e := range toRemoved {
		if !slices.Contains(ended, e.f.EventID) {
			t.Errorf("what became of %s at the removed one is not on record", w.names(ids(e)))
		}
	}
	if len(ended) != len(toRemoved) {
		t.Errorf("%d records of the removed one, want %d", len(ended), len(toRemoved))
	}
}

// firstInKeyOrder checks that a host has taken each entry, those of a key for
// the first time in the order of the log.
func (w *world) firstInKeyOrder(host string, entries ...*entry) {
	w.t.Helper()
	first := make(map[string]int)
	for i, id := range w.sink.took(host) {
		if _, again := first[id]; !again {
			first[id] = i
		}
	}
	last := make(map[string]int)
	for _, e := range entries {
		at, ok := first[e.f.EventID.String()]
		if before, seen := last[e.f.AggregateID]; !ok || seen && at < before {
			w.t.Errorf("%s: %s is missing (%v) or came before its predecessor", host, w.names(ids(e)), !ok)
		}
		last[e.f.AggregateID] = at
	}
}
