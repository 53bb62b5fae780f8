package egress

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// trap counts who comes to its listener.
type trap struct {
	port  uint16
	count atomic.Int64
	seen  chan string // remote addresses, in the order of arrival
}

// newTrap listens on an address of this machine, "" for all of them.
func newTrap(t *testing.T, host string) *trap {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	tr := &trap{port: uint16(l.Addr().(*net.TCPAddr).Port), seen: make(chan string, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tr.count.Add(1)
			tr.seen <- c.RemoteAddr().String()
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return tr
}

// mustBeEmpty makes a connection of its own; the first one that the listener takes must be that, because it
// takes them in the order of arrival.
func (tr *trap) mustBeEmpty(t *testing.T) {
	t.Helper()
	c, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(tr.port)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for first := range tr.seen {
		if netip.MustParseAddrPort(first).Port() != netip.MustParseAddrPort(c.LocalAddr().String()).Port() {
			t.Errorf("the listener was reached from %s", first)
			continue
		}
		break
	}
	if n := tr.count.Load(); n != 1 {
		t.Errorf("%d connections besides the check", n-1)
	}
}

// newResolver returns a resolver that asks a name server on this machine, which gives the answer for every
// name that the hosts file does not have.
func newResolver(t testing.TB, answer func(name string) []netip.Addr) *net.Resolver {
	t.Helper()
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := respond(buf[:n], answer); reply != nil {
				_, _ = server.WriteTo(reply, from)
			}
		}
	})
	t.Cleanup(func() { _ = server.Close(); wg.Wait() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", server.LocalAddr().String())
	}}
}

func respond(query []byte, answer func(string) []netip.Addr) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true},
		Questions: m.Questions,
	}
	for _, a := range answer(q.Name.String()) {
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
		switch {
		case q.Type == dnsmessage.TypeA && a.Is4():
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case q.Type == dnsmessage.TypeAAAA && a.Is6():
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := reply.Pack()
	if err != nil {
		return nil
	}
	return b
}

// always answers every name with the same addresses.
func always(addrs ...string) func(string) []netip.Addr {
	var list []netip.Addr
	for _, a := range addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return func(string) []netip.Addr { return list }
}
