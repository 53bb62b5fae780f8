package egress

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// brokenConn returns a connection that the other side has reset, as the reader knows already.
func brokenConn(t *testing.T) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connected := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		<-connected
		if c, err := l.Accept(); err == nil {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	})
	c, err := mustPolicy(t, Options{Allow: []string{"127.0.0.1"}}).DialContext(t.Context(), "tcp", l.Addr().String())
	close(connected)
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	t.Cleanup(func() { _ = c.Close() })
	_, _ = c.Read(make([]byte, 1))
	return c
}

func TestConn_LetsItsReaderHaveTheLastWordWhenAWriteFails(t *testing.T) {
	for name, c := range map[string]struct {
		before func(net.Conn)
		waits  bool
	}{
		"somebody may read":                       {func(net.Conn) {}, true},
		"the reader has closed it":                {func(c net.Conn) { _ = c.Close() }, false},
		"the reader closes it meanwhile":          {func(c net.Conn) { time.AfterFunc(time.Millisecond, func() { _ = c.Close() }) }, false},
		"it is TLS that closes, as of net/http's": {func(c net.Conn) { _ = c.SetWriteDeadline(time.Now().Add(time.Minute)) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			shortest := time.Hour
			for range 10 { // a busy machine may take longer than it should
				broken := brokenConn(t)
				c.before(broken)
				began := time.Now()
				_, err := broken.Write([]byte("x"))
				shortest = min(shortest, time.Since(began))
				if err == nil || errors.Is(err, errStale) {
					t.Fatalf("written: %v", err)
				}
			}
			if waited := shortest >= lastWords; waited != c.waits {
				t.Errorf("took %s", shortest)
			}
		})
	}
}
