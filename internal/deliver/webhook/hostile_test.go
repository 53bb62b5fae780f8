package webhook

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
)

// says answers a request with text, and keeps the connection until the client has gone.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, text)
		untilClosed(c)
	}
}

// repeats answers a request with text, and then with more of the same until the client has gone.
func repeats(text, more string) func(net.Conn) {
	return func(c net.Conn) {
		request(c)
		_, err := io.WriteString(c, text)
		many := bytes.Repeat([]byte(more), max(1, 4096/len(more)))
		for err == nil {
			_, err = c.Write(many)
		}
	}
}

// drips answers a request with text a byte at a time, and then with one byte after the other.
func drips(text, more string) func(net.Conn) {
	return func(c net.Conn) {
		request(c)
		for i := 0; ; i++ {
			b := more
			if i < len(text) {
				b = text[i : i+1]
			}
			if _, err := io.WriteString(c, b); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond) // it is what this server does
		}
	}
}

// resets makes what does not fit into a last word of TCP: the client gets a reset.
func resets(serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		serve(c)
		_ = c.(*net.TCPConn).SetLinger(0)
	}
}

func bomb(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	chunk := make([]byte, 1<<20)
	for range 32 {
		if _, err := zip.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// mustTLS is a server's side of TLS, and who knows its certificate.
func mustTLS(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.TLS.Clone(), roots
}

// After each, the attempt has ended in its time with the right reason, has cost little memory and no goroutine, and an
// attempt at another endpoint works.
func TestPoster_OutlivesHostileReceivers(t *testing.T) {
	const timeout = 300 * time.Millisecond
	zipped := bomb(t)
	config, roots := mustTLS(t)
	secure := func(serve func(net.Conn)) func(net.Conn) {
		return func(c net.Conn) {
			s := tls.Server(c, config)
			if s.Handshake() == nil {
				serve(s)
			}
		}
	}
	const tlsOnly = "https"
	for _, tc := range []struct {
		name   string
		serve  func(net.Conn)
		want   deliver.Reason
		status int
		scheme string
		large  bool // the request, so that it cannot be on its way at once
	}{
		{name: "drips the status line", serve: drips("HTTP/1.1 200 OK", "K"), want: deliver.ReasonTimeout},
		{name: "drips a header", serve: drips("HTTP/1.1 200 OK\r\nX: ", "x"), want: deliver.ReasonTimeout},
		{name: "drips informational answers", serve: drips("", "HTTP/1.1 103 Early Hints\r\n\r\n"), want: deliver.ReasonTimeout},
		{name: "drips a failure's body", serve: func(c net.Conn) {
			request(c)
			drip(c, "HTTP/1.1 500 X\r\n\r\n")
		}, want: deliver.ReasonHTTP5xx, status: 500},
		{name: "never answers", serve: untilClosed, want: deliver.ReasonTimeout},
		{name: "never reads", serve: func(c net.Conn) {
			_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
			time.Sleep(2 * timeout) // it is what this server does
		}, want: deliver.ReasonTimeout, large: true},

		{name: "body without end", serve: repeats("HTTP/1.1 500 X\r\n\r\n", "x"), want: deliver.ReasonHTTP5xx, status: 500},
		{name: "chunks without end", serve: repeats("HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"), want: deliver.ReasonHTTP5xx, status: 500},
		{name: "chunk extensions without end", serve: repeats("HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n1;", "x"), want: deliver.ReasonHTTP5xx, status: 500},
		{name: "trailers without end", serve: repeats("HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n", "X: x\r\n"), want: deliver.ReasonHTTP5xx, status: 500},
		{name: "success with a body without end", serve: repeats("HTTP/1.1 200 OK\r\n\r\n", "x"), status: 200},
		{name: "success with trailers without end", serve: repeats("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: x\r\n"), status: 200},
		{name: "gzip bomb", serve: says(fmt.Sprintf("HTTP/1.1 500 X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(zipped), zipped)),
			want: deliver.ReasonHTTP5xx, status: 500},
		{name: "gzip bomb as transfer encoding", serve: says("HTTP/1.1 500 X\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + zipped), want: deliver.ReasonOther},

		{name: "one huge header", serve: says("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n"), want: deliver.ReasonOther},
		{name: "header without end", serve: repeats("HTTP/1.1 200 OK\r\nX: ", "x"), want: deliver.ReasonOther},
		{name: "headers without end", serve: repeats("HTTP/1.1 200 OK\r\n", "X: x\r\n"), want: deliver.ReasonOther},
		{name: "folded header without end", serve: repeats("HTTP/1.1 200 OK\r\nX: x\r\n", " x\r\n"), want: deliver.ReasonOther},
		{name: "status line without end", serve: repeats("HTTP/1.1 200 ", "x"), want: deliver.ReasonOther},
		{name: "empty lines without end", serve: repeats("", "\r\n"), want: deliver.ReasonOther},
		{name: "informational answers without end", serve: repeats("", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), want: deliver.ReasonOther},
		{name: "continuations without end", serve: repeats("", "HTTP/1.1 100 Continue\r\n\r\n"), want: deliver.ReasonOther},

		{name: "resets at once", serve: resets(func(net.Conn) {}), want: deliver.ReasonConnect},
		{name: "resets inside the request", serve: resets(func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }), want: deliver.ReasonConnect},
		{name: "resets inside a large request", serve: resets(func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, 100<<10) }), want: deliver.ReasonConnect, large: true},
		{name: "resets after the request", serve: resets(request), want: deliver.ReasonConnect},
		{name: "resets inside a success's body", serve: resets(func(c net.Conn) {
			request(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
			_, _ = c.Read(make([]byte, 1)) // until the client has read the headers and gone, or its time is over
		}), status: 200},
		{name: "half-closes at once", serve: func(c net.Conn) {
			_ = c.(*net.TCPConn).CloseWrite()
			untilClosed(c)
		}, want: deliver.ReasonConnect},
		{name: "half-closes inside the headers", serve: func(c net.Conn) {
			request(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: x\r\n")
			_ = c.(*net.TCPConn).CloseWrite()
			untilClosed(c)
		}, want: deliver.ReasonConnect},
		{name: "half-closes inside a failure's body", serve: func(c net.Conn) {
			request(c)
			_, _ = io.WriteString(c, "HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nx")
			_ = c.(*net.TCPConn).CloseWrite()
			untilClosed(c)
		}, want: deliver.ReasonHTTP5xx, status: 500},

		{name: "takes a large request before it is read", serve: func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1)) // what comes before that is no answer to anything
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			time.Sleep(2 * timeout) // and reads nothing
		}, status: 200, large: true},
		{name: "refuses a large request before it is read", serve: func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			untilClosed(c)
		}, want: deliver.ReasonHTTP4xx, status: 413, large: true},

		{name: "too long a content length", serve: says("HTTP/1.1 500 X\r\nContent-Length: 9223372036854775807\r\n\r\nx"), want: deliver.ReasonHTTP5xx, status: 500},
		{name: "negative content length", serve: says("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), want: deliver.ReasonOther},
		{name: "content length that is no number", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n"), want: deliver.ReasonOther},
		{name: "two content lengths", serve: says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello"), want: deliver.ReasonOther},
		{name: "broken chunks", serve: says("HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"), want: deliver.ReasonHTTP5xx, status: 500},

		{name: "HTTP/0.9", serve: says("<html>thank you</html>\r\n"), want: deliver.ReasonOther},
		{name: "HTTP/2 without being asked", serve: says("\x00\x00\x12\x04\x00\x00\x00\x00\x00"), want: deliver.ReasonTimeout},
		{name: "HTTP/2 and more of it", serve: repeats("", "\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n"), want: deliver.ReasonOther},
		{name: "status below 100", serve: says("HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n"), want: deliver.ReasonOther},
		{name: "status that is no number", serve: says("HTTP/1.1 OK\r\n\r\n"), want: deliver.ReasonOther},
		{name: "header with a NUL", serve: says("HTTP/1.1 200 OK\r\nX\x00: x\r\n\r\n"), want: deliver.ReasonOther},

		{name: "TLS that is never spoken", serve: untilClosed, want: deliver.ReasonTimeout, scheme: tlsOnly},
		{name: "TLS that drips", serve: drips("\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03", "\x00"), want: deliver.ReasonTimeout, scheme: tlsOnly},
		{name: "TLS that is none", serve: says("HTTP/1.1 400 Bad Request\r\n\r\n"), want: deliver.ReasonTLS, scheme: tlsOnly},
		{name: "TLS that breaks off", serve: func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, 10) }, want: deliver.ReasonConnect, scheme: tlsOnly},
		{name: "TLS and no answer", serve: secure(untilClosed), want: deliver.ReasonTimeout, scheme: tlsOnly},
		{name: "TLS and headers without end", serve: secure(repeats("HTTP/1.1 200 OK\r\n", "X: x\r\n")), want: deliver.ReasonOther, scheme: tlsOnly},
		{name: "TLS and a body without end", serve: secure(repeats("HTTP/1.1 500 X\r\n\r\n", "x")), want: deliver.ReasonHTTP5xx, status: 500, scheme: tlsOnly},
	} {
		t.Run(tc.name, func(t *testing.T) {
			quiet := goleak.IgnoreCurrent()
			t.Run("", func(t *testing.T) {
				policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, RootCAs: roots, TLSTimeout: timeout})
				if err != nil {
					t.Fatal(err)
				}
				client := policy.Client(egress.TransportOptions{})
				p := &Poster{Transport: client.Transport, Timeout: timeout}
				to := raw(t, tc.serve)
				if tc.scheme != "" {
					to = strings.Replace(to, "http:", tc.scheme+":", 1)
				}
				r := mustRequest(t, to)
				if tc.large {
					r.Body = bytes.Repeat([]byte("x"), 16<<20)
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				began := time.Now()
				out := p.Attempt(t.Context(), r)
				took := time.Since(began)
				runtime.ReadMemStats(&after)
				if out.Reason != tc.want || out.StatusCode != tc.status || out.Aborted || len(out.Answer) > keptAnswer {
					t.Errorf("outcome %+v, want %q", out, tc.want)
				}
				if took > timeout+2*time.Second { // a busy machine
					t.Errorf("took %s", took)
				}
				if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
					t.Errorf("it has cost %d bytes of memory", used)
				}
				good := mustServe(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
				p.Timeout = 5 * time.Second
				if out := p.Attempt(t.Context(), mustRequest(t, good)); !out.Success() {
					t.Errorf("the next attempt, at another endpoint: %+v", out)
				}
				client.CloseIdleConnections()
			})
			goleak.VerifyNone(t, quiet)
		})
	}
}

// The endpoint refuses each request, and says with the same breath "taken" for the next one. The next one gets the
// connection the moment that it is free, before net/http looks whether there is more on it.
func TestPoster_TakesNoAnswerThatWasThereBeforeItsRequest(t *testing.T) {
	config, roots := mustTLS(t)
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			var conns, requests atomic.Int32
			to := raw(t, func(c net.Conn) {
				conns.Add(1)
				if scheme == "https" {
					c = tls.Server(c, config)
				}
				in := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, r.Body); err != nil {
						return
					}
					requests.Add(1)
					_, _ = io.WriteString(c, "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, RootCAs: roots})
			if err != nil {
				t.Fatal(err)
			}
			client := policy.Client(egress.TransportOptions{MaxConnsPerHost: 1})
			t.Cleanup(client.CloseIdleConnections)
			p := &Poster{Transport: client.Transport, Timeout: 10 * time.Second}
			url := strings.Replace(to, "http:", scheme+":", 1)
			first, second := mustRequest(t, url), mustRequest(t, url)

			// net/http may find out that the connection is of no use before a byte is on it, and take another one: then the
			// second attempt is written twice, and its answer is its own.
			written, done := make(chan struct{}), make(chan deliver.Outcome, 1)
			var once sync.Once
			next := func() {
				done <- p.Attempt(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					WroteRequest: func(httptrace.WroteRequestInfo) { once.Do(func() { close(written) }) }}), second)
			}
			// net/http calls this when it has given the connection back, before it reads on.
			free := func(error) {
				go next()
				<-written
			}
			out := p.Attempt(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{PutIdleConn: free}), first)
			if out.StatusCode != 500 {
				t.Errorf("the first attempt: %+v", out)
			}
			if out := <-done; (out.Reason != deliver.ReasonOther || out.StatusCode != 0) && out.StatusCode != 500 {
				t.Errorf("the second attempt got the answer that was there before it: %+v", out)
			}
			if out := p.Attempt(t.Context(), second); out.StatusCode != 500 || conns.Load() < 2 || conns.Load() > 3 {
				t.Errorf("the third attempt, over %d connections: %+v", conns.Load(), out)
			}
			// The second one may not have been read when its connection was given up.
			if n := requests.Load(); n < 2 || n > 4 {
				t.Errorf("%d requests arrived for 3 attempts", n)
			}
		})
	}
}
