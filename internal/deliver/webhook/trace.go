package webhook

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
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
	conn   net.Conn
	before uint64 // what had come in on it before the request, in egress.Received
	reused bool   // conn has carried an earlier request
	began  bool   // a first byte of the answer has come
	stray  bool
	remote net.Addr
	dialed string // before there is a connection
	shook  error  // that a handshake of TLS ended with

	resolving, connecting, shaking, written time.Time

	headers time.Duration // that the headers of the answer may be on their way; 0: as long as the attempt lasts
	giveUp  func()        // ends the attempt when they are late
	waiting *time.Timer   // nil: they are not waited for
	late    bool
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
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			t.end(&t.shaking, &t.phases.TLS)
			if err != nil {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.shook = err
			}
		},
		GotConn: func(i httptrace.GotConnInfo) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.remote = i.Conn.RemoteAddr()
			t.conn = i.Conn
			t.before, _ = egress.Received(i.Conn)
			t.reused = i.Reused
			if i.Reused { // what was dialed meanwhile was not for this attempt
				t.phases = deliver.Phases{}
			}
		},
		WroteRequest: func(httptrace.WroteRequestInfo) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.written = time.Now()
			if t.headers > 0 && t.waiting == nil {
				t.waiting = time.AfterFunc(t.headers, t.expire)
			}
		},
		GotFirstResponseByte: func() {
			t.end(&t.written, &t.phases.FirstByte)
			t.answered()
		},
	}
}

// answered looks whether the answer that begins was there before its request, which net/http does not tell. Then
// nothing on this connection can be trusted: the answers to later requests would be off by one as well. The
// transport may hand it on already, so it is closed here and now.
func (t *trace) answered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	// On a new connection there is no earlier request that an answer could belong to.
	if t.began = true; t.conn == nil || !t.reused {
		return
	}
	if n, ok := egress.Received(t.conn); ok && n == t.before {
		t.stray = true
		below := t.conn
		if secure, ok := below.(*tls.Conn); ok {
			below = secure.NetConn() // without a last word, for which TLS could wait
		}
		_ = below.Close()
	}
}

// silent tells whether there was a connection on which nothing came.
func (t *trace) silent() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn != nil && !t.began
}

// lastWord returns the alert that the other side sent before it hung up while the request was on its way, nil for none.
// net/http tells of such a connection only that it could not write to it any more; TLS has kept what it read.
func (t *trace) lastWord(err error) error {
	var op *net.OpError
	if !errors.Is(err, net.ErrClosed) && !(errors.As(err, &op) && op.Op == "write") {
		return nil
	}
	t.mu.Lock()
	c, ok := t.conn.(*tls.Conn)
	t.mu.Unlock()
	if !ok {
		return nil
	}
	_ = c.SetReadDeadline(time.Unix(1, 0)) // it is closed, or about to be: nothing more is waited for
	_, said := c.Read(make([]byte, 1))
	if _, ok := alertOf(said); !ok {
		return nil
	}
	return said
}

// expire gives up because the headers of the answer are late.
func (t *trace) expire() {
	t.mu.Lock()
	t.late = true
	t.mu.Unlock()
	t.giveUp()
}

// stopWaiting says that the headers are there, or never will be, and whether they were late.
func (t *trace) stopWaiting() (late bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.headers = 0
	if t.waiting != nil {
		t.waiting.Stop()
	}
	return t.late
}

// asked tells whether the request went out as a whole.
func (t *trace) asked() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.written.IsZero()
}

// brokeUnanswered reports whether a connection that had carried an earlier request broke before a byte of the answer came: the
// endpoint closed what was idle, most often, and the request met that on its way. Where it was slow, or said anything at all,
// the request is not sent again: its fate is known, or is the schedule's business.
func (t *trace) brokeUnanswered(err error) bool {
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() || isTLS(err) {
		return false
	}
	if said := t.lastWord(err); said != nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn != nil && t.reused && !t.began && !t.stray
}

// handshook is the error with which a handshake of TLS failed; nil: none has, or a connection was made after it.
func (t *trace) handshook() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		return nil
	}
	return t.shook
}

// public reports whether the endpoint that was dialed has a public address.
func (t *trace) public() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.dialed
	if t.remote != nil {
		at = t.remote.String()
	}
	addr, err := netip.ParseAddrPort(at)
	return err == nil && egress.IsPublic(addr.Addr())
}

func (t *trace) isStray() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stray
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
	case t.dialed != "":
		out.Address = t.dialed
	}
}
