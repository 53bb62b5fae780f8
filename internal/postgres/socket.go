package postgres

import (
	"net"
	"strconv"
	"syscall"
	"time"
)

// Without these a server that is gone without a word, with its machine or by a firewall's forgetting, would be noticed when
// the system gives up after two hours of silence, or a quarter of an hour of unanswered data.
const (
	keepaliveIdle     = 15 * time.Second
	keepaliveInterval = 5 * time.Second
	keepaliveCount    = 4
	unanswered        = 35 * time.Second
)

// dialer makes connections whose dead peers TCP notices. The parameters are those of libpq.
//
// Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES
func dialer(params map[string]string, timeout time.Duration) *net.Dialer {
	d := &net.Dialer{Timeout: timeout}
	d.KeepAliveConfig = net.KeepAliveConfig{
		Enable:   params["keepalives"] != "0",
		Idle:     number(params["keepalives_idle"], time.Second, keepaliveIdle),
		Interval: number(params["keepalives_interval"], time.Second, keepaliveInterval),
		Count:    int(number(params["keepalives_count"], 1, keepaliveCount)),
	}
	if !d.KeepAliveConfig.Enable {
		d.KeepAlive = -1
	}
	limit := number(params["tcp_user_timeout"], time.Millisecond, unanswered)
	d.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { boundUnanswered(fd, limit) })
	}
	return d
}

// number is a parameter in a unit; what is not given or not one is the default.
func number(text string, unit, byDefault time.Duration) time.Duration {
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 || n > 1<<30 {
		return byDefault
	}
	return time.Duration(n) * unit
}
