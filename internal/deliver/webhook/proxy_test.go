package webhook

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
)

// mustPosterThrough is a Poster behind a proxy that answers CONNECT with text, and connects when that is empty.
func mustPosterThrough(t *testing.T, text string) *Poster {
	t.Helper()
	at := raw(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil || r.Method != http.MethodConnect {
			return
		}
		if text != "" {
			_, _ = io.WriteString(c, text)
			untilClosed(c)
			return
		}
		out, err := net.Dial("tcp", r.RequestURI)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		done := make(chan struct{})
		go func() {
			_, _ = io.Copy(out, in)
			_ = out.Close()
			close(done)
		}()
		_, _ = io.Copy(c, out)
		_ = c.Close()
		<-done
	})
	return mustPosterBehind(t, strings.TrimSuffix(at, "/"))
}

func mustPosterBehind(t *testing.T, proxy string) *Poster {
	t.Helper()
	policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, Proxy: proxy, ConnectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	client := policy.Client(egress.TransportOptions{})
	t.Cleanup(client.CloseIdleConnections)
	return &Poster{Transport: client.Transport, Timeout: 10 * time.Second}
}

func TestPoster_DeliversThroughAProxyAndNamesTheReceiversAddress(t *testing.T) {
	t.Parallel()
	code := make(chan int, 2)
	to := mustServe(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(<-code) })
	p := mustPosterThrough(t, "")
	code <- 204
	if out := p.Attempt(t.Context(), mustRequest(t, to)); !out.Success() || out.StatusCode != 204 {
		t.Errorf("outcome %+v", out)
	}
	code <- 500
	if out := p.Attempt(t.Context(), mustRequest(t, to)); out.Reason != deliver.ReasonHTTP5xx || "http://"+out.Address != to || out.OurFault {
		t.Errorf("outcome %+v, want the address of %s", out, to)
	}
}

func TestPoster_TellsTheProxysFaultsFromTheEndpoints(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, tc := range map[string]struct {
		proxy *Poster
		ours  bool
		says  string
	}{
		"not there":                 {mustPosterBehind(t, "http://user:hunter2@"+closed.Addr().String()), true, "could not be used"},
		"its name does not resolve": {mustPosterBehind(t, "http://no-such-proxy.invalid:3128"), true, "could not be used"},
		"speaks no TLS":             {mustPosterBehind(t, strings.Replace(mustServe(t, func(http.ResponseWriter, *http.Request) {}), "http:", "https:", 1)), true, "could not be used"},
		"wants credentials":         {mustPosterThrough(t, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), true, "credentials"},
		"refuses":                   {mustPosterThrough(t, "HTTP/1.1 403 Forbidden\r\n\r\n"), true, "answered 403"},
		"breaks off":                {mustPosterThrough(t, "nonsense\r\n"), true, "could not be used"},
		"cannot connect":            {mustPosterThrough(t, "HTTP/1.1 503 Service Unavailable\r\n\r\n"), false, "answered 503"},
		"waits":                     {mustPosterThrough(t, "HTTP/1.1 "), false, "in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := tc.proxy.Attempt(t.Context(), mustRequest(t, "http://127.0.0.1:9/"))
			if out.Reason != deliver.ReasonConnect || out.OurFault != tc.ours || out.Aborted || out.StatusCode != 0 {
				t.Errorf("outcome %+v, want our fault: %t", out, tc.ours)
			}
			if !strings.HasPrefix(out.Detail, "the egress proxy ") || !strings.Contains(out.Detail, tc.says) || strings.Contains(out.Detail, "127.0.0.1") {
				t.Errorf("detail %q", out.Detail)
			}
		})
	}
	t.Run("and blocks what it would block without one", func(t *testing.T) {
		t.Parallel()
		out := mustPosterThrough(t, "HTTP/1.1 200 OK\r\n\r\n").Attempt(t.Context(), mustRequest(t, "http://10.0.0.1/"))
		if out.Reason != deliver.ReasonBlocked || out.OurFault || out.Address != "10.0.0.1:80" {
			t.Errorf("outcome %+v", out)
		}
	})
}

// Else a tenant could ask the delivery log which ports are open inside.
func TestPoster_SaysTheSameOfABlockedAddressWhetherOrNotSomethingListensThere(t *testing.T) {
	t.Parallel()
	open, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	policy, err := egress.New(egress.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &Poster{Transport: policy.Client(egress.TransportOptions{}).Transport, Timeout: 5 * time.Second}
	of := func(l net.Listener) deliver.Outcome {
		out := p.Attempt(t.Context(), mustRequest(t, "http://"+l.Addr().String()))
		return deliver.Outcome{Reason: out.Reason, Detail: out.Detail, StatusCode: out.StatusCode, Answer: out.Answer, OurFault: out.OurFault}
	}
	if a, b := of(open), of(closed); a.Reason != deliver.ReasonBlocked || a.Reason != b.Reason || a.Detail != b.Detail || a.Answer != b.Answer {
		t.Errorf("%+v and %+v", a, b)
	}
}
