package faultproxy

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	return l.Addr().String()
}

func start(t *testing.T) *Proxy {
	t.Helper()
	p, err := Listen(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, text string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
		t.Fatalf("got %q, %v; want %q", buf, err, text)
	}
}

func TestProxy_HoldsEverythingBackWhileItStalls(t *testing.T) {
	p := start(t)
	c := dial(t, p)
	say(t, c, "before")
	hear(t, c, "before")
	p.Stall()
	say(t, c, "meanwhile")
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes came through a proxy that stalls: %v", n, err)
	}
	other := dial(t, p)
	say(t, other, "new")
	p.Heal()
	hear(t, c, "meanwhile")
	hear(t, other, "new")
}

func TestProxy_ResetsConnections(t *testing.T) {
	p := start(t)
	c := dial(t, p)
	say(t, c, "x")
	hear(t, c, "x")
	p.Refuse()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was reset ends with %v", err)
	}
	// The reset may come before the dialer has looked.
	if c, err := net.Dial("tcp", p.Addr()); err == nil {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a new connection is not refused: %v", err)
		}
		_ = c.Close()
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection ends with %v", err)
	}
	p.Heal()
	c = dial(t, p)
	say(t, c, "again")
	hear(t, c, "again")
}
