package deliver

import (
	"time"

	"github.com/google/uuid"
)

// opKind says what the Recorder is to write.
type opKind uint8

const (
	opPark         opKind = iota + 1 // a new row in relay.parked
	opUpdate                         // another attempt of a parked row is due at next
	opEnded                          // a delivery has ended; deletes: its parked row goes
	opPromote                        // the first row of a lane becomes due
	opDisable                        // the subscription is disabled for the reason in text
	opFailing                        // the endpoint has failed since at, was warned of at warned, and gets nothing before dead
	opHealthy                        // the endpoint works again, or is forgiven
	opCancel                         // the subscription is gone: cancel its rows
	opQuarantine                     // a row that could not become an event
	opHurry                          // what waits for the endpoint's sake is due at next
	opKick                           // somebody wants a waiting delivery tried now
	opRevive                         // somebody wants a dead delivery tried again
	opDiscard                        // somebody gives up a dead delivery that halts its lane
	opLetGo                          // a dead delivery that halts its lane gives way
	opLetAllGo                       // the subscription lets dead deliveries give way from now on
	opReplay                         // a replay has read on
	opReplayCancel                   // a replay ends for the reason in text, with all of it that waits
	opNote                           // something that happened to the endpoint: text and history say what
	opForget                         // a request is carried out, or a quarantined row is settled
)

var opNames = [...]string{opPark: "park", opUpdate: "update", opEnded: "end", opPromote: "promote", opDisable: "disable", opFailing: "failing",
	opHealthy: "healthy", opCancel: "cancel", opQuarantine: "quarantine", opHurry: "hurry", opKick: "kick", opRevive: "revive",
	opDiscard: "discard", opLetGo: "let go", opLetAllGo: "let all go", opReplay: "replay", opReplayCancel: "cancel replay", opForget: "forget"}

func (k opKind) String() string { return opNames[k] }

// op is one thing for the Recorder to write. It holds copies of what changes in
// a Delivery, which goes on meanwhile.
type op struct {
	kind       opKind
	d          *Delivery
	ep         *Endpoint
	sub        *Subscription // of opDisable: as it was when that was decided
	lane       uint64
	next       time.Time // zero: waits behind others of its lane
	status     Status
	at         time.Time
	warned     time.Time
	dead       time.Time // of opPark and opUpdate: it was given up then and halts its lane; of opFailing: nothing starts before
	took       time.Duration
	attempts   int
	history    []byte
	lastError  string
	httpStatus int
	number     int64 // of the delivery; 0 for none, as once its subscription is gone
	mark       int64 // and its mark
	open       bool  // of opFailing: the circuit is open
	settles    bool  // it is the first record of a delivery from the stream
	deletes    bool
	text       string
	url        string // of opDisable: that is disabled. The subscription may have another one by now
	quarantine *QuarantineEntry
	id         uuid.UUID // delivery, for opKick, opRevive, opDiscard and opLetGo
	forget     forget
	aside      aside         // how much of it is given up, because the database refuses it
	refused    error         // and why
	absent     bool          // of opRevive, and of opPark without settles: there was no row to write; or it is set aside
	some, more bool          // of an op that is written in parts: it found rows, and not all of them went with it
	left       int           // of opHurry: so many rows at most
	size       int           // bytes that it holds until it is written
	accounted  []byte        // transactions that are settled with it, for relay.accounted
	written    chan struct{} // closed once the op is committed; nil: nobody waits
	replay     *ReplayStep   // of a row that a replay parked, and of opReplay and opReplayCancel
}

// touchesTable tells whether rows of the op's lane must not be loaded until it
// is committed: they may be stale.
func (o *op) touchesTable() bool {
	switch o.kind {
	case opPark, opUpdate, opPromote, opRevive, opDiscard, opLetGo:
		return true
	}
	return o.deletes
}

// arrived reports whether the op records that a delivery has arrived.
func (o *op) arrived() bool { return o.kind == opEnded && o.status == StatusDelivered }

// holdsEvent reports whether the op is about one event, of which a reference can be kept.
func (o *op) holdsEvent() bool {
	switch o.kind {
	case opPark, opUpdate, opEnded, opQuarantine:
		return true
	}
	return false
}

// numbered is the number that is on record with the op for the first time, 0 for none.
func (o *op) numbered() int64 {
	if o.kind != opPark && !o.settles {
		return 0
	}
	return o.number
}

// weight is how many bytes an op holds until it is written.
func (o *op) weight() int {
	n := len(o.history)
	if o.d != nil {
		n += len(o.d.flight.Body)
	}
	if o.quarantine != nil {
		n += len(o.quarantine.Raw)
	}
	return n
}

// forget names rows of relay.requests and relay.quarantine to delete; 0: none.
type forget struct{ request, quarantine int64 }

// QuarantineEntry is a row of the outbox that could not become an event.
type QuarantineEntry struct {
	CommitLSN  uint64
	Index      int
	CommitTime time.Time
	Reason     string
	Detail     string
	EventID    string
	TenantID   string
	EventType  string
	XID        uint64    // transaction that wrote the row; 0: not known
	Only       uuid.UUID // the subscription whose delivery it is; zero: the row for all
	Size       int       // bytes of what is not kept
	Raw        []byte    // the whole row, encoded without loss; nil: it is to be read from the outbox by its id
	Ticket     Ticket
}
