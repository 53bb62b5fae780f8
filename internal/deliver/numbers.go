package deliver

import (
	"context"
	"fmt"
	"slices"
	"strconv"

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
	whole int64
	ahead []span
}

// add puts a number on record.
func (n *numbers) add(v int64) {
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

// nextNumber gives out a number that no delivery on record has. p.mu is held.
func (p *Dispatcher) nextNumber(ep *Endpoint) int64 {
	s := &ep.lanes
	if last := p.lastNumbers[ep.id]; last > s.given {
		// A subscription of this id was removed and is back: it goes on. Nothing of this Endpoint's is with the Recorder yet.
		s.given, ep.numbers.whole = last, last
		delete(p.lastNumbers, ep.id)
	}
	s.given++
	for len(s.taken) > 0 && s.given >= s.taken[0].from {
		s.given = s.taken[0].to + 1
		s.taken = s.taken[1:]
	}
	return s.given
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
		if err := rows.Scan(&id, &whole, &from, &end); err != nil {
			return fmt.Errorf("load numbers of deliveries: %w", err)
		}
		ep := dir.Get(id)
		if ep == nil {
			gone = append(gone, id)
			continue
		}
		ep.numbers.whole, ep.lanes.given = whole, whole
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
