package webhook

import (
	"crypto/tls"
	"net"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
)

// trace measures the phases of one attempt. Its hooks may be called when the
// attempt is over: a connection that was dialed for it, and that another attempt
// got first, is finished in the background.
//
// It has no Got1xxResponse hook, and must never have one: net/http then stops
// counting informational answers against its limit of header bytes, and an
// endpoint could send them for ever.
type trace struct {
	mu     sync.Mutex
	phases deliver.Phases
	remote net.Addr
	dialed string // before there is a connection

	resolving, connecting, shaking, written time.Time
}

func (t *trace) hooks() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { t.begin(&t.resolving) },
		DNSDone:  func(httptrace.DNSDoneInfo) { t.end(&t.resolving, &t.phases.DNS) },
		ConnectStart: func(_, addr string) {
			t.begin(&t.connecting)
			t.mu.Lock()
			defer t.mu.Unlock()
			t.dialed = addr
		},
		ConnectDone:       func(string, string, error) { t.end(&t.connecting, &t.phases.Connect) },
		TLSHandshakeStart: func() { t.begin(&t.shaking) },
		TLSHandshakeDone:  func(tls.ConnectionState, error) { t.end(&t.shaking, &t.phases.TLS) },
		GotConn: func(i httptrace.GotConnInfo) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.remote = i.Conn.RemoteAddr()
			if i.Reused { // what was dialed meanwhile was not for this attempt
				t.phases = deliver.Phases{}
			}
		},
		WroteRequest: func(httptrace.WroteRequestInfo) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.written = time.Now()
		},
		GotFirstResponseByte: func() { t.end(&t.written, &t.phases.FirstByte) },
	}
}

// begin notes the begin of a phase. Of two addresses that are dialed at once the
// first counts.
func (t *trace) begin(at *time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at.IsZero() {
		*at = time.Now()
	}
}

func (t *trace) end(from *time.Time, took *int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !from.IsZero() {
		*took = time.Since(*from).Microseconds()
	}
}

// fill puts what was measured into an outcome.
func (t *trace) fill(out *deliver.Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out.Phases = t.phases
	switch {
	case out.Success():
	case t.remote != nil:
		out.Address = t.remote.String()
	default:
		out.Address = t.dialed
	}
}
