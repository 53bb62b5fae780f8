package deliver

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// maxEndpointsAtOnce bounds one query of the loader.
const maxEndpointsAtOnce = 64

// Restore learns which lanes have rows in the table. It is called once, before
// anything is admitted.
func (p *Dispatcher) Restore(ctx context.Context, db Pool, dir *Directory) error {
	// A crash may have come between the delivery of a lane's head and the promotion
	// of the row behind it.
	if faultpoint.Planted(faultpoint.ParkedForgotten) {
		return nil
	}
	if _, err := db.Exec(ctx, sqlHeal); err != nil {
		return fmt.Errorf("heal parked lanes: %w", err)
	}
	rows, err := db.Query(ctx, sqlLanes)
	if err != nil {
		return fmt.Errorf("load parked lanes: %w", err)
	}
	defer rows.Close()
	orphans := make(map[uuid.UUID]bool)
	p.mu.Lock()
	defer p.mu.Unlock()
	for rows.Next() {
		var id uuid.UUID
		var lane int64
		var n int32
		var due *time.Time
		var replay *int64
		var halted bool
		if err := rows.Scan(&id, &lane, &n, &due, &replay, &halted); err != nil {
			return fmt.Errorf("load parked lanes: %w", err)
		}
		ep := dir.Get(id)
		if ep == nil {
			orphans[id] = true
			continue
		}
		s := &ep.lanes
		s.parked[uint64(lane)] += n // #nosec G115 -- bits
		s.total += int(n)
		if replay != nil {
			s.replay.of[uint64(lane)] = *replay // #nosec G115 -- bits
		}
		if due != nil {
			p.dueLane(ep, uint64(lane), *due) // #nosec G115 -- bits
		}
		if halted && !ep.Subscription().halts() { // changed while no relay ran
			p.toLetGo[ep] = beforeAll
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("load parked lanes: %w", err)
	}
	for _, ep := range dir.All() {
		sub := ep.Subscription()
		ep.lanes.disabled, ep.lanes.url, ep.lanes.enabled, ep.lanes.halts = ep.Held(), sub.URL, sub.enabledAt(), sub.halts()
		ep.lanes.pace.limit(sub.RateLimit)
	}
	p.tellLocked(dir.All()...)
	if err := p.restoreNumbers(ctx, db, dir); err != nil {
		return err
	}
	if err := p.restoreHealth(ctx, db, dir); err != nil {
		return err
	}
	for id := range orphans { // removed while no relay ran
		p.submit(op{kind: opCancel, ep: &Endpoint{id: id, lanes: newLaneSet()}})
	}
	return nil
}

// restoreHealth learns which endpoints failed under the leader before. Each is
// tried by one delivery first.
func (p *Dispatcher) restoreHealth(ctx context.Context, db Pool, dir *Directory) error {
	rows, err := db.Query(ctx, sqlFailingAll)
	if err != nil {
		return fmt.Errorf("load failing endpoints: %w", err)
	}
	var id uuid.UUID
	var since time.Time
	var warned, notBefore *time.Time
	var open bool
	now := time.Now()
	_, err = pgx.ForEachRow(rows, []any{&id, &since, &warned, &notBefore, &open}, func() error {
		ep := dir.Get(id)
		if ep == nil {
			return nil
		}
		s := &ep.lanes
		s.health = health{since: since}
		s.announced = open
		var held time.Time
		if warned != nil {
			s.health.warned = *warned
		}
		if !s.disabled {
			p.failing[ep] = struct{}{}
			p.open[ep] = struct{}{}
			if notBefore != nil {
				held = *notBefore
			}
			s.breaker.resume(now, held, p.opts.Breaker)
			p.line(ep)
			p.noteHeld(ep)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load failing endpoints: %w", err)
	}
	return nil
}

// minLoadGap keeps a stream of short retries from becoming a stream of queries.
const minLoadGap = 5 * time.Millisecond

// With rows of so many endpoints in the table, the loader looks through all of
// them no more often than this.
const (
	many    = 500
	restGap = 20 * time.Millisecond
)

func (p *Dispatcher) manyWait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due[dueWorks].Len()+p.due[dueUnknown].Len()+p.due[dueFails].Len() > many
}

// Endpoints that work may have backlogs for hours, and all that may be loaded is theirs
// then. So many lanes a second are loaded beside, to try the others.
const beyondRate = 20

// RunLoader brings parked deliveries back into memory when they are due and
// there is room for them at their endpoint. It returns when ctx ends. told hears of
// each try: its error, which is tried again, or nil.
func (p *Dispatcher) RunLoader(ctx context.Context, db Pool, told func(error)) error {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 50*time.Millisecond, 5*time.Second
	for {
		more, err := p.letHaltedGo(ctx, db)
		if err != nil && ctx.Err() == nil {
			told(err)
		}
		want, wait := p.wanted(time.Now())
		switch {
		case err != nil:
			wait = min(wait, retry.NextBackOff())
		case more:
			wait = min(wait, restGap)
		}
		if len(want.eps) > 0 {
			wait = minLoadGap
			if err := p.loadParked(ctx, db, want); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				p.again(want)
				told(fmt.Errorf("load parked deliveries: %w", err))
				wait = retry.NextBackOff()
			} else {
				told(nil)
				retry.Reset()
				if p.manyWait() {
					wait = restGap
				}
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
			continue
		}
		if err == nil {
			told(nil)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-p.load:
			if p.manyWait() {
				timer.Reset(restGap)
				<-timer.C
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// wish is what the loader asks the table for.
type wish struct {
	eps    []*Endpoint
	ids    [][16]byte
	lanes  []int32     // so many lanes of each,
	replay []bool      // of replays, or of the stream
	depth  []int32     // and so many deliveries of each lane
	until  []time.Time // of lanes whose heads wait for no later time

	// Lanes that are in memory, or whose rows are being written: a key stands for
	// another lane at each endpoint.
	skipID   [][16]byte
	skipLane []int64
	// Lanes whose heads have tried their endpoint before their time, and do not so again before others.
	triedID   [][16]byte
	triedLane []int64

	now             time.Time
	budget, replays int // lanes that may still be loaded, and of them of replays
}

// dueKey tells rows of the stream from rows of replays of one subscription.
type dueKey struct {
	sub    uuid.UUID
	replay bool
}

func (p *Dispatcher) dueKind(ep *Endpoint, replay bool, t time.Time) {
	if replay {
		p.dueReplay(ep, t)
		return
	}
	p.dueAt(ep, t)
}

func (w *wish) skip(ep *Endpoint, lane uint64) {
	w.skipID = append(w.skipID, ep.id)
	w.skipLane = append(w.skipLane, int64(lane)) // #nosec G115 -- bits
}

// wanted picks endpoints with due rows and room, those that work first, and tells
// how long nothing will be due when there is none.
func (p *Dispatcher) wanted(now time.Time) (wish, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := wish{now: now, budget: p.mostRows - (p.loaded - p.hanging), replays: maxReplayLanes} // what hangs has a row
	p.starved = false
	if p.stopping {
		return w, time.Minute
	}
	wait := time.Minute
	for class := range p.due {
		wait = min(wait, p.wantedOf(&w, dueClass(class)))
	}
	return w, wait
}

// wantedOf adds endpoints of one class to a wish, and tells how long nothing else of
// the class will be due.
func (p *Dispatcher) wantedOf(w *wish, class dueClass) time.Duration {
	list, now := &p.due[class], w.now
	var looked []*Endpoint
	trying := false
	wait := time.Minute
	for list.Len() > 0 {
		ep := list.eps[0]
		s := &ep.lanes
		if d := s.wake.Sub(now); d > 0 {
			wait = d
			break
		}
		if len(w.eps) >= maxEndpointsAtOnce {
			wait = 0
			break
		}
		most, beyond := math.MaxInt, 0
		if budget := w.budget - p.kept(class != dueWorks); budget <= 0 {
			p.starved = true // there are more than can be looked through each time
			if class == dueWorks {
				break
			}
			if p.beyond.TokensAt(now) < 1 {
				wait = time.Second / beyondRate
				break
			}
			most, beyond = 1, 1-budget
		}
		if class == dueFails && p.retries != nil {
			// Some at a time: one each would be many queries. And one of each, which tells whether it
			// works: more would be counted, there or not, and the others wait for that.
			tokens, some := p.retries.TokensAt(now), max(1, float64(p.retries.Burst())/10)
			if tokens < some && !trying || tokens < 1 {
				wait = time.Duration((some - tokens) / float64(p.retries.Limit()) * float64(time.Second))
				break
			}
			most, trying = 1, true
		}
		heap.Pop(list)
		if s.total == 0 || s.removed || s.disabled { // dueAt lines it up again
			continue
		}
		w.budget += beyond
		at, loading := p.wantedBy(w, ep, most)
		w.budget -= beyond
		if beyond > 0 {
			p.beyond.AllowN(now, loading)
		}
		if class == dueFails && p.retries != nil {
			p.retries.AllowN(now, loading)
		}
		if s.wake = at; !at.IsZero() {
			looked = append(looked, ep)
		}
	}
	for _, ep := range looked {
		at := ep.lanes.wake
		p.lineAt(ep, at)
		if d := at.Sub(now); d > 0 {
			wait = min(wait, d)
		} // else finish pokes the loader when there is room
	}
	return wait
}

// wantedBy adds an endpoint to a wish, with at most so many lanes. It tells when to
// look again and how many lanes are to be loaded.
func (p *Dispatcher) wantedBy(w *wish, ep *Endpoint, most int) (again time.Time, loading int) {
	s := &ep.lanes
	s.looked = w.now
	may, from := s.mayStart(w.now)
	earliest := func(t time.Time) {
		if again.IsZero() || t.Before(again) {
			again = t
		}
	}
	for _, replay := range [...]bool{false, true} {
		due := *s.dueTime(replay)
		if due.IsZero() {
			continue
		}
		if !may && from.IsZero() { // a probe is on the wire; finish looks again
			earliest(w.now)
			continue
		}
		if from.After(due) || s.breaker.open {
			due = from
		}
		if due.After(w.now) {
			earliest(due)
			continue
		}
		room, depth := p.loadRoom(s, replay, w.now, w.budget, w.replays)
		room, depth = min(room, most-loading), min(depth, most)
		if room <= 0 {
			earliest(w.now)
			continue
		}
		w.budget -= room
		loading += room
		if replay {
			w.replays -= room
		}
		w.add(ep, replay, room, depth)
	}
	return again, loading
}

// kept is how many lanes are kept for endpoints that work.
func (p *Dispatcher) kept(doubtful bool) int {
	if doubtful {
		return p.mostRows / 4
	}
	return 0
}

// roomFor is how many lanes of an endpoint may be loaded, and how many deliveries
// of each, when so many deliveries may be loaded in all.
func (p *Dispatcher) roomFor(s *laneSet, budget int) (lanes, depth int) {
	budget -= p.kept(!s.works)
	p.starved = p.starved || budget <= 0
	all, waiting := s.fromTable()
	lanes, depth = 2*p.opts.EndpointConcurrency-all, maxFollower
	switch {
	case s.breaker.open:
		lanes, depth = 1-waiting, 1
	case s.pace.slowed():
		lanes, depth = min(lanes, 2-waiting), 2
	}
	return min(lanes, budget), depth
}

// ever is longer than anything waits.
const ever = 10 * 365 * 24 * time.Hour

func (w *wish) add(ep *Endpoint, replay bool, lanes, depth int) {
	s := &ep.lanes
	*s.dueTime(replay) = time.Time{}
	w.replay = append(w.replay, replay)
	w.eps, w.ids = append(w.eps, ep), append(w.ids, ep.id)
	w.lanes, w.depth = append(w.lanes, int32(lanes)), append(w.depth, int32(depth)) // #nosec G115 -- small
	until := w.now
	if s.breaker.open {
		until = w.now.Add(ever)
		for key := range s.tried {
			w.triedID, w.triedLane = append(w.triedID, ep.id), append(w.triedLane, int64(key)) // #nosec G115 -- bits
		}
	}
	w.until = append(w.until, until)
	for key := range s.lanes {
		w.skip(ep, key)
	}
	for key, u := range s.unsettle {
		u.missed = true
		s.unsettle[key] = u
		w.skip(ep, key)
	}
}

// again puts back what could not be loaded.
func (p *Dispatcher) again(w wish) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, ep := range w.eps {
		p.dueKind(ep, w.replay[i], w.now)
	}
}

// orEmpty keeps a nil slice from becoming NULL.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (p *Dispatcher) loadParked(ctx context.Context, db Pool, w wish) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	byID := make(map[uuid.UUID]*Endpoint, len(w.eps))
	for _, ep := range w.eps {
		byID[ep.id] = ep
	}
	rows, err := db.Query(ctx, sqlLoad, w.ids, w.lanes, w.now, orEmpty(w.skipID), orEmpty(w.skipLane), w.depth,
		w.replay, w.until, orEmpty(w.triedID), orEmpty(w.triedLane))
	if err != nil {
		return err
	}
	defer rows.Close()
	var loaded []*Delivery
	for rows.Next() {
		var sub uuid.UUID
		var lane int64
		var lsn, history string
		var next *time.Time
		d := &Delivery{flight: &Flight{}, durable: true}
		f := d.flight
		if err := rows.Scan(&sub, &lane, &lsn, &f.Index, &f.EventID, &d.id, &d.attempts, &d.lastError,
			&d.lastStatus, &history, &f.CommitTime, &f.TenantID, &f.Type, &f.AggregateType, &f.AggregateID,
			&f.Body, &f.Replay, &d.number, &f.XID, &d.mark, &next); err != nil {
			return err
		}
		commit, err := pglogrepl.ParseLSN(lsn)
		if err != nil {
			return err
		}
		d.ep, d.laneKey, f.CommitLSN = byID[sub], uint64(lane), uint64(commit) // #nosec G115 -- bits
		if next != nil {
			d.due = next.UnixNano()
		}
		if history != "" {
			d.history = []byte(history)
		}
		loaded = append(loaded, d)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	due := make(map[dueKey]*time.Time, len(w.eps))
	next, err := db.Query(ctx, sqlDue, w.ids, w.now, w.replay)
	if err != nil {
		return err
	}
	defer next.Close()
	for next.Next() {
		var k dueKey
		var at *time.Time
		if err := next.Scan(&k.sub, &k.replay, &at); err != nil {
			return err
		}
		due[k] = at
	}
	if err := next.Err(); err != nil {
		return err
	}
	faultpoint.Hit(faultpoint.InLoad)
	p.take(w, loaded, due)
	return nil
}

// take puts loaded deliveries into their lanes.
func (p *Dispatcher) take(w wish, loaded []*Delivery, due map[dueKey]*time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	lanes := make(map[dueKey]int32)
	var lane *lane
	for i, d := range loaded {
		s := &d.ep.lanes
		first := i == 0 || loaded[i-1].ep != d.ep || loaded[i-1].laneKey != d.laneKey
		if first {
			lanes[dueKey{d.ep.id, d.flight.Replay != 0}]++
			lane = nil
		}
		// Its endpoint may have changed meanwhile.
		if s.removed || s.disabled || p.stopping || s.parked[d.laneKey] == 0 || (first && s.lanes[d.laneKey] != nil) ||
			(!first && (lane == nil || s.lanes[d.laneKey] != lane)) {
			continue
		}
		d.arrived = now
		s.loaded++
		p.loaded++
		p.join(d)
		lane = d.lane
	}
	for i, ep := range w.eps {
		k := dueKey{ep.id, w.replay[i]}
		if lanes[k] >= w.lanes[i] {
			p.dueKind(ep, k.replay, w.now) // there may be more
		} else if at := due[k]; at != nil {
			p.dueKind(ep, k.replay, *at)
			if lanes[k] == 0 && len(ep.lanes.tried) > 0 { // all have had their turn
				ep.lanes.tried = nil
				p.line(ep)
			}
		}
		p.enring(ep) // a replay may have waited for rows of the stream that did not come
	}
	p.start()
}
