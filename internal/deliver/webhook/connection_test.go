package webhook

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
)

// serveRequests answers each request of each connection by hand; answer says whether the connection goes on.
func serveRequests(t *testing.T, answer func(c net.Conn, n int32) bool) (to string, seen *atomic.Int32) {
	seen = new(atomic.Int32)
	return raw(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			if !answer(c, seen.Add(1)) {
				return
			}
		}
	}), seen
}

const answer204 = "HTTP/1.1 204 No Content\r\n\r\n"

// The endpoint closes the connection behind each answer and does not say so.
func TestPoster_TakesAnotherConnectionWhenTheKeptOneIsGone(t *testing.T) {
	t.Parallel()
	to, seen := serveRequests(t, func(c net.Conn, _ int32) bool {
		_, _ = io.WriteString(c, answer204)
		return false
	})
	p := mustPoster(t, 5*time.Second)
	failed := 0
	for range 50 {
		if out := p.Attempt(t.Context(), mustRequest(t, to)); !out.Success() {
			failed++ // the end came while the request went out: nobody can know what became of it
		}
	}
	if n := int(seen.Load()); n > 50 || n < 50-failed {
		t.Errorf("%d requests arrived for 50 attempts, of which %d failed", n, failed)
	}
}

// byConnection answers the requests of each connection by hand; n counts those of one. It says whether the connection goes on.
func byConnection(t *testing.T, answer func(c net.Conn, n int) bool) (to string, seen *atomic.Int32) {
	seen = new(atomic.Int32)
	return raw(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for n := 1; ; n++ {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			if seen.Add(1); !answer(c, n) {
				return
			}
		}
	}), seen
}

// reset ends a connection with an RST instead of a FIN.
func reset(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// The endpoint, or what stands before it, takes the second request of a kept connection and ends that.
func TestPoster_SendsOnceMoreWhenAKeptConnectionBreaksUnanswered(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(net.Conn){"reset": reset, "closed": func(net.Conn) {}} {
		to, seen := byConnection(t, func(c net.Conn, n int) bool {
			if n > 1 {
				end(c)
				return false
			}
			_, _ = io.WriteString(c, answer204)
			return true
		})
		p := mustPoster(t, 5*time.Second)
		for i := range 10 {
			r := mustRequest(t, to)
			r.Body = bytes.Repeat([]byte("x"), 1<<(2*i)) // also more than the write buffer
			out := p.Attempt(t.Context(), r)
			if !out.Success() || out.Resent != (i%2 == 1) {
				t.Errorf("%s, attempt %d: %+v", name, i, out)
			}
			if out.Resent && out.Phases.Connect == 0 {
				t.Errorf("%s, attempt %d was sent again, and not on a new connection", name, i)
			}
		}
		if n := seen.Load(); n != 15 {
			t.Errorf("%s: %d requests arrived for 10 attempts of which 5 are sent twice", name, n)
		}
	}
}

// What has been answered in part, what is slow, and what breaks on a new connection is not sent again.
func TestPoster_SendsNothingAgainThatMayHaveBeenAnswered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		second func(c net.Conn)
		reason deliver.Reason
	}{
		"a byte of an answer":    {func(c net.Conn) { _, _ = io.WriteString(c, "H") }, deliver.ReasonOther},
		"a part of the headers":  {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: y\r\n") }, deliver.ReasonConnect},
		"an answer and a reset":  {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"); reset(c) }, deliver.ReasonHTTP5xx},
		"what is no HTTP":        {func(c net.Conn) { _, _ = io.WriteString(c, "220 mail.example\r\n\r\n") }, deliver.ReasonOther},
		"nothing, for long":      {untilClosed, deliver.ReasonTimeout},
		"nothing, then an end":   {func(c net.Conn) { time.Sleep(time.Second) }, deliver.ReasonTimeout}, // it is what this server does
		"a byte, then a reset":   {func(c net.Conn) { _, _ = io.WriteString(c, "H"); time.Sleep(20 * time.Millisecond); reset(c) }, deliver.ReasonOther},
		"informational, and end": {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n") }, deliver.ReasonConnect},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to, seen := byConnection(t, func(conn net.Conn, n int) bool {
				if n == 1 {
					_, _ = io.WriteString(conn, answer204)
					return true
				}
				c.second(conn)
				return false
			})
			p := mustPoster(t, 500*time.Millisecond)
			for !p.Attempt(t.Context(), mustRequest(t, to)).Success() { // the machine is busy
				seen.Store(0)
			}
			out := p.Attempt(t.Context(), mustRequest(t, to))
			if out.Reason != c.reason && out.Reason != deliver.ReasonTimeout || out.Resent || out.Success() {
				t.Errorf("outcome %+v", out)
			}
			if n := seen.Load(); n != 2 {
				t.Errorf("%d requests arrived for 2 attempts", n)
			}
		})
	}
	to, seen := byConnection(t, func(c net.Conn, _ int) bool { reset(c); return false })
	if out := mustPoster(t, 5*time.Second).Attempt(t.Context(), mustRequest(t, to)); out.Reason != deliver.ReasonConnect || out.Resent || seen.Load() != 1 {
		t.Errorf("on a new connection: %+v, %d requests", out, seen.Load())
	}
}

// The new connection breaks too: the rest is the schedule's.
func TestPoster_SendsNoMoreThanTwice(t *testing.T) {
	t.Parallel()
	var first atomic.Bool
	to, seen := byConnection(t, func(c net.Conn, n int) bool {
		if first.CompareAndSwap(false, true) {
			_, _ = io.WriteString(c, answer204)
			return true
		}
		return false
	})
	p := mustPoster(t, 5*time.Second)
	p.Attempt(t.Context(), mustRequest(t, to))
	if out := p.Attempt(t.Context(), mustRequest(t, to)); out.Reason != deliver.ReasonConnect || !out.Resent {
		t.Errorf("outcome %+v", out)
	}
	if n := seen.Load(); n != 3 {
		t.Errorf("%d requests arrived, want one and two", n)
	}
}

func TestPoster_GivesUpAnEndpointThatDoesNotReadTheRequest(t *testing.T) {
	t.Parallel()
	to := raw(t, func(c net.Conn) {
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		time.Sleep(3 * time.Second) // it is what this server does
	})
	r := mustRequest(t, to)
	r.Body = bytes.Repeat([]byte("x"), 32<<20)
	if out := mustPoster(t, 500*time.Millisecond).Attempt(t.Context(), r); out.Reason != deliver.ReasonTimeout {
		t.Errorf("outcome %+v", out)
	}
}

// What comes on a kept connection that nothing was asked on belongs to no request.
func TestPoster_LeavesAConnectionOnWhichSomethingComesUnasked(t *testing.T) {
	t.Parallel()
	answered, unasked, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	to, seen := serveRequests(t, func(c net.Conn, n int32) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
		if n > 1 {
			return true
		}
		close(answered)
		<-unasked
		_, _ = io.WriteString(c, answer204)
		untilClosed(c)
		close(left)
		return false
	})
	p := mustPoster(t, 5*time.Second)
	for i := range 3 {
		if out := p.Attempt(t.Context(), mustRequest(t, to)); out.StatusCode != 500 {
			t.Errorf("attempt %d: %+v", i, out)
		}
		if i == 0 {
			<-answered
			close(unasked)
			<-left
		}
	}
	if n := seen.Load(); n != 3 {
		t.Errorf("%d requests arrived for 3 attempts", n)
	}
}

// Attempts that share a connection share its death.
func TestPoster_SpeaksHTTP1WhereTheEndpointOffersHTTP2(t *testing.T) {
	t.Parallel()
	protocols := make(chan string, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { protocols <- r.Proto }))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	client := policy.Client(egress.TransportOptions{})
	t.Cleanup(client.CloseIdleConnections)
	p := &Poster{Transport: client.Transport, Timeout: 5 * time.Second}
	if out := p.Attempt(t.Context(), mustRequest(t, s.URL)); !out.Success() {
		t.Fatalf("outcome %+v", out)
	}
	if got := <-protocols; got != "HTTP/1.1" {
		t.Errorf("it speaks %s", got)
	}
}

// The attempt as a whole has much more time. What comes in time is taken, however long its body needs.
func TestPoster_GivesUpOnHeadersThatAreLate(t *testing.T) {
	t.Parallel()
	policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, HeaderTimeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	client := policy.Client(egress.TransportOptions{})
	t.Cleanup(client.CloseIdleConnections)
	p := &Poster{Transport: client.Transport, Timeout: time.Minute}
	for name, serve := range map[string]func(net.Conn){
		"none":                   untilClosed,
		"dripping":               drips("HTTP/1.1 200 OK\r\nX: ", "x"),
		"informational answers":  drips("", "HTTP/1.1 103 Early Hints\r\n\r\n"),
		"a status line and none": says("HTTP/1.1 200 OK\r\n"),
	} {
		began := time.Now()
		out := p.Attempt(t.Context(), mustRequest(t, raw(t, serve)))
		if out.Reason != deliver.ReasonTimeout || out.Aborted || out.Detail != "the headers of an answer did not come in time" {
			t.Errorf("%s: outcome %+v", name, out)
		}
		if took := time.Since(began); took > 30*time.Second { // a busy machine
			t.Errorf("%s: took %s", name, took)
		}
	}
	const late = 200 * time.Millisecond // for headers
	out := p.Attempt(t.Context(), mustRequest(t, raw(t, func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, "HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\n")
		time.Sleep(late) // it is what this server does
		_, _ = io.WriteString(c, "slow")
	})))
	if out.StatusCode != 500 || out.Answer != "slow" {
		t.Errorf("with a slow body: outcome %+v", out)
	}
}
