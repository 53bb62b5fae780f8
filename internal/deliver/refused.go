package deliver

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/time/rate"
)

// refusal says what a failed try of a batch says about the batch.
type refusal uint8

const (
	// refusesNothing: the fault lies with the database or the way to it. The same batch is tried again.
	refusesNothing refusal = iota
	// refusesSize: the batch asks for more than the database gives at once. A smaller one may get through, and nothing
	// is wrong with what it holds.
	refusesSize
	// refusesContent: the database will never take something that the batch holds.
	refusesContent
)

// hugeOp is the size from which an op alone can be the reason for which the server is out of memory, or for which a
// message cannot be read.
const hugeOp = 16 << 20

// judgeRefusal tells what an error says of a batch of so many bytes. In doubt the database is at fault: a batch that is
// tried once too often costs time, and one that is set aside for nothing costs its records.
//
// Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
func judgeRefusal(err error, size int64) refusal {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		switch text := err.Error(); {
		case strings.Contains(text, "message body too large"), strings.Contains(text, "failed to encode"),
			strings.Contains(text, "unable to encode"):
			return refusesContent
		case errors.Is(err, context.DeadlineExceeded):
			return refusesSize
		}
		return refusesNothing
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "22", "23", "44", "54", "P0": // data, constraints, check options, limits of a value, what a trigger raises
		return refusesContent
	case "21": // a row twice in one statement
		return refusesContent
	}
	switch pg.Code {
	case "57014": // statement_timeout of the role or the database
		return refusesSize
	case "53200":
		if size >= hugeOp {
			return refusesContent
		}
	case "XX000":
		if strings.Contains(pg.Message, "invalid memory alloc request size") {
			return refusesContent
		}
	case "08P01":
		// Poolers end with it whatever they have no code for. These are the server's own words about a message.
		for _, text := range [...]string{"invalid message length", "insufficient data left in message", "no data left in message", "invalid string in message"} {
			if strings.Contains(pg.Message, text) {
				return refusesContent
			}
		}
	}
	return refusesNothing
}

// refusedError is what a try of a batch ends with that is not to be tried again as it is.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }

func (e *refusedError) Unwrap() error { return e.err }

// aside is how much of an op is given up because the database refuses it. Each step gives up more than the one before.
type aside uint8

const (
	asideNothing aside = iota
	asideHistory       // the history and the last error of its attempts
	asideRow           // its row: a reference is kept in quarantine
	asideNames         // and what is not ASCII in the names of that reference
)

// historyRefused is the last error of a delivery whose real one the database refuses.
const historyRefused = "other: the history of the attempts could not be recorded"

// setAside gives up a little more of an op that the database refuses.
func (o *op) setAside(err error) {
	o.refused = err
	if o.aside++; o.aside == asideHistory && (o.d == nil || o.history == nil && o.lastError == "") {
		o.aside++ // it has none
	}
	o.history = nil
	if o.lastError != "" {
		o.lastError = historyRefused
	}
}

// referenced reports whether a reference in quarantine stands for the op's row.
func (o *op) referenced() bool { return o.aside >= asideRow }

// mostAside is how many ops of a kind are set aside one after the other without a pause. When the database takes none
// in between, the fault is hardly theirs, and somebody should have the time to mend it.
const (
	mostAside  = 20
	asidePause = 250 * time.Millisecond
)

// asides is what the Recorder knows of ops that were set aside.
type asides struct {
	run  [opForget + 1]int // by kind: so many in a row
	any  bool              // run has some
	tell rate.Sometimes
}

// paceAsides waits before another op of a kind is set aside, when many were in a row. Recording counts as failing meanwhile.
func (r *Recorder) paceAsides(ctx context.Context, kind opKind, err error) error {
	if r.asides.run[kind] < mostAside {
		return nil
	}
	r.failed(err)
	r.opts.OnError(err)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(asidePause):
		return nil
	}
}

// countAsides counts what was set aside in a part that is committed, and says so.
func (r *Recorder) countAsides(part []op) {
	o := &part[0]
	switch {
	case o.aside == asideNothing:
		if r.asides.any {
			r.asides.any = false
			for i := range part {
				r.asides.run[part[i].kind] = 0
			}
			for _, n := range r.asides.run {
				r.asides.any = r.asides.any || n > 0
			}
		}
		return
	case !o.referenced():
		r.asides.tell.Do(func() {
			r.log.Warn("history of a delivery dropped, because the database refuses it", "event_id", o.d.flight.EventID, "subscription", o.ep.id,
				"error", o.refused)
		})
		return
	}
	r.asides.run[o.kind]++
	r.asides.any = true
	if !o.holdsEvent() {
		r.log.Error("record dropped, because the database refuses it", "what", o.kind.String(), "error", o.refused,
			"hint", "remove what refuses it, then restart the relay, which looks at everything that waits")
		return
	}
	q := o.reference()
	if o.kind != opQuarantine { // which was counted when its row came
		r.metrics.Quarantined(q.Reason)
	}
	r.asides.tell.Do(func() {
		r.log.Error("record set aside, because the database refuses it", "reason", q.Reason, "detail", q.Detail, "event_id", q.EventID,
			"subscription", q.Only, "bytes", q.Size,
			"hint", "see `relay quarantine list`; remove what refuses it, then run `relay quarantine retry`")
	})
}

// Reasons of entries in quarantine that stand for a record which the database refuses.
const (
	ReasonUnrecordable = "unrecordable" // of a delivery that has not arrived
	ReasonUnrecorded   = "unrecorded"   // of one that has, or was cancelled: there is nothing left to send
)

// reference is what is kept of an op in place of its row: enough to find the event in the outbox again.
func (o *op) reference() *QuarantineEntry {
	q := QuarantineEntry{Reason: ReasonUnrecordable}
	if o.kind == opQuarantine {
		q = *o.quarantine
		q.Size, q.Raw = len(q.Raw), nil
		q.Detail += "; " + refusedText(o.refused)
	} else {
		f := o.d.flight
		q.CommitLSN, q.Index, q.CommitTime, q.XID = f.CommitLSN, f.Index, f.CommitTime, f.XID
		q.EventID, q.TenantID, q.EventType, q.Size = f.EventID.String(), f.TenantID, f.Type, len(f.Body)
		q.Only = o.ep.id
		q.Detail = o.standing() + "; " + refusedText(o.refused)
		if o.kind == opEnded && o.status != StatusDead {
			q.Reason = ReasonUnrecorded
		}
	}
	if o.aside >= asideNames {
		q.Detail, q.EventID, q.TenantID, q.EventType = ascii(q.Detail), ascii(q.EventID), ascii(q.TenantID), ascii(q.EventType)
	}
	return &q
}

// standing says in words where the delivery of an op stood.
func (o *op) standing() string {
	switch {
	case o.kind == opPark, o.kind == opUpdate && o.dead.IsZero():
		return "not delivered yet"
	case o.kind == opUpdate || o.status == StatusDead:
		return "not delivered, and given up"
	case o.status == StatusCancelled:
		return "cancelled"
	}
	return "delivered"
}

// refusedText is what the database said, without the values that it shows in a detail.
func refusedText(err error) string {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return "the record could not be sent: " + printable(err.Error())
	}
	text := "the database refuses the record: " + printable(pg.Message) + " (SQLSTATE " + pg.Code + ")"
	if pg.ConstraintName != "" {
		text += ", constraint " + printable(pg.ConstraintName)
	}
	return text
}

// ascii replaces what is not printable ASCII.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
