package egress

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// errStale is what the first write of a request on an outlived connection gets. As nothing was written then,
// the request can go to another connection; see mover.
var errStale = errors.New("connection has outlived its policy or its age")

// conn is a connection that takes no further request once its policy was reloaded or it is too old. Closing
// idle connections alone would miss those that are busy at that time and become idle later.
type conn struct {
	net.Conn
	policy       *Policy
	dialledUnder *rules
	dialledAt    time.Time
	remote       net.Addr // of the receiver, when Conn is that of a proxy; else nil
	// answered is set between something read and the next write, which begins the next request.
	answered atomic.Bool
	received atomic.Uint64 // see Received; only grows
	closing  sync.Once
	closed   chan struct{} // closed by Close
	leaving  atomic.Bool   // see SetWriteDeadline
}

// Received returns how often something has come in on a connection that DialContext made, directly or below
// TLS. Where this has not changed from before a request to the first byte of its answer, the answer had come
// before the request: the receiver sent more than it was asked for, and what is taken for an answer to one
// request would be that to another. net/http sees this on connections that stay idle for a moment only.
func Received(c net.Conn) (n uint64, ok bool) {
	if t, below := c.(*tls.Conn); below {
		c = t.NetConn()
	}
	ours, ok := c.(*conn)
	if !ok {
		return 0, false
	}
	return ours.received.Load(), true
}

// RemoteAddr returns the address of the receiver, also when a proxy stands between.
func (c *conn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.received.Add(1)
		c.answered.Store(true)
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.answered.Swap(false) && c.stale() {
		// The error is the message; that of closing adds nothing to it.
		_ = c.Close()
		return 0, errStale
	}
	n, err := c.Conn.Write(b)
	if err != nil && !c.leaving.Load() {
		c.awaitReader()
	}
	return n, err
}

// lastWords bounds how long what a receiver said before it went away goes before the error of writing to it.
const lastWords = 100 * time.Millisecond

// awaitReader waits until whoever reads from the connection has had what came before it broke, which ends with Close, and then
// with an error of its own. A receiver that does not accept a client certificate says so with an alert when the request is on
// its way already (TLS 1.3); an error of writing alone would say that it hung up.
func (c *conn) awaitReader() {
	t := time.NewTimer(lastWords)
	defer t.Stop()
	select {
	case <-c.closed:
	case <-t.C:
	}
}

// SetWriteDeadline sets the deadline of what is written. Nobody here does so but TLS before its own last word, when nobody reads
// any more.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.leaving.Store(true)
	return c.Conn.SetWriteDeadline(t)
}

// Close closes the connection.
func (c *conn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *conn) stale() bool {
	return c.policy.rules.Load() != c.dialledUnder || time.Since(c.dialledAt) > c.dialledUnder.MaxConnAge
}
