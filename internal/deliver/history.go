package deliver

import (
	"encoding/json"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Attempt is one entry of a delivery's history. There are entries from the first
// failure on; a delivery that is taken at once has one when a connection was opened for
// it, and else none: nearly all of them go over connections that are open, and their
// records say what there is to say.
//
// Address, Cause and Answer are the operator's to see. The address and the error tell how a name
// resolves where the relay runs; the answer comes from an address that the egress
// policy allows, which is all that keeps it from showing an inside of ours.
type Attempt struct {
	N       int       `json:"n,omitempty"`      // by the schedule, from 1; 0: it cost none
	Probes  int       `json:"probes,omitempty"` // it tried an endpoint that fails, before its time; how many times in a row, of which this is the last
	At      time.Time `json:"at"`               // when it began
	Millis  int64     `json:"duration_ms"`
	Phases  Phases    `json:"phases_us,omitzero"`
	Status  int       `json:"status,omitempty"`
	Reason  Reason    `json:"reason,omitempty"` // empty: it was taken
	Detail  string    `json:"detail,omitempty"`
	Answer  string    `json:"answer,omitempty"` // first bytes of a failure's body, made valid text
	Address string    `json:"address,omitempty"`
	Cause   string    `json:"cause,omitempty"`  // the error, in more words than detail
	Resent  bool      `json:"resent,omitempty"` // sent once more on a new connection, because a kept one broke without an answer
}

// Phases are the parts of an attempt, in microseconds; 0 for what there was none
// of, as on a connection that was open already.
type Phases struct {
	DNS       int64 `json:"dns,omitempty"`
	Connect   int64 `json:"connect,omitempty"`
	TLS       int64 `json:"tls,omitempty"`
	FirstByte int64 `json:"first_byte,omitempty"` // from the request's end to the answer's begin
}

// maxHistory bounds the history of one delivery, in bytes: answers of 429 cost no
// attempt and may come for days. The oldest half goes.
const maxHistory = 64 << 10

// entry is the history's entry for an attempt that just ended, nil when it needs
// none. It is made while nobody waits for the dispatcher's lock.
func (d *Delivery) entry(o Outcome, now time.Time) []byte {
	if o.Aborted || o.Success() && d.history == nil && o.Phases.Connect == 0 && !o.Resent {
		return nil
	}
	a := Attempt{N: d.attempts + 1, At: now.Add(-o.Duration).UTC().Truncate(time.Millisecond),
		Millis: o.Duration.Milliseconds(), Phases: o.Phases, Status: o.StatusCode, Reason: o.Reason,
		Detail: printable(o.Detail), Address: printable(o.Address), Cause: printable(o.Cause), Resent: o.Resent}
	if !o.Success() {
		a.Answer = printable(o.Answer)
	}
	if o.Throttled() || d.early && !o.Success() {
		a.N = 0
	}
	if d.early && !o.Success() {
		a.Probes = probesOf(d.history) + 1
	}
	b, err := json.Marshal(a)
	if err != nil {
		return nil // a struct of plain fields always marshals
	}
	return b
}

// lastOf returns what stands in a history before its last entry, and that.
func lastOf(history []byte) (before []json.RawMessage, last Attempt) {
	var all []json.RawMessage
	if json.Unmarshal(history, &all) != nil || len(all) == 0 {
		return nil, last // none, or written by other hands
	}
	_ = json.Unmarshal(all[len(all)-1], &last)
	return all[:len(all)-1], last
}

// probesOf is how many probes in a row the last entry of a history stands for.
func probesOf(history []byte) int {
	_, last := lastOf(history)
	return last.Probes
}

// noteProbe adds the entry of a probe before its time to the history, in the place of those right before it: there may be
// one every few minutes for days.
func (d *Delivery) noteProbe(entry []byte) {
	if before, last := lastOf(d.history); last.Probes > 0 {
		d.history = nil
		if len(before) > 0 {
			d.history, _ = json.Marshal(before) // as it was read
		}
	}
	d.note(entry)
}

// note adds an attempt's entry to the history. Ops keep the old one.
func (d *Delivery) note(entry []byte) {
	switch {
	case entry == nil:
		return
	case d.history == nil:
		d.history = append(append([]byte{'['}, entry...), ']')
		return
	case len(d.history)+len(entry) > maxHistory:
		d.history = newerHalf(d.history)
	}
	grown := make([]byte, 0, len(d.history)+len(entry)+1)
	grown = append(append(grown, d.history[:len(d.history)-1]...), ',')
	d.history = append(append(grown, entry...), ']')
}

// newerHalf drops the older half of a history.
func newerHalf(history []byte) []byte {
	var all []json.RawMessage
	if err := json.Unmarshal(history, &all); err != nil {
		return history // written by other hands; it is not ours to mend
	}
	half, err := json.Marshal(all[len(all)/2:])
	if err != nil {
		return history
	}
	return half
}

// failed notes a failed attempt; one that was throttled, or that tried an endpoint before its time, is none.
func (d *Delivery) failed(o Outcome) {
	if !o.Throttled() && !d.early {
		d.attempts++
	}
	d.lastStatus = o.StatusCode
	d.lastError = string(o.Reason)
	if o.Detail != "" {
		d.lastError += ": " + printable(o.Detail)
	}
	if d.early {
		d.noteProbe(o.entry)
		return
	}
	d.note(o.entry)
}

// printable makes text that any terminal and any column can take: valid UTF-8
// without control characters other than newlines and tabs. PostgreSQL refuses a
// NUL, and a batch that it refuses would never be written.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return r
		case r == '\r':
			return -1
		case unicode.IsControl(r):
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}
