package deliver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Random events for random endpoints that fail, hang and recover: without a
// crash each arrives exactly once, in the order of its key.
func TestDispatcher_DeliversExactlyOnceInKeyOrderWhateverTheEndpointsDo(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			w, sent := runRandomly(t, seed, false)
			for _, host := range []string{"a.test", "b.test", "c.test"} {
				w.inKeyOrder(host, sent...)
			}
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
			w, sent := runRandomly(t, 100+seed, true)
			for _, host := range []string{"a.test", "b.test", "c.test"} {
				w.firstInKeyOrder(host, sent...)
			}
		})
	}
}

// someParked are deliveries that wait in the table.
func (w *world) someParked() []uuid.UUID {
	w.t.Helper()
	rows, err := w.pool.Query(context.Background(), "SELECT id FROM relay.parked WHERE next_attempt_at IS NOT NULL LIMIT 5")
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

func runRandomly(t *testing.T, seed uint64, crashes bool) (*world, []*entry) {
	t.Helper()
	w := newWorld(t)
	rnd := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test that can be repeated
	salt := rnd.Uint64()
	for _, host := range []string{"a.test", "b.test", "c.test"} {
		w.subscribe(host)
		w.sink.on(host, func(ctx context.Context, r *Request, try int) Outcome {
			h := salt // the same fate each time for an event at a host
			for _, b := range []byte(r.URL.Host + r.EventID) {
				h = h*1099511628211 + uint64(b)
			}
			h ^= h >> 29
			wait := time.Duration(0)
			switch {
			case h%100 < 20 && try <= int(h>>8%3)+1: //nolint:gosec // small
				return errOutcome
			case h%100 < 23 && try <= int(h>>8%2)+1: //nolint:gosec // small
				return throttle(time.Duration(h>>12%20) * time.Millisecond) //nolint:gosec // small
			case h%100 < 25 && try == 1:
				out := errOutcome
				out.RetryAfter = 20 * time.Millisecond
				return out
			case h%100 < 31 && try == 1: // hangs past the hand-over
				wait = 60 * time.Millisecond
			case h%100 < 50:
				wait = time.Duration(h>>16%3) * time.Millisecond //nolint:gosec // small
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return Outcome{Aborted: true}
			}
			return Outcome{StatusCode: 200}
		})
	}
	tune := func(o *Options, ro *RecorderOptions) {
		o.HandoverAfter, o.WindowEvents, o.EndpointConcurrency, o.Concurrency = 30*time.Millisecond, 12, 3, 7
		o.Timeout = 100 * time.Millisecond
		for i := range o.Schedule.Delays[1:] {
			o.Schedule.Delays[i+1] = time.Duration(1+i) * time.Millisecond
		}
		ro.Batch, ro.Interval = 10, 3*time.Millisecond
	}
	l := w.lead(tune)
	subs := l.dir.All()
	var sent []*entry
	for range 60 {
		keys := make([]string, 1+rnd.IntN(5))
		for i := range keys {
			keys[i] = fmt.Sprintf("k%d", rnd.IntN(6))
		}
		rows := w.commit(keys...)
		sent = append(sent, rows...)
		l.take(rows...)
		switch rnd.IntN(16) {
		case 0:
			id := subs[rnd.IntN(len(subs))].id
			l.setActive(id, false)
		case 1:
			for _, ep := range subs {
				l.setActive(ep.id, true)
			}
		case 3: // somebody wants some that wait tried now
			for _, id := range w.someParked() {
				l.retry(id)
			}
		case 4: // an event comes out of the quarantine
			if !crashes {
				late := w.commit(fmt.Sprintf("late%d", rnd.IntN(3)))[0]
				f := late.f
				l.p.Release(&f, l.dir.Match(f.TenantID, f.Type), 0, 0)
				sent = append(sent, late)
			}
		case 5: // a probe of an endpoint that is given up may be on the wire
			id := subs[rnd.IntN(len(subs))].id
			w.exec("UPDATE relay.subscriptions SET url = url || '/x', updated_at = clock_timestamp() WHERE id = $1", id)
			l.refresh(id)
		case 2:
			if crashes {
				l.kill()
				l = w.lead(tune)
				l.replay()
			}
		}
	}
	sent = append(sent, l.send("last")...)
	for _, ep := range subs {
		l.setActive(ep.id, true)
	}
	eventually(t, "everything has ended", func() bool { return l.p.Load() == Load{} && l.rec.Idle() && w.parked() == 0 })
	l.quiet()
	if n := w.ended(StatusDead); n != 0 {
		t.Errorf("%d are dead", n)
	}
	if n := w.count("SELECT count(DISTINCT id) FROM relay.deliveries WHERE status = 'DELIVERED'"); n != 3*len(sent) {
		t.Errorf("%d deliveries are recorded, want %d", n, 3*len(sent))
	}
	if n := w.ended(StatusDelivered); n != 3*len(sent) {
		t.Errorf("%d rows of deliveries, want %d", n, 3*len(sent))
	}
	return w, sent
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
