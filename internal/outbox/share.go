package outbox

import (
	"sync"
	"time"
)

// Bounds of a Share.
const (
	shareWindow  = 5 * time.Minute
	shareBuckets = 30
	// shareLeast is how many rows must have come within the window before their share says anything.
	shareLeast = 50
)

// Share counts the rows of the last five minutes, and those of them that went into quarantine.
type Share struct {
	mu      sync.Mutex
	buckets [shareBuckets]shareBucket
}

// shareBucket is a thirtieth of the window.
type shareBucket struct {
	number int64 // which one since 1970
	rows   int
	bad    map[Reason]int
}

func bucketOf(at time.Time) int64 { return at.UnixNano() / int64(shareWindow/shareBuckets) }

// Note counts a row. why is empty unless it went into quarantine.
func (s *Share) Note(at time.Time, why Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := bucketOf(at)
	b := &s.buckets[n%shareBuckets]
	if b.number != n {
		*b = shareBucket{number: n}
	}
	b.rows++
	if why != "" {
		if b.bad == nil {
			b.bad = make(map[Reason]int)
		}
		b.bad[why]++
	}
}

// Above reports whether more than a share of the rows of the window went into quarantine, and the reason that most of them have.
// It is false while there are few rows.
func (s *Share) Above(now time.Time, limit float64) (most Reason, above bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := bucketOf(now)
	rows, bad := 0, 0
	by := make(map[Reason]int)
	for _, b := range s.buckets {
		if b.number <= n-shareBuckets || b.number > n {
			continue
		}
		rows += b.rows
		for why, k := range b.bad {
			by[why] += k
			bad += k
		}
	}
	for _, why := range Reasons() { // in a fixed order: of equals the first
		if by[why] > by[most] {
			most = why
		}
	}
	return most, rows >= shareLeast && float64(bad) > limit*float64(rows)
}
