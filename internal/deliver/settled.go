package deliver

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// settledKey names a delivery that was recorded above the recorded position.
type settledKey struct {
	commit uint64
	event  uuid.UUID
	sub    uuid.UUID
}

const settledSize = 8 + 16 + 16

func appendSettled(b []byte, k settledKey) []byte {
	b = binary.BigEndian.AppendUint64(b, k.commit)
	b = append(b, k.event[:]...)
	return append(b, k.sub[:]...)
}

// Settled is what an earlier leader recorded above the position at which this
// one begins. It empties itself once the stream is past it.
type Settled struct {
	mu   sync.Mutex
	keys map[settledKey]struct{}
	max  uint64
	// anywhere: commit positions do not count, because rows are read from the table,
	// which does not know them.
	anywhere bool
	// by event and subscription alone, until ForgetAnywhere: for rows that the stream
	// has passed over.
	pairs map[settledKey]struct{}
}

// LoadSettled reads relay.settled. anywhere makes it know deliveries by event and
// subscription alone, until Clear.
func LoadSettled(ctx context.Context, db querier, slot string, anywhere bool) (*Settled, error) {
	s := &Settled{keys: make(map[settledKey]struct{}), pairs: make(map[settledKey]struct{}), anywhere: anywhere}
	if faultpoint.Planted(faultpoint.SettledForgotten) {
		return s, nil
	}
	rows, err := db.Query(ctx, "SELECT entries FROM relay.settled WHERE slot = $1", slot)
	if err != nil {
		return nil, fmt.Errorf("load settled deliveries: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return nil, fmt.Errorf("load settled deliveries: %w", err)
		}
		for ; len(b) >= settledSize; b = b[settledSize:] {
			k := settledKey{commit: binary.BigEndian.Uint64(b), event: uuid.UUID(b[8:24]), sub: uuid.UUID(b[24:40])}
			s.max = max(s.max, k.commit)
			pair := k
			pair.commit = 0
			s.pairs[pair] = struct{}{}
			if anywhere {
				k = pair
			}
			s.keys[k] = struct{}{}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("load settled deliveries: %w", err)
	}
	return s, nil
}

// has tells whether a delivery was recorded, and forgets everything once the
// stream has passed the last of them.
func (s *Settled) has(k settledKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) == 0 {
		return false
	}
	switch {
	case s.anywhere:
		k.commit = 0
	case k.commit > s.max:
		s.keys = nil
		return false
	}
	_, ok := s.keys[k]
	return ok
}

// Len is the number of deliveries that will be skipped.
func (s *Settled) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys)
}

// Clear forgets everything.
func (s *Settled) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = nil
}

// Unsettled returns the endpoints for which an event was not recorded by an earlier
// leader, wherever in the stream it stood.
func (s *Settled) Unsettled(event uuid.UUID, eps []*Endpoint) []*Endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pairs) == 0 {
		return eps
	}
	var left []*Endpoint
	for _, ep := range eps {
		if _, ok := s.pairs[settledKey{event: event, sub: ep.id}]; !ok {
			left = append(left, ep)
		}
	}
	return left
}

// ForgetAnywhere makes Unsettled know nothing any more.
func (s *Settled) ForgetAnywhere() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pairs = nil
}
