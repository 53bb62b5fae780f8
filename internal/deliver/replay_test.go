package deliver

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// replayOf asks for a replay the way the command line does.
func (w *world) replayOf(sub uuid.UUID, found int) int64 {
	w.t.Helper()
	id, _, err := (Replays{DB: w.pool}).Ask(context.Background(), ReplayRequest{Subscription: sub, From: time.Now().Add(-time.Hour),
		To: time.Now(), Rate: 100, Found: int64(found), Spec: "1h"})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// again replays entries for one subscription, as the next rows of a replay.
func (l *leader) again(replay int64, sub uuid.UUID, first int, entries ...*entry) {
	l.t.Helper()
	for i, e := range entries {
		f := e.f
		f.CommitLSN, f.Index, f.Replay, f.CommitTime = ReplayPosition(replay, int64(first+i)), 0, replay, time.Now()
		step := ReplayStep{Replay: replay, Cursor: ReplayCursor{Key: int64(first + i), ID: f.EventID.String()}}
		if err := l.p.Replay(context.Background(), &f, l.dir.Get(sub), step); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *leader) readAll(replay int64) { l.p.ReplayRead(ReplayStep{Replay: replay, ReadAll: true}) }

func (w *world) replayState(id int64) *ReplayRecord {
	w.t.Helper()
	r, err := (Replays{DB: w.pool}).Get(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestReplay_SendsEachKeyInOrderAndCountsWhatBecameOfIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead()
	var all []*entry
	for i := range 60 {
		all = append(all, w.commit([]string{"a", "b", "c"}[i%3])...)
	}
	w.sink.on("a.test", failFirst(1))
	id := w.replayOf(sub, len(all))
	l.again(id, sub, 0, all[:30]...)
	l.again(id, sub, 30, all[30:]...)
	l.readAll(id)
	eventually(t, "the replay is done", func() bool { return w.replayState(id).State == ReplayDone })
	w.inKeyOrder("a.test", all...)
	if r := w.replayState(id); r.Queued != 60 || r.Delivered != 60 || r.Dead != 0 || r.Waiting() != 0 || r.EndedAt == nil {
		t.Errorf("%+v", r)
	}
	if n := w.count("SELECT count(*) FROM relay.deliveries WHERE replay_id = $1 AND attempts = 2 AND status = 'DELIVERED'", id); n != 60 {
		t.Errorf("%d deliveries are recorded as the replay's, want 60", n)
	}
}

func TestReplay_NeitherWaitsForTheLiveEventsOfAKeyNorHoldsThemUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, time.Hour} })
	old, live, stuck, older := w.commit("k"), w.commit("k"), w.commit("j"), w.commit("j")
	bad := []string{old[0].f.EventID.String(), stuck[0].f.EventID.String()}
	w.sink.on("a.test", func(ctx context.Context, r *Request, try int) Outcome {
		if slices.Contains(bad, r.EventID) {
			return errOutcome
		}
		return ok(ctx, r, try)
	})
	id := w.replayOf(sub, 2)
	l.again(id, sub, 0, old...)
	eventually(t, "the replayed one waits for its next attempt", func() bool {
		return w.count("SELECT count(*) FROM relay.parked WHERE attempts = 1") == 1
	})
	l.take(live...)
	w.arrived("a.test", live...)
	l.take(stuck...)
	eventually(t, "a live one waits too", func() bool { return w.count("SELECT count(*) FROM relay.parked WHERE attempts = 1") == 2 })
	l.again(id, sub, 1, older...)
	w.arrived("a.test", live[0], older[0])
}

func TestReplay_LeavesTheEndpointToLiveEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Hour })
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	var old []*entry
	for _, k := range strings.Split("abcdefghijklmnopqrst", "") {
		old = append(old, w.commit(k)...)
	}
	id := w.replayOf(sub, len(old))
	l.again(id, sub, 0, old...)
	l.readAll(id)
	eventually(t, "its share is on the wire", func() bool { return w.sink.attempts("a.test") == 2 })
	live := l.send("u", "v", "w", "x", "y", "z")
	eventually(t, "the rest of the endpoint is for live events", func() bool { return w.sink.attempts("a.test") == 8 })
	w.sink.mu.Lock()
	began := slices.Clone(w.sink.started["a.test"])
	w.sink.mu.Unlock()
	for _, e := range live {
		if !slices.Contains(began, e.f.EventID.String()) {
			t.Errorf("%s waits for the replay", w.names(ids(e)))
		}
	}
	if n := l.p.Load().Loaded; n > 4*maxFollower {
		t.Errorf("%d replayed deliveries are in memory", n)
	}
	close(release)
	eventually(t, "the replay is done", func() bool { return w.replayState(id).State == ReplayDone })
	w.inKeyOrder("a.test", append(old, live...)...)
}

func TestReplay_LeavesMostOfAllAttemptsToLiveEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Concurrency, o.HandoverAfter = 16, time.Hour })
	release := make(chan struct{})
	defer close(release)
	for _, host := range strings.Split("abcdef", "") {
		sub := w.subscribe(host)
		l.refresh(sub)
		w.sink.on(host, hold(release))
		l.again(w.replayOf(sub, 2), sub, 0, append(w.commit("k"), w.commit("j")...)...)
	}
	live := w.subscribe("live.test")
	eventually(t, "replays have what they may have", func() bool { return l.p.Load().InFlight == 4 })
	eventually(t, "all of them wait for more", func() bool { return l.p.Load().Loaded == 12 })
	if n := l.p.Load().InFlight; n != 4 {
		t.Errorf("%d attempts of replays at once, of 16", n)
	}
	l.refresh(live)
	sent := l.send("k")
	w.arrived("live.test", sent...)
}

// So many failures of the stream give an endpoint up; those of a replay say nothing.
func TestReplay_SaysNothingOfTheHealthOfTheEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0} })
	var old []*entry
	for range 20 {
		old = append(old, w.commit(uuid.NewString())...)
	}
	w.sink.on("a.test", failing)
	id := w.replayOf(sub, len(old))
	l.again(id, sub, 0, old...)
	l.readAll(id)
	eventually(t, "all of the replay are dead", func() bool { return w.replayState(id).Dead == int64(len(old)) })
	if r := w.replayState(id); r.State != ReplayDone {
		t.Errorf("state %s with nothing left to do", r.State)
	}
	l.p.mu.Lock()
	s := &l.dir.Get(sub).lanes
	open, since := s.breaker.open, s.health.since
	l.p.mu.Unlock()
	if open || !since.IsZero() {
		t.Errorf("given up %v, failing since %s, by the replay's failures", open, since)
	}
	// A dead one can be tried again, and counts where it ends then.
	w.sink.on("a.test", ok)
	var dead uuid.UUID
	if err := w.pool.QueryRow(t.Context(), "SELECT id FROM relay.deliveries WHERE status = 'DEAD' LIMIT 1").Scan(&dead); err != nil {
		t.Fatal(err)
	}
	if err := l.p.Retry(t.Context(), w.pool, l.dir, dead, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the retried one is counted as delivered", func() bool {
		r := w.replayState(id)
		return r.Delivered == 1 && r.Dead == int64(len(old))-1
	})
}

func TestReplay_IsTheSameWhileItRunsAndAnotherOneAfterwards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead()
	replays := Replays{DB: w.pool}
	q := ReplayRequest{Subscription: sub, From: time.Now().Add(-time.Hour), To: time.Now(), Rate: 1, Found: 1, Spec: "1h"}
	first, already, err := replays.Ask(t.Context(), q)
	if err != nil || already {
		t.Fatal(already, err)
	}
	if id, already, err := replays.Ask(t.Context(), q); id != first || !already || err != nil {
		t.Errorf("asked twice: %d, %v, %v; want the one that runs", id, already, err)
	}
	other := q
	other.Spec = "2h"
	if _, _, err := replays.Ask(t.Context(), other); err == nil || !strings.Contains(err.Error(), "relay replay cancel") {
		t.Errorf("another request while one runs: %v", err)
	}
	l.readAll(first)
	eventually(t, "the first is done", func() bool { return w.replayState(first).State == ReplayDone })
	if id, already, err := replays.Ask(t.Context(), q); id == first || already || err != nil {
		t.Errorf("asked again on purpose: %d, %v, %v; want a new one", id, already, err)
	}
}

func TestReplay_CancelEndsWhatWaitsAndLetsTheStreamGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead()
	old := slices.Concat(w.commit("a"), w.commit("a"), w.commit("b"), w.commit("c"))
	release := make(chan struct{})
	w.sink.on("a.test", hold(release))
	id := w.replayOf(sub, len(old))
	l.again(id, sub, 0, old...)
	eventually(t, "attempts are on the wire", func() bool { return w.sink.attempts("a.test") == 2 })
	l.p.CancelReplay(l.dir.Get(sub), id, "enough")
	eventually(t, "it is cancelled", func() bool { return w.replayState(id).State == ReplayCancelled })
	close(release)
	eventually(t, "nothing is on the wire", func() bool { return l.p.Load().InFlight == 0 })
	live := l.send("a", "b", "c")
	eventually(t, "live events go on", func() bool { return w.ended(StatusDelivered) == len(live) })
	if r := w.replayState(id); r.Cancelled != 4 || r.Detail == nil || *r.Detail != "enough" {
		t.Errorf("%+v", r)
	}
	if n := w.ended(StatusCancelled); n != 4 {
		t.Errorf("%d records of cancelled deliveries, want 4", n)
	}
	if load := l.p.Load(); load != (Load{}) || w.parked() != 0 || l.p.Parked() != 0 {
		t.Errorf("load %+v, %d parked: want nothing", load, w.parked())
	}
	if n := w.sink.attempts("a.test"); n != 2+len(live) {
		t.Errorf("%d attempts, want %d", n, 2+len(live))
	}
}

func TestReplay_GoesOnFromItsCursorAfterACrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead()
	var all []*entry
	for i := range 40 {
		all = append(all, w.commit([]string{"a", "b"}[i%2])...)
	}
	id := w.replayOf(sub, len(all))
	w.sink.on("a.test", failing)
	l.again(id, sub, 0, all[:20]...)
	l.p.ReplayRead(ReplayStep{Replay: id, Cursor: ReplayCursor{Key: 19, ID: "x"}, Skipped: make([]ReplaySkip, 3)})
	eventually(t, "rows and cursor are written", func() bool { return w.replayState(id).Skipped == 3 })
	l.kill()
	w.sink.on("a.test", ok)
	next := w.lead()
	running, err := LoadRunningReplays(t.Context(), w.pool)
	if err != nil || len(running) != 1 {
		t.Fatal(running, err)
	}
	r := running[0]
	if r.Cursor != (ReplayCursor{Key: 19, ID: "x"}) || r.Queued != 20 {
		t.Fatalf("goes on from %+v with %d queued", r.Cursor, r.Queued)
	}
	next.again(id, sub, int(r.Queued), all[20:]...)
	next.readAll(id)
	eventually(t, "the replay is done", func() bool { return w.replayState(id).State == ReplayDone })
	w.inKeyOrder("a.test", all...)
}

func TestReplayPosition_IsAboveEveryStreamAndGrows(t *testing.T) {
	t.Parallel()
	last := uint64(1) << 63
	for _, p := range [][2]int64{{1, 0}, {1, 1}, {1, 1 << 40}, {2, 0}, {3, 7}, {1 << 20, 0}} {
		at := ReplayPosition(p[0], p[1])
		if at <= last {
			t.Errorf("replay %d, row %d: %x is not above %x", p[0], p[1], at, last)
		}
		last = at
	}
}
func TestReplay_ARetryThatIsAskedForIsMadeAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub := w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.Schedule.Delays = []time.Duration{0, time.Hour} })
	old := w.commit("k")
	w.sink.on("a.test", failFirst(1))
	l.again(w.replayOf(sub, 1), sub, 0, old...)
	eventually(t, "it waits for its next attempt", func() bool { return w.count("SELECT count(*) FROM relay.parked WHERE attempts = 1") == 1 })
	var id uuid.UUID
	if err := w.pool.QueryRow(t.Context(), "SELECT id FROM relay.parked").Scan(&id); err != nil {
		t.Fatal(err)
	}
	if err := l.p.Retry(t.Context(), w.pool, l.dir, id, 1); err != nil {
		t.Fatal(err)
	}
	w.arrived("a.test", old...)
}

// A large replay is cancelled little by little, and is over when all of it is.
func TestReplay_MuchIsCancelledLittleByLittle(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"at the first try": false, "though answers are lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if lost {
				w.db = &lostAnswers{Pool: w.pool}
			}
			sub := w.subscribe("a.test")
			const n = 2*cancelRows + 7
			id := w.replayOf(sub, n)
			w.exec("UPDATE relay.replays SET queued = $1, cancel = true", n)
			w.parkRows(n, sub, id, "now() + interval '1 h'")
			l := w.lead()
			before := l.rec.Written()
			l.p.CancelReplay(l.dir.Get(sub), id, "enough")
			eventually(t, "it is cancelled", func() bool {
				state := w.replayState(id).State
				if n := w.parked(); n > 0 && state != ReplayRunning {
					t.Fatalf("it is %s, and %d rows are not: a crash now would leave them", state, n)
				}
				return state == ReplayCancelled && l.rec.Idle()
			})
			if r := w.replayState(id); r.Cancelled != n || w.ended(StatusCancelled) != n || *r.Detail != "enough" {
				t.Errorf("%d counted, %d on record, want %d: %+v", r.Cancelled, w.ended(StatusCancelled), n, r)
			}
			if got := l.rec.Written() - before; got < 3 {
				t.Errorf("it took %d batches", got)
			}
		})
	}
}
