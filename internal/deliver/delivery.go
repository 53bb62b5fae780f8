package deliver

import (
	"encoding/binary"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"
)

// Ticket is an event's claim on the stream's watermark. Done is called once,
// when everything about the event is about to be recorded.
type Ticket interface{ Done() }

// Flight is one event on its way, with its place in the stream. All deliveries
// of the event share it, and its fields are read-only after Admit.
type Flight struct {
	EventID       uuid.UUID
	TenantID      string
	Type          string
	AggregateType string
	AggregateID   string
	Key           uint64 // ordering key
	CommitLSN     uint64 // begin of the commit record of its transaction
	Index         int    // number of its row within the transaction
	CommitTime    time.Time
	XID           uint64 // transaction that wrote its row into the outbox; 0: not known
	Body          []byte // what receivers get, byte by byte
	Ticket        Ticket // nil for an event that comes from the table
	Replay        int64  // the replay that it belongs to; 0: it came through the stream

	open int // deliveries that are not recorded; belongs to the Recorder after Admit
}

// Delivery is one event for one subscription.
type Delivery struct {
	id      uuid.UUID
	flight  *Flight
	ep      *Endpoint
	lane    *lane
	laneKey uint64
	arrived time.Time
	number  int64 // of its subscription's; 0: it has none
	mark    int64 // number, or its negative, where the record is found by it; 0: it is not

	attempts   int
	history    []byte // JSON array of attempts, nil while none has failed
	lastError  string
	lastStatus int

	durable bool // it has a row in relay.parked, or one is on its way there
	onWire  bool
	ended   bool // its end was given to the Recorder
	aside   bool // the database refuses its row; a reference is kept in quarantine
	forget  bool // the database refuses its history
	dropped bool // its replay was cancelled while it was on the wire
	slow    bool // its attempt has been on the wire for longer than slowAfter
	hangs   bool // its attempt has been on the wire for longer than HandoverAfter
	stored  bool // its attempt began with a row
	probe   bool // its attempt is the probe of an open breaker
	early   bool // and begins before the time that it waits for, so that a failure costs it nothing

	startedAt time.Time
	due       int64 // of one with a row: the time that this names, in Unix nanoseconds; 0: none

	older, newer *Delivery // neighbours in the list of deliveries without a row
	listed       bool
}

// later is a time, or that for which the delivery waits by its schedule, when its attempt began before.
func (d *Delivery) later(t time.Time) time.Time {
	if due := time.Unix(0, d.due); d.early && due.After(t) {
		return due
	}
	return t
}

// deliveryID derives the id of a delivery: a version 7 UUID whose time is the
// commit time and whose other bits are a hash of event, subscription and
// transaction. So a delivery has the same id however often it is begun again,
// ids sort by time, and an id tells its partition.
func deliveryID(f *Flight, sub uuid.UUID) uuid.UUID {
	var in [41]byte
	copy(in[:16], f.EventID[:])
	copy(in[16:32], sub[:])
	binary.BigEndian.PutUint64(in[32:40], f.CommitLSN)
	h1 := xxhash.Sum64(in[:40])
	in[40] = 1
	h2 := xxhash.Sum64(in[:])
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[0:8], uint64(f.CommitTime.UnixMilli())<<16|h2&0xffff) // after 1970
	binary.BigEndian.PutUint64(id[8:16], h1)
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// IDsFrom is where the ids of deliveries begin whose events were committed at a time, to the millisecond, or later.
func IDsFrom(at time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[0:8], uint64(max(0, at.UnixMilli()))<<16) // #nosec G115 -- not negative
	return id
}

func newDelivery(f *Flight, ep *Endpoint, now time.Time) *Delivery {
	d := &Delivery{id: deliveryID(f, ep.id), flight: f, ep: ep, arrived: now}
	d.laneKey = laneKey(f, ep, d.id)
	return d
}

// laneKey is the event's ordering key, or, for a subscription without order, a
// key of the delivery's own. A replay has lanes of its own.
func laneKey(f *Flight, ep *Endpoint, id uuid.UUID) uint64 {
	key := f.Key
	if ep.Subscription().Ordering == OrderingNone {
		key = binary.BigEndian.Uint64(id[8:])
	}
	if f.Replay != 0 {
		return replayLane(f.Replay, key)
	}
	return key
}

// liveList holds the deliveries without a row, oldest first.
type liveList struct{ oldest, newest *Delivery }

func (l *liveList) add(d *Delivery) {
	d.listed, d.older, d.newer = true, l.newest, nil
	if l.newest != nil {
		l.newest.newer = d
	} else {
		l.oldest = d
	}
	l.newest = d
}

func (l *liveList) remove(d *Delivery) {
	if !d.listed {
		return
	}
	if d.older != nil {
		d.older.newer = d.newer
	} else {
		l.oldest = d.newer
	}
	if d.newer != nil {
		d.newer.older = d.older
	} else {
		l.newest = d.older
	}
	d.listed, d.older, d.newer = false, nil, nil
}
