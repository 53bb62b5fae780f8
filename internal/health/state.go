package health

// State is what an operator sees of the relay.
type State string

// The states.
const (
	Starting              State = "starting"
	Streaming             State = "streaming"
	Standby               State = "standby_waiting"
	Draining              State = "draining"
	Rescuing              State = "rescuing"
	Degraded              State = "degraded"          // it streams and records, and a part of its job fails
	RecordingStalled      State = "recording_stalled" // nothing gets through to the database
	ShuttingDown          State = "pg_shutting_down"
	Unreachable           State = "pg_unreachable"
	OutOfResources        State = "pg_out_of_resources" // no slot, connection, lock, memory or disk left
	ReadOnly              State = "pg_read_only"
	PublicationIncomplete State = "publication_incomplete"
	PublicationMissing    State = "publication_missing"
	SlotMissing           State = "slot_missing"
	SlotLost              State = "slot_lost"
	WrongServer           State = "wrong_server"
	Misconfigured         State = "misconfigured"
	DecodePoison          State = "decode_poison"
)

// order lists the states, the best first: of several conditions the last in this order decides.
var order = []State{Streaming, Standby, Starting, Draining, Rescuing, Degraded, RecordingStalled, ShuttingDown, Unreachable,
	OutOfResources, ReadOnly, PublicationIncomplete, PublicationMissing, SlotMissing, SlotLost, WrongServer, Misconfigured, DecodePoison}

// States lists them all, the best first.
func States() []State { return append([]State(nil), order...) }

// rank is the place of a state in the order; what is unknown is the worst.
func rank(s State) int {
	for i, known := range order {
		if s == known {
			return i
		}
	}
	return len(order)
}

// NeedsPerson reports whether a state may last until somebody does something.
func (s State) NeedsPerson() bool { return rank(s) >= rank(Degraded) && s != ShuttingDown }

// Normal reports whether a state belongs to a relay that works, or that starts or stops as asked.
func (s State) Normal() bool { return rank(s) < rank(Rescuing) }
