package deliver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Each delivery of the stream has a number, 1, 2, 3, ..., of its subscription's own. It is given when the event is admitted, and
// on record with the delivery, in one transaction. So a leader that takes over knows which numbers are taken, and gives the
// others to the events that come again, which come in the same order: a delivery that was sent and not recorded has the
// number again that it had, unless the rules of its subscription were changed in between.

// span is a range of numbers, both ends in it.
type span struct{ from, to int64 }

// numbers are those of one subscription that are on record: all up to whole, and those in ahead, which are above whole+1,
// sorted, and not next to each other.
type numbers struct {
	whole  int64
	ahead  []span
	latest time.Time // the latest commit time of those on record
}

// add puts the number of an event, which was committed at a time, on record.
func (n *numbers) add(v int64, committed time.Time) {
	if committed.After(n.latest) && committed.Before(time.Now().Add(clockSlack)) {
		n.latest = committed
	}
	if v <= n.whole {
		return
	}
	if v == n.whole+1 {
		n.whole = v
		if len(n.ahead) > 0 && n.ahead[0].from == v+1 {
			n.whole = n.ahead[0].to
			n.ahead = slices.Delete(n.ahead, 0, 1)
		}
		return
	}
	// The first span that ends at v-1 or above.
	i, _ := slices.BinarySearchFunc(n.ahead, v-1, func(s span, v int64) int {
		if s.to < v {
			return -1
		}
		return 1
	})
	switch {
	case i == len(n.ahead) || v < n.ahead[i].from-1:
		n.ahead = slices.Insert(n.ahead, i, span{v, v})
	case v == n.ahead[i].from-1:
		n.ahead[i].from = v
	case v == n.ahead[i].to+1:
		n.ahead[i].to = v
		if i+1 < len(n.ahead) && n.ahead[i+1].from == v+1 {
			n.ahead[i].to = n.ahead[i+1].to
			n.ahead = slices.Delete(n.ahead, i+1, i+2)
		}
	}
}

// remove takes the number of an event off the record. The latest commit time stays.
func (n *numbers) remove(v int64) {
	if v <= n.whole {
		if v < n.whole {
			n.ahead = slices.Insert(n.ahead, 0, span{v + 1, n.whole})
		}
		n.whole = v - 1
		return
	}
	for i := range n.ahead {
		s := n.ahead[i]
		if v < s.from || v > s.to {
			continue
		}
		var rest []span
		if v > s.from {
			rest = append(rest, span{s.from, v - 1})
		}
		if v < s.to {
			rest = append(rest, span{v + 1, s.to})
		}
		n.ahead = slices.Replace(n.ahead, i, i+1, rest...)
		return
	}
}

// forgetNumbers takes the numbers of ops off the record, because their batch is written in parts.
func forgetNumbers(ops []op) {
	for i := range ops {
		if n := ops[i].numbered(); n != 0 {
			ops[i].ep.numbers.remove(n)
		}
	}
}

// multirange is ahead as PostgreSQL writes an int8multirange.
func (n *numbers) multirange() string {
	b := []byte{'{'}
	for i, s := range n.ahead {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, '['), s.from, 10)
		b = strconv.AppendInt(append(b, ','), s.to, 10)
		b = append(b, ']')
	}
	return string(append(b, '}'))
}

// Records of ended deliveries are found by their numbers through marks: every 64th delivery of a subscription's has one, and in
// between they are found by their commit times, which go with the numbers but for markSlack. One that is older than that, as
// out of the quarantine or of a rescue, has a mark of its own, which is negative.
const (
	markEvery = 64
	markSlack = 5 * time.Second
)

// number gives a delivery its number. p.mu is held.
func (p *Dispatcher) number(d *Delivery) {
	d.number = p.nextNumber(d.ep)
	s, committed := &d.ep.lanes, d.flight.CommitTime
	switch {
	case committed.Before(s.latest.Add(-markSlack)), committed.After(d.arrived.Add(clockSlack)):
		d.mark = -d.number
	case d.number%markEvery == 0:
		d.mark = d.number
	}
	if committed.After(s.latest) && !committed.After(d.arrived.Add(clockSlack)) {
		s.latest = committed
	}
}

// nextNumber gives out a number that no delivery on record has. p.mu is held.
func (p *Dispatcher) nextNumber(ep *Endpoint) int64 {
	s := &ep.lanes
	if last, ok := p.lastNumbers[ep.id]; ok {
		// A subscription of this id was removed and is back: it goes on. Nothing of this Endpoint's is with the Recorder yet.
		s.given, s.latest = last.given, last.latest
		ep.numbers.whole, ep.numbers.latest = last.given, last.latest
		delete(p.lastNumbers, ep.id)
	}
	s.given++
	for len(s.taken) > 0 && s.given >= s.taken[0].from {
		s.given = s.taken[0].to + 1
		s.taken = s.taken[1:]
	}
	return s.given
}

// lastNumber is where the numbers of a subscription that is gone have ended.
type lastNumber struct {
	given  int64
	latest time.Time
}

// restoreNumbers learns which numbers are on record, and forgets those of subscriptions that are gone.
func (p *Dispatcher) restoreNumbers(ctx context.Context, db Pool, dir *Directory) error {
	rows, err := db.Query(ctx, sqlSequencesAll)
	if err != nil {
		return fmt.Errorf("load numbers of deliveries: %w", err)
	}
	defer rows.Close()
	var gone []uuid.UUID
	for rows.Next() {
		var id uuid.UUID
		var whole, from, end int64
		var latest time.Time
		if err := rows.Scan(&id, &whole, &from, &end, &latest); err != nil {
			return fmt.Errorf("load numbers of deliveries: %w", err)
		}
		ep := dir.Get(id)
		if ep == nil {
			gone = append(gone, id)
			continue
		}
		ep.numbers.whole, ep.lanes.given = whole, whole
		ep.numbers.latest, ep.lanes.latest = latest, latest
		if end > 0 {
			ep.numbers.ahead = append(ep.numbers.ahead, span{from, end - 1})
			ep.lanes.taken = append(ep.lanes.taken, span{from, end - 1})
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("load numbers of deliveries: %w", err)
	}
	if len(gone) == 0 {
		return nil
	}
	if _, err := db.Exec(ctx, sqlSequencesForget, gone); err != nil {
		return fmt.Errorf("forget numbers of deliveries: %w", err)
	}
	return nil
}
