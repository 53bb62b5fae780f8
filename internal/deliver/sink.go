package deliver

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/outbox-relay/relay/internal/signature"
)

// Request is one attempt to be made. Its fields are read-only: the endpoint's
// are shared by all its attempts.
type Request struct {
	URL    *url.URL
	Signer *signature.Signer
	Header http.Header // that the subscription wants besides ours; nil for none
	// Identity, with the subscription's client certificate, is what sends it; nil: it has none, and the Sink's own does.
	Identity  http.RoundTripper
	EventID   string
	EventType string
	Body      []byte
	// ContentType of Body; "" is application/json.
	ContentType string
	Attempt     int // 1 for the first
	// Timeout is the subscription's own, of the whole attempt; 0: those of the Sink hold.
	Timeout  time.Duration
	Sequence int64 // number of the delivery among those of its subscription; 0: it has none
	// Subscription that it is for, which an endpoint of several can tell apart by it.
	Subscription string
}

// Outcome is how an attempt ended.
type Outcome struct {
	Reason     Reason // empty: success
	StatusCode int    // 0 when no answer came
	Detail     string // a short text without addresses or secrets, for the tenant
	Duration   time.Duration
	RetryAfter time.Duration // what the receiver asked for, 0 for nothing
	Gone       bool          // the receiver wants nothing more, ever (410)
	Phases     Phases        // what of it the Sink can tell
	Address    string        // that was dialed, for the operator
	Cause      string        // the error, for the operator
	Resent     bool          // a kept connection broke without an answer, and it was sent once more on a new one
	Answer     string        // first bytes of the answer's body, when it was a failure
	Aborted    bool          // we gave up ourselves because of a stop: says nothing of the endpoint
	OurFault   bool          // it failed on this side, as when the egress proxy is down: no reason to disable the endpoint

	entry []byte // for the delivery's history; the Dispatcher makes it
}

// Success tells whether the receiver took the event.
func (o Outcome) Success() bool { return o.Reason == "" && !o.Aborted }

// Throttled tells whether the receiver wants fewer attempts (429): it works, and
// the attempt costs the delivery none.
func (o Outcome) Throttled() bool { return o.Reason == ReasonHTTP429 }

// Unavailable tells whether the receiver takes nothing at all for now (503), so
// that its Retry-After holds for all that waits for it.
func (o Outcome) Unavailable() bool { return o.StatusCode == 503 }

// Sink makes one attempt. It returns when the attempt has ended or ctx has.
type Sink interface {
	Attempt(ctx context.Context, r *Request) Outcome
}
