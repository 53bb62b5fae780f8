package webhook

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/signature"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var testBody = []byte(`{"id":"evt_1","n":12345678901234567890,"text":"é\u0000"}`)

func mustPoster(t testing.TB, timeout time.Duration) *Poster {
	t.Helper()
	policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, ConnectTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	client := policy.Client(egress.TransportOptions{})
	t.Cleanup(client.CloseIdleConnections)
	return &Poster{Transport: client.Transport, Timeout: timeout, UserAgent: "relay/test"}
}

func mustRequest(t testing.TB, to string) *deliver.Request {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.NewSigner(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	return &deliver.Request{URL: u, Signer: signer, EventID: "0198b2c4-0000-7000-8000-000000000001",
		Subscription: "0198b2c4-1111-7000-8000-000000000001",
		EventType:    "payment.received", Body: testBody, Attempt: 3}
}

func mustServe(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// raw serves each connection by hand.
func raw(t testing.TB, serve func(net.Conn)) string {
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
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Wait()
	})
	return "http://" + l.Addr().String() + "/"
}

// request reads one request from the connection.
func request(c net.Conn) {
	if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// untilClosed reads until the client has gone.
func untilClosed(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func TestPoster_SendsWhatIsDocumented(t *testing.T) {
	t.Parallel()
	type received struct {
		r    *http.Request
		body []byte
	}
	got := make(chan received, 1)
	to := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- received{r, b}
		w.WriteHeader(http.StatusNoContent)
	})
	before := time.Now()
	out := mustPoster(t, 5*time.Second).Attempt(t.Context(), mustRequest(t, to+"/hook?x=1"))
	if !out.Success() || out.StatusCode != 204 || out.Duration <= 0 || out.Detail != "" {
		t.Fatalf("outcome %+v", out)
	}
	in := <-got
	if in.r.Method != http.MethodPost || in.r.URL.RequestURI() != "/hook?x=1" || "http://"+in.r.Host != to {
		t.Errorf("%s %s to %s", in.r.Method, in.r.URL, in.r.Host)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Accept": "*/*", "User-Agent": "relay/test", "X-Event-Type": "payment.received",
		"Relay-Attempt": "3", "Relay-Subscription": "0198b2c4-1111-7000-8000-000000000001", "Webhook-Id": "0198b2c4-0000-7000-8000-000000000001",
	} {
		if v := in.r.Header.Get(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if string(in.body) != string(testBody) || in.r.ContentLength != int64(len(testBody)) {
		t.Errorf("body %q of length %d", in.body, in.r.ContentLength)
	}
	if v := in.r.Header.Get("Accept-Encoding"); v != "" {
		t.Errorf("asks for compression: %s", v)
	}
	if err := signature.Verify([]string{testSecret}, in.r.Header, in.body, before, 5*time.Second); err != nil {
		t.Errorf("signature: %v", err)
	}
	if err := signature.VerifyLegacy([]string{testSecret}, in.r.Header, in.body); err != nil {
		t.Errorf("legacy signature: %v", err)
	}
}

func TestPoster_ClassifiesEveryStatus(t *testing.T) {
	t.Parallel()
	to := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &code)
		w.WriteHeader(code)
	})
	p := mustPoster(t, 5*time.Second)
	for code, want := range map[int]deliver.Reason{
		200: "", 201: "", 202: "", 204: "", 226: "", 299: "",
		300: deliver.ReasonRedirect, 301: deliver.ReasonRedirect, 304: deliver.ReasonRedirect, 308: deliver.ReasonRedirect,
		399: deliver.ReasonRedirect,
		400: deliver.ReasonHTTP4xx, 401: deliver.ReasonHTTP4xx, 404: deliver.ReasonHTTP4xx, 408: deliver.ReasonHTTP408,
		410: deliver.ReasonHTTP4xx, 413: deliver.ReasonHTTP4xx, 421: deliver.ReasonHTTP4xx, 422: deliver.ReasonHTTP4xx,
		425: deliver.ReasonHTTP4xx, 429: deliver.ReasonHTTP429, 499: deliver.ReasonHTTP4xx,
		500: deliver.ReasonHTTP5xx, 502: deliver.ReasonHTTP5xx, 503: deliver.ReasonHTTP5xx, 599: deliver.ReasonHTTP5xx,
		600: deliver.ReasonOther, 999: deliver.ReasonOther,
	} {
		out := p.Attempt(t.Context(), mustRequest(t, fmt.Sprintf("%s/%d", to, code)))
		if out.Reason != want || out.StatusCode != code || out.Aborted {
			t.Errorf("%d: %+v, want reason %q", code, out, want)
		}
		if out.Gone != (code == 410) {
			t.Errorf("%d: gone %v", code, out.Gone)
		}
		if want != "" && !strings.HasPrefix(out.Detail, fmt.Sprintf("HTTP %d", code)) {
			t.Errorf("%d: detail %q", code, out.Detail)
		}
	}
}

func TestPoster_TakesSwitchingProtocolsForAFailure(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 1)
	to := raw(t, func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		untilClosed(c)
		closed <- struct{}{}
	})
	out := mustPoster(t, time.Second).Attempt(t.Context(), mustRequest(t, to))
	if out.Success() || out.Aborted {
		t.Errorf("outcome %+v", out)
	}
	<-closed
}

func TestPoster_FollowsNoRedirect(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	target := mustServe(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	to := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	})
	out := mustPoster(t, 5*time.Second).Attempt(t.Context(), mustRequest(t, to))
	if out.Reason != deliver.ReasonRedirect || out.StatusCode != 307 || hits.Load() != 0 {
		t.Errorf("outcome %+v, %d requests at the target", out, hits.Load())
	}
}

func TestPoster_NamesWhatWentWrong(t *testing.T) {
	t.Parallel()
	closedPort, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort.Close()
	selfSigned := httptest.NewUnstartedServer(http.NotFoundHandler())
	selfSigned.Config.ErrorLog = log.New(io.Discard, "", 0)
	selfSigned.StartTLS()
	t.Cleanup(selfSigned.Close)
	plain := mustServe(t, func(http.ResponseWriter, *http.Request) {})
	for name, c := range map[string]struct {
		to   string
		want deliver.Reason
	}{
		"refused":          {"http://" + closedPort.Addr().String(), deliver.ReasonConnect},
		"no such name":     {"http://no-such-host.invalid/", deliver.ReasonDNS},
		"self-signed":      {selfSigned.URL, deliver.ReasonTLS},
		"no TLS at all":    {strings.Replace(plain, "http:", "https:", 1), deliver.ReasonTLS},
		"blocked address":  {"http://10.0.0.1/", deliver.ReasonBlocked},
		"blocked loopback": {"http://[::1]:80/", deliver.ReasonBlocked},
		"hangs":            {raw(t, untilClosed), deliver.ReasonTimeout},
		"drips headers": {raw(t, func(c net.Conn) {
			request(c)
			drip(c, "HTTP/1.1 200 OK\r\n")
		}), deliver.ReasonTimeout},
		"closes inside the request": {raw(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }), deliver.ReasonConnect},
		"closes after the request":  {raw(t, request), deliver.ReasonConnect},
		"resets": {raw(t, func(c net.Conn) {
			request(c)
			_ = c.(*net.TCPConn).SetLinger(0)
		}), deliver.ReasonConnect},
		"half a status line": {raw(t, func(c net.Conn) {
			request(c)
			_, _ = io.WriteString(c, "HTTP/1.1 2")
		}), deliver.ReasonOther},
		"no HTTP": {raw(t, func(c net.Conn) {
			request(c)
			_, _ = io.WriteString(c, "220 smtp.test ESMTP\r\n")
		}), deliver.ReasonOther},
		"endless headers": {raw(t, func(c net.Conn) {
			request(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		}), deliver.ReasonOther},
		"endless informational answers": {raw(t, func(c net.Conn) {
			request(c)
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"); err != nil {
					return
				}
			}
		}), deliver.ReasonOther},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			out := mustPoster(t, time.Second).Attempt(t.Context(), mustRequest(t, c.to))
			if out.Reason != c.want || out.Aborted || out.StatusCode != 0 || out.Gone {
				t.Errorf("outcome %+v, want %q", out, c.want)
			}
			if out.Detail == "" || strings.Contains(out.Detail, "127.0.0.1") || strings.Contains(out.Detail, "10.0.0.1") {
				t.Errorf("detail %q is empty or names an address", out.Detail)
			}
			if took := time.Since(began); took > 10*time.Second || out.Duration > took {
				t.Errorf("took %s, says %s", took, out.Duration)
			}
		})
	}
}

// drip writes s and then a byte at a time until the client has gone.
func drip(c net.Conn, s string) {
	_, _ = io.WriteString(c, s)
	for {
		if _, err := io.WriteString(c, "x"); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond) // it is what this server does
	}
}

func TestPoster_TakesA2xxForSuccessWhateverHappensToItsBody(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){
		"cut off": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf") },
		"reset": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
			_ = c.(*net.TCPConn).SetLinger(0)
		},
		"broken chunks": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n")
		},
		"false gzip": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope")
		},
		"dripping": func(c net.Conn) { drip(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := raw(t, func(c net.Conn) {
				request(c)
				serve(c)
			})
			began := time.Now()
			out := mustPoster(t, 500*time.Millisecond).Attempt(t.Context(), mustRequest(t, to))
			if !out.Success() {
				t.Errorf("outcome %+v", out)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestPoster_ReadsNoMoreThanItsBoundOfAnEndlessBody(t *testing.T) {
	t.Parallel()
	for _, code := range []int{200, 500} {
		written := make(chan int, 1)
		to := raw(t, func(c net.Conn) {
			request(c)
			n := 0
			_, _ = fmt.Fprintf(c, "HTTP/1.1 %d X\r\n\r\n", code)
			chunk := make([]byte, 16<<10)
			for {
				m, err := c.Write(chunk)
				if n += m; err != nil {
					written <- n
					return
				}
			}
		})
		out := mustPoster(t, 5*time.Second).Attempt(t.Context(), mustRequest(t, to))
		if out.StatusCode != code || out.Success() != (code == 200) {
			t.Errorf("outcome %+v", out)
		}
		// What is above the bound stands in buffers of the kernel.
		if n := <-written; n > 16<<20 {
			t.Errorf("%d bytes went out before the connection was closed", n)
		}
	}
}

func TestPoster_UsesAConnectionAgain(t *testing.T) {
	t.Parallel()
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 10<<10))
	}))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	p := mustPoster(t, 5*time.Second)
	for range 20 {
		if out := p.Attempt(t.Context(), mustRequest(t, s.URL)); !out.Success() {
			t.Fatalf("outcome %+v", out)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for requests one after another, want 1", n)
	}
}

func TestPoster_IsAbortedByItsContext(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{})
	to := raw(t, func(c net.Conn) {
		close(reached)
		untilClosed(c)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-reached
		cancel()
	}()
	out := mustPoster(t, time.Minute).Attempt(ctx, mustRequest(t, to))
	if !out.Aborted || out.Success() || out.Reason != "" {
		t.Errorf("outcome %+v, want aborted", out)
	}
}

func TestPoster_PassesOnRetryAfterOfFailuresOnly(t *testing.T) {
	t.Parallel()
	to := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		if r.URL.Path == "/busy" {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	p := mustPoster(t, 5*time.Second)
	if out := p.Attempt(t.Context(), mustRequest(t, to+"/busy")); out.RetryAfter != 7*time.Second {
		t.Errorf("asked for %s, want 7s", out.RetryAfter)
	}
	if out := p.Attempt(t.Context(), mustRequest(t, to+"/fine")); out.RetryAfter != 0 {
		t.Errorf("a success asks for %s", out.RetryAfter)
	}
}

func TestParseRetryAfter_ReadsSecondsAndDates(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"120":                            2 * time.Minute,
		" 120 ":                          2 * time.Minute,
		"1.5":                            1500 * time.Millisecond,
		"-5":                             0,
		"NaN":                            0,
		"Inf":                            365 * 24 * time.Hour,
		"-Inf":                           0,
		"99999999999999999999":           365 * 24 * time.Hour,
		"1e400":                          0,
		"soon":                           0,
		"12 seconds":                     0,
		"Sun, 01 Mar 2026 12:01:00 GMT":  time.Minute,
		"Sunday, 01-Mar-26 12:01:00 GMT": time.Minute,
		"Sun Mar  1 12:01:00 2026":       time.Minute,
		"Sun, 01 Mar 2026 11:00:00 GMT":  0,
		"Fri, 31 Dec 9999 23:59:59 GMT":  365 * 24 * time.Hour,
	} {
		if got := ParseRetryAfter(v, now); got != want {
			t.Errorf("ParseRetryAfter(%q) = %s, want %s", v, got, want)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, v := range []string{"", "1", "1.5", "-1", "NaN", "1e309", "0x1p-2", "Sun, 01 Mar 2026 12:01:00 GMT", "١"} {
		f.Add(v, int64(1772366400))
	}
	f.Fuzz(func(t *testing.T, v string, now int64) {
		if got := ParseRetryAfter(v, time.Unix(now, 0)); got < 0 || got > 365*24*time.Hour {
			t.Errorf("ParseRetryAfter(%q) = %s", v, got)
		}
	})
}
