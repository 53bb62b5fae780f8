package e2e_test

import (
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// proxy stands between the relay and PostgreSQL, and is what a bad network is.
type proxy struct {
	t      testing.TB
	listen net.Listener
	target string

	mu      sync.Mutex
	delay   time.Duration // before each piece is passed on
	links   map[*link]bool
	closing bool
	all     sync.WaitGroup
}

// link is one connection through the proxy.
type link struct {
	near, far net.Conn
	frozen    chan struct{} // closed: nothing is passed on any more, and nobody is told
	once      sync.Once
}

// newProxy leads to the server of a connection string. It returns the string that leads through it.
func newProxy(t testing.TB, to string) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listen: l, target: u.Host, links: make(map[*link]bool)}
	p.all.Go(p.serve)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closing = true
		p.mu.Unlock()
		_ = l.Close()
		p.reset()
		p.all.Wait()
	})
	u.Host = l.Addr().String()
	return p, u.String()
}

func (p *proxy) serve() {
	for {
		near, err := p.listen.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		closing := p.closing
		p.mu.Unlock()
		if closing {
			_ = near.Close()
			continue
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		l := &link{near: near, far: far, frozen: make(chan struct{})}
		p.mu.Lock()
		p.links[l] = true
		p.mu.Unlock()
		p.all.Go(func() { p.pass(l, near, far) })
		p.all.Go(func() { p.pass(l, far, near) })
	}
}

// pass copies one direction. Pieces keep their distance in time, as on a long line.
func (p *proxy) pass(l *link, from, to net.Conn) {
	type piece struct {
		data []byte
		at   time.Time
	}
	pieces := make(chan piece, 1024)
	p.all.Go(func() {
		defer func() { _ = to.Close() }()
		for c := range pieces {
			time.Sleep(time.Until(c.at)) // the line is as long as that
			select {
			case <-l.frozen:
				continue
			default:
			}
			if _, err := to.Write(c.data); err != nil {
				_ = from.Close()
			}
		}
	})
	defer close(pieces)
	for {
		b := make([]byte, 32<<10)
		n, err := from.Read(b)
		if n > 0 {
			p.mu.Lock()
			delay := p.delay
			p.mu.Unlock()
			pieces <- piece{b[:n], time.Now().Add(delay)}
		}
		if err != nil {
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
			return
		}
	}
}

// freeze stops passing on for the connections that there are: both ends see silence.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.once.Do(func() { close(l.frozen) })
	}
}

// reset breaks the connections that there are.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.breakLink(l)
	}
}

// resetOne breaks one of them.
func (p *proxy) resetOne() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.links) == 0 {
		return
	}
	skip := rand.IntN(len(p.links))
	for l := range p.links {
		if skip == 0 {
			p.breakLink(l)
			return
		}
		skip--
	}
}

func (p *proxy) breakLink(l *link) {
	for _, c := range []net.Conn{l.near, l.far} {
		_ = c.(*net.TCPConn).SetLinger(0) // a reset, not an end
		_ = c.Close()
	}
}

// pooler answers the start of a replication connection as a pooler in transaction mode does.
func pooler(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				if _, err := io.ReadAtLeast(c, make([]byte, 4<<10), 8); err != nil {
					return
				}
				body := "SFATAL\x00VFATAL\x00C08P01\x00Munsupported startup parameter: replication\x00\x00"
				_, _ = c.Write(append([]byte{'E', 0, 0, 0, byte(4 + len(body))}, body...))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Wait()
	})
	return "postgres://postgres@" + l.Addr().String() + "/app?sslmode=disable"
}
