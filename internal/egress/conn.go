package egress

import (
	"errors"
	"net"
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
	// answered is set between something read and the next write, which begins the next request.
	answered atomic.Bool
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
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
	return c.Conn.Write(b)
}

func (c *conn) stale() bool {
	return c.policy.rules.Load() != c.dialledUnder || time.Since(c.dialledAt) > c.dialledUnder.MaxConnAge
}
