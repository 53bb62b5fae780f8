// Package faultproxy is a TCP proxy that can be told to misbehave as a network does.
package faultproxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Proxy forwards connections to a target. Its methods are safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	flow    *sync.Cond // broadcast when stalled or closed changes
	stalled bool
	refuse  bool
	closed  bool
	conns   map[net.Conn]struct{}
	all     sync.WaitGroup
}

// Listen starts a proxy on a free port of 127.0.0.1.
func Listen(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for fault proxy: %w", err)
	}
	p := &Proxy{listener: l, target: target, conns: make(map[net.Conn]struct{})}
	p.flow = sync.NewCond(&p.mu)
	p.all.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Stall stops forwarding in both directions: connections stay, and nothing comes through them or is refused. It is
// what a cable that was pulled looks like.
func (p *Proxy) Stall() { p.set(func() { p.stalled = true }) }

// Refuse ends all connections and each new one at once.
func (p *Proxy) Refuse() {
	p.set(func() { p.refuse = true })
	p.Cut(true)
}

// Heal lets everything through again.
func (p *Proxy) Heal() { p.set(func() { p.stalled, p.refuse = false, false }) }

func (p *Proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.flow.Broadcast()
}

// Cut ends all connections, by a reset or in order.
func (p *Proxy) Cut(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		end(c, reset)
	}
}

func end(c net.Conn, reset bool) {
	if tcp, ok := c.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() error {
	p.set(func() { p.closed = true })
	err := p.listener.Close()
	p.Cut(false)
	p.all.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.all.Go(func() { p.serve(c) })
	}
}

func (p *Proxy) serve(c net.Conn) {
	if !p.keep(c) {
		return
	}
	defer p.drop(c)
	if !p.passes() {
		return
	}
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	if !p.keep(out) {
		return
	}
	defer p.drop(out)
	var both sync.WaitGroup
	both.Go(func() { p.forward(out, c) })
	p.forward(c, out)
	both.Wait()
}

// keep registers a connection, or ends it when none is wanted.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse || p.closed {
		end(c, true)
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

// passes waits while the proxy stalls, and tells whether it goes on.
func (p *Proxy) passes() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stalled && !p.closed {
		p.flow.Wait()
	}
	return !p.closed
}

// forward copies one direction until an end of it is closed.
func (p *Proxy) forward(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !p.passes() {
			return
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				_ = from.Close()
				return
			}
		}
		if err != nil {
			if tcp, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
				_ = tcp.CloseWrite()
			} else {
				_ = to.Close()
			}
			return
		}
	}
}
