package history

import (
	"encoding/json"
	"strings"
	"time"
)

// Moment is a time in microseconds since 1970, by the one clock of the machine that writers, receivers, relay and
// PostgreSQL share. Zero means never.
type Moment int64

// Now is the present.
func Now() Moment { return At(time.Now()) }

// At turns a time into a Moment.
func At(t time.Time) Moment { return Moment(t.UnixMicro()) }

// Add moves a Moment.
func (m Moment) Add(d time.Duration) Moment { return m + Moment(d.Microseconds()) }

// Sub is the time from o to m.
func (m Moment) Sub(o Moment) time.Duration { return time.Duration(m-o) * time.Microsecond }

func (m Moment) String() string {
	if m == 0 {
		return "never"
	}
	return time.UnixMicro(int64(m)).UTC().Format("15:04:05.000000")
}

// Run is what the run was.
type Run struct {
	Seed       uint64        `json:"seed"`
	Profile    string        `json:"profile"`
	PostgreSQL int           `json:"postgresql"`
	Began      Moment        `json:"began"`
	For        time.Duration `json:"for"`
	Defect     string        `json:"defect,omitempty"` // planted into the relay
	Window     time.Duration `json:"window"`           // what a crash may repeat: what was taken so long before it
	AttemptFor time.Duration `json:"attempt_for"`      // deliver.timeout
}

// Outcomes of a transaction, as its writer knows it.
const (
	Committed = "committed"
	Aborted   = "aborted"
	Unknown   = "unknown" // the answer to its COMMIT was lost; the shadow table knows
)

// Transaction is one try of a writer.
type Transaction struct {
	Writer     int     `json:"w"`
	Number     int     `json:"n"`
	How        string  `json:"how,omitempty"` // what was special about it
	Began      Moment  `json:"began"`
	CommitSent Moment  `json:"sent,omitempty"`
	Ended      Moment  `json:"ended"`
	Outcome    string  `json:"outcome"`
	Low        uint64  `json:"low,omitempty"`  // the commit record begins at or above it
	High       uint64  `json:"high,omitempty"` // and ends at or below it; 0 when unknown
	Events     []Event `json:"events,omitempty"`
}

// Event is one row that a transaction inserted into the outbox and, the same, into the shadow table.
type Event struct {
	ID     string `json:"id"`
	Tenant string `json:"tenant"`
	Key    string `json:"key"`
	Seq    int    `json:"seq"` // within its key, in the order of commits
	Type   string `json:"type"`
	Body   string `json:"body"`             // hash of what receivers are to get
	Bad    bool   `json:"bad,omitempty"`    // no valid event: belongs into the quarantine
	Undone bool   `json:"undone,omitempty"` // its savepoint was rolled back
}

// Row is a row of the shadow table after the run: what really committed.
type Row struct {
	Event  string `json:"event_id"`
	Writer int    `json:"writer"`
	Number int    `json:"number"`
}

// Subscription is one subscription over its life.
type Subscription struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Tenant   string   `json:"tenant"`
	Events   []string `json:"events"`
	Ordering string   `json:"ordering"`
	Added    Moment   `json:"added"`             // when its INSERT had committed
	Removing Moment   `json:"removing,omitzero"` // when its DELETE was sent
	Removed  Moment   `json:"removed,omitzero"`  // when that had committed
}

// Matches tells whether the subscription is for a tenant's events of a type.
func (s *Subscription) Matches(tenant, typ string) bool {
	if tenant != s.Tenant {
		return false
	}
	for _, p := range s.Events {
		if prefix, ok := strings.CutSuffix(p, "*"); p == typ || ok && strings.HasPrefix(typ, prefix) {
			return true
		}
	}
	return false
}

// Answers that are no status.
const (
	AnswerHang  = 0  // none
	AnswerReset = -1 // the connection was reset
)

// Arrival is one request, written down and flushed before it was answered.
type Arrival struct {
	N       int    `json:"n"` // number over all receivers
	At      Moment `json:"at"`
	Sub     string `json:"sub"` // name of the subscription
	Event   string `json:"event"`
	Tenant  string `json:"tenant"`
	Type    string `json:"type"`
	Attempt int    `json:"attempt"`
	Body    string `json:"body"`            // hash
	Answer  int    `json:"answer"`          // that will be given
	Fault   string `json:"fault,omitempty"` // what is wrong with the request itself: signature, headers, envelope
}

// Taken tells whether the receiver took the event.
func (a *Arrival) Taken() bool { return a.Answer >= 200 && a.Answer <= 299 }

// Answered says when the answer to an arrival had been written, or that nobody waited for it any more.
type Answered struct {
	N    int    `json:"n"`
	At   Moment `json:"at"`
	Gone bool   `json:"gone,omitempty"`
}

// Kinds of incidents.
const (
	HoleRescued = "rescued" // the slot is made anew, and the gap read from the table before the stream goes on
	HoleAudited = "audited" // the stream goes on, and the next audit finds what it did not show
)

// HalfDead is the name of the action in which half of the endpoints take nothing and nothing else is hurt.
const HalfDead = "half-dead"

// Action is one thing that the nemesis did.
type Action struct {
	Name   string `json:"name"`
	Target string `json:"target,omitempty"`
	Detail string `json:"detail,omitempty"`
	Began  Moment `json:"began"`
	Ended  Moment `json:"ended"`          // when it was undone
	Ready  Moment `json:"ready,omitzero"` // when a relay was ready again; zero when it was not waited for
	Late   bool   `json:"late,omitempty"` // no relay was ready within the limit
	// What it explains.
	Repeats  bool   `json:"repeats,omitempty"`  // outcomes that were not recorded are lost
	Stalls   bool   `json:"stalls,omitempty"`   // nothing can be recorded meanwhile
	Rewinds  bool   `json:"rewinds,omitempty"`  // the slot may go back
	Incident string `json:"incident,omitempty"` // the stream has a hole, and how that is mended
	Fault    string `json:"fault,omitempty"`    // what went wrong with the action itself
}

// Exit is the end of a relay process.
type Exit struct {
	At     Moment `json:"at"`
	Relay  string `json:"relay"`
	PID    int    `json:"pid"`
	Code   int    `json:"code"` // -1 after a signal
	Wanted string `json:"wanted,omitempty"`
	// Standby tells that another relay was there to take over.
	Standby bool `json:"standby,omitempty"`
}

// Sample is what PostgreSQL said of the slot and of progress at one time. The slot was read first.
type Sample struct {
	Began     Moment `json:"began"`
	Ended     Moment `json:"ended"`
	Slot      bool   `json:"slot"`
	Confirmed uint64 `json:"confirmed"`
	Restart   uint64 `json:"restart"`
	Head      uint64 `json:"head"`
	Active    bool   `json:"active"`
	WALStatus string `json:"wal_status,omitempty"`
	Progress  uint64 `json:"progress"`
	Epoch     int64  `json:"epoch"`
}

// Transition is a row of relay.parked that came or went, as a trigger of the ledger noted it.
type Transition struct {
	At    Moment `json:"at"`
	Op    string `json:"op"` // INSERT, DELETE
	Sub   string `json:"subscription_id"`
	Event string `json:"event_id"`
}

// Delivery is a row of relay.deliveries, or of relay.parked with the status PENDING.
type Delivery struct {
	ID        string          `json:"id"`
	Sub       string          `json:"subscription_id"`
	Event     string          `json:"event_id"`
	Status    string          `json:"status"`
	Attempts  int             `json:"attempts"`
	Sequence  int64           `json:"sequence,omitempty"` // its number of its subscription's, 0 for none
	LastError string          `json:"last_error,omitempty"`
	Ended     Moment          `json:"ended,omitempty"`
	Failed    json.RawMessage `json:"history,omitempty"`
}

// Quarantined is a row of relay.quarantine.
type Quarantined struct {
	Event  string `json:"event_id"`
	Reason string `json:"reason"`
	Detail string `json:"detail"`
}

// End is how the run came to its end.
type End struct {
	Drained      bool          `json:"drained"`
	DrainTook    time.Duration `json:"drain_took"`
	Waiting      string        `json:"waiting,omitempty"`     // what it still waited for
	AuditMissing float64       `json:"audit_missing"`         // relay_audit_missing_total over all relays
	AuditRows    float64       `json:"audit_rows"`            // relay_audit_rows_total
	PeakMemory   int64         `json:"peak_memory,omitempty"` // of the largest relay, resident, in bytes
	Bad          []string      `json:"bad_output,omitempty"`  // lines that no relay may write
	Faults       []string      `json:"faults,omitempty"`      // what went wrong with the run itself
}
