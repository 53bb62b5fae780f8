package deliver

import (
	"context"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// letGoRows is how many lanes are let go at once, and letGoLimit how long the look for
// them may take: requests and the loader wait for it.
const (
	letGoRows  = 500
	letGoLimit = time.Minute
)

// haltedPlace is a place among the rows of a subscription.
type haltedPlace struct {
	lane  int64
	lsn   string
	index int32
}

var beforeAll = haltedPlace{lane: math.MinInt64, lsn: "0/0", index: -1}

// letHaltedGo lets some lanes go on that were halted before their subscription was
// changed so that dead deliveries give way. It tells whether there may be more.
func (p *Dispatcher) letHaltedGo(ctx context.Context, db Pool) (more bool, err error) {
	ep, at := p.halting()
	if ep == nil {
		return false, nil
	}
	if err := p.rec.wait(ctx); err != nil {
		return true, err
	}
	p.requests.Lock()
	defer p.requests.Unlock()
	p.mu.Lock()
	asked := maps.Clone(p.asked) // what of it is committed meanwhile, the look may not show
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, letGoLimit)
	defer cancel()
	rows, err := db.Query(ctx, sqlHaltedOf, [16]byte(ep.id), at.lane, at.lsn, at.index, letGoRows)
	if err != nil {
		return false, fmt.Errorf("read halted lanes: %w", err)
	}
	type halted struct {
		id uuid.UUID
		haltedPlace
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (halted, error) {
		var h halted
		err := row.Scan(&h.id, &h.lane, &h.lsn, &h.index)
		return h, err
	})
	if err != nil {
		return false, fmt.Errorf("read halted lanes: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range list {
		if _, asked := asked[h.id]; !asked && p.letsGo(ep) {
			p.giveWay(ep, uint64(h.lane), op{kind: opLetGo, ep: ep, id: h.id, at: time.Now()}) // #nosec G115 -- bits
		}
	}
	if len(list) < letGoRows {
		delete(p.toLetGo, ep)
	} else {
		p.toLetGo[ep] = list[len(list)-1].haltedPlace
	}
	return len(p.toLetGo) > 0, nil
}

// letsGo tells whether a dead delivery of an endpoint gives way now.
func (p *Dispatcher) letsGo(ep *Endpoint) bool {
	return !ep.lanes.removed && !ep.Subscription().halts() && !p.stopping
}

// halting returns an endpoint with lanes that are to be let go, nil when there is none.
func (p *Dispatcher) halting() (*Endpoint, haltedPlace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ep, at := range p.toLetGo {
		if p.letsGo(ep) {
			return ep, at
		}
		delete(p.toLetGo, ep)
	}
	return nil, haltedPlace{}
}

// giveWay takes a delivery that halts its lane out of it, by an op that removes its
// row, and lets the next go on.
func (p *Dispatcher) giveWay(ep *Endpoint, lane uint64, o op) {
	s := &ep.lanes
	p.asked[o.id] = struct{}{}
	s.dropParked(lane)
	o.lane = lane
	p.submit(o)
	if s.parked[lane] > 0 && s.lanes[lane] == nil {
		p.submit(op{kind: opPromote, ep: ep, lane: lane})
	}
}
