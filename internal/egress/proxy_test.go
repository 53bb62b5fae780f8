package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// connectProxy is a proxy that knows CONNECT, and does what it is asked for.
type connectProxy struct {
	addr string

	mu     sync.Mutex
	asked  []string // the targets, in the order of arrival
	header http.Header
	answer func(target string) string // instead of a connection, unless it is empty
}

func newConnectProxy(t *testing.T) *connectProxy {
	t.Helper()
	return newConnectProxyOver(t, func(l net.Listener) net.Listener { return l })
}

// newConnectProxyOver lets something stand between the proxy and its listener.
func newConnectProxyOver(t *testing.T, over func(net.Listener) net.Listener) *connectProxy {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &connectProxy{addr: l.Addr().String()}
	p.serve(t, over(l))
	return p
}

func (p *connectProxy) serve(t *testing.T, l net.Listener) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				p.handle(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
}

func (p *connectProxy) handle(c net.Conn) {
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.RequestURI)
	p.header = r.Header
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		if text := answer(r.RequestURI); text != "" {
			_, _ = io.WriteString(c, text)
			_, _ = io.Copy(io.Discard, in)
			return
		}
	}
	out, err := net.Dial("tcp", r.RequestURI)
	if err != nil {
		_, _ = io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	defer out.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(out, in)
		_ = out.(*net.TCPConn).CloseWrite()
	})
	_, _ = io.Copy(c, out)
	_ = c.Close()
	wg.Wait()
}

func (p *connectProxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// mustHaveBeenAskedFor fails when the proxy was asked for anything else.
func (p *connectProxy) mustHaveBeenAskedFor(t *testing.T, target string) {
	t.Helper()
	asked := p.requests()
	if len(asked) == 0 {
		t.Error("the proxy was not asked for anything")
	}
	for _, line := range asked {
		if line != fmt.Sprintf("CONNECT %s", target) {
			t.Errorf("the proxy was asked: %s", line)
		}
	}
}

// receiver is a server on an address that policy has to let through, and what it saw.
type receiver struct {
	*httptest.Server
	port  string
	seen  chan *http.Request
	conns atomic.Int64
}

const receiverHost = "127.0.0.77"

func newReceiver(t *testing.T, secure bool) *receiver {
	t.Helper()
	l := listenApart(t)
	r := &receiver{seen: make(chan *http.Request, 100)}
	_, r.port, _ = net.SplitHostPort(l.Addr().String())
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { r.seen <- req }))
	_ = r.Listener.Close()
	r.Listener = l
	r.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			r.conns.Add(1)
		}
	}
	if secure {
		r.StartTLS()
	} else {
		r.Start()
	}
	t.Cleanup(r.Close)
	return r
}

// listenApart listens on receiverHost at a port that nothing has on 127.0.0.1, nor will have during the test: the addresses
// of one machine may share a port, and the relay lets nothing through to the port of its proxy.
func listenApart(t *testing.T) net.Listener {
	t.Helper()
	for {
		l, err := net.Listen("tcp4", receiverHost+":0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		kept, err := net.Listen("tcp4", "127.0.0.1:"+port)
		if err == nil {
			t.Cleanup(func() { _ = kept.Close() })
			return l
		}
		_ = l.Close()
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func (r *receiver) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	if c := r.Certificate(); c != nil {
		pool.AddCert(c)
	}
	return pool
}

func TestProxy_IsAskedForTheAddressThatWasCheckedAndTheReceiverSeesItsName(t *testing.T) {
	for scheme, secure := range map[string]bool{"http": false, "https": true} {
		t.Run(scheme, func(t *testing.T) {
			proxy, r := newConnectProxy(t), newReceiver(t, secure)
			p := mustPolicy(t, Options{Proxy: "http://us%20:p%3Aw@" + proxy.addr + "/", Allow: []string{receiverHost}, RootCAs: r.roots(),
				Resolver: newResolver(t, always(receiverHost))})
			client := p.Client(TransportOptions{})
			defer client.CloseIdleConnections()
			for range 3 {
				if _, err := get(t, client, scheme+"://example.com:"+r.port+"/hook"); err != nil {
					t.Fatal(err)
				}
				req := <-r.seen
				if req.Host != "example.com:"+r.port || req.RequestURI != "/hook" || req.Header.Get("Proxy-Authorization") != "" {
					t.Errorf("the receiver saw %s %s %v", req.Host, req.RequestURI, req.Header)
				}
				if secure && req.TLS.ServerName != "example.com" {
					t.Errorf("TLS asked for %q", req.TLS.ServerName)
				}
			}
			proxy.mustHaveBeenAskedFor(t, receiverHost+":"+r.port)
			if n := len(proxy.requests()); n != 1 {
				t.Errorf("%d connections for three requests one after another", n)
			}
			if got := proxy.header.Get("Proxy-Authorization"); got != "Basic dXMgOnA6dw==" {
				t.Errorf("credentials %q", got)
			}
		})
	}
}

func TestProxy_MayBeSpokenToOverTLS(t *testing.T) {
	r := newReceiver(t, true)
	proxy := newConnectProxyOver(t, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: r.TLS.Certificates})
	})
	_, port, _ := net.SplitHostPort(proxy.addr)
	o := Options{Proxy: "https://proxy.example.com:" + port, Allow: []string{receiverHost}, RootCAs: r.roots(),
		Resolver: newResolver(t, func(name string) []netip.Addr {
			if strings.HasPrefix(name, "proxy.") {
				return always("127.0.0.1")(name)
			}
			return always(receiverHost)(name)
		})}
	client := mustPolicy(t, o).Client(TransportOptions{})
	defer client.CloseIdleConnections()
	if _, err := get(t, client, "https://example.com:"+r.port); err != nil {
		t.Error(err)
	}
	o.RootCAs = x509.NewCertPool()
	o.Allow = append(o.Allow, "example.com")
	strict := mustPolicy(t, o).Client(TransportOptions{})
	_, err := get(t, strict, "http://example.com:"+r.port)
	mustBeProxyError(t, err, false)
}

func mustBeProxyError(t *testing.T, err error, endpoint bool) {
	t.Helper()
	var fault *ProxyError
	if !errors.As(err, &fault) || fault.Endpoint != endpoint {
		t.Errorf("got %v, want a proxy error, the endpoint's: %t", err, endpoint)
	}
}

func TestProxy_TellsItsOwnFaultsFromTheReceivers(t *testing.T) {
	answer := func(text string) func(string) string { return func(string) string { return text } }
	for _, tc := range []struct {
		name     string
		answer   string
		endpoint bool
	}{
		{"wants credentials", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n", false},
		{"forbids it", "HTTP/1.1 403 Forbidden\r\n\r\n", false},
		{"knows no CONNECT", "HTTP/1.1 405 Method Not Allowed\r\n\r\n", false},
		{"leads elsewhere", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", false},
		{"has an error of its own", "HTTP/1.1 500 Internal Server Error\r\n\r\n", false},
		{"goes on without end", "HTTP/1.1 100 Continue\r\n\r\n", false},
		{"speaks something else", "220 smtp.example ESMTP\r\n", false},
		{"has too long headers", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxResponseHeader) + "\r\n\r\n", false},
		{"sends the receiver's answer itself", "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
		{"does not reach it", "HTTP/1.1 502 Bad Gateway\r\n\r\n", true},
		{"does not reach it, says another", "HTTP/1.1 503 Service Unavailable\r\n\r\n", true},
		{"does not reach it in time", "HTTP/1.1 504 Gateway Timeout\r\n\r\n", true},
		{"hangs", "HTTP/1.1 200 ", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			proxy := newConnectProxy(t)
			proxy.answer = answer(tc.answer)
			timeout := 5 * time.Second
			if tc.name == "hangs" {
				timeout = 100 * time.Millisecond
			}
			p := mustPolicy(t, Options{Proxy: "http://user:hunter2@" + proxy.addr, Allow: []string{receiverHost}, ConnectTimeout: timeout})
			_, err := get(t, p.Client(TransportOptions{}), "http://"+receiverHost+":9")
			mustBeProxyError(t, err, tc.endpoint)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the password: %v", err)
			}
			proxy.mustHaveBeenAskedFor(t, receiverHost+":9")
		})
	}
	t.Run("not there", func(t *testing.T) {
		for _, at := range []string{closedPort(t), "no-such-proxy.invalid:3128"} {
			p := mustPolicy(t, Options{Proxy: "http://user:hunter2@" + at, Allow: []string{receiverHost}, Resolver: newResolver(t, always())})
			_, err := get(t, p.Client(TransportOptions{}), "http://"+receiverHost+":9")
			mustBeProxyError(t, err, false)
		}
	})
	t.Run("the receiver's name does not resolve", func(t *testing.T) {
		proxy := newConnectProxy(t)
		p := mustPolicy(t, Options{Proxy: "http://" + proxy.addr, Resolver: newResolver(t, always())})
		_, err := get(t, p.Client(TransportOptions{}), "http://receiver.example")
		var dns *net.DNSError
		var fault *ProxyError
		if !errors.As(err, &dns) || errors.As(err, &fault) || len(proxy.requests()) > 0 {
			t.Errorf("got %v; the proxy was asked %q", err, proxy.requests())
		}
	})
}

// closedPort is an address of this machine at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestProxy_IsAskedForTheNextAddressThatPasses(t *testing.T) {
	proxy, r := newConnectProxy(t), newReceiver(t, false)
	bad := "127.0.0.78:" + r.port
	proxy.answer = func(target string) string {
		if target == bad {
			return "HTTP/1.1 502 Bad Gateway\r\n\r\n"
		}
		return ""
	}
	p := mustPolicy(t, Options{Proxy: "http://" + proxy.addr, Allow: []string{receiverHost, "127.0.0.78"},
		Resolver: newResolver(t, always("127.0.0.78", "10.0.0.1", receiverHost))})
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()
	if _, err := get(t, client, "http://receiver.example:"+r.port); err != nil {
		t.Error(err)
	}
	for _, line := range proxy.requests() {
		if line != "CONNECT "+bad && line != "CONNECT "+receiverHost+":"+r.port {
			t.Errorf("the proxy was asked: %s", line)
		}
	}
}

func TestProxy_IsNoReceiver(t *testing.T) {
	proxy := newConnectProxy(t)
	p := mustPolicy(t, Options{Proxy: "http://" + proxy.addr, Allow: []string{"127.0.0.0/8", "proxy.example"}, Resolver: newResolver(t, always("127.0.0.1"))})
	_, port, _ := net.SplitHostPort(proxy.addr)
	for _, host := range []string{"127.0.0.1", "proxy.example", "127.0.0.9"} {
		_, err := get(t, p.Client(TransportOptions{}), "http://"+host+":"+port)
		mustBeBlocked(t, err, host, RuleOwn)
	}
	if asked := proxy.requests(); len(asked) > 0 {
		t.Errorf("the proxy was asked: %q", asked)
	}
}

func TestProxy_ConnectionsAreRetiredWhenItChanges(t *testing.T) {
	one, two, r := newConnectProxy(t), newConnectProxy(t), newReceiver(t, false)
	o := Options{Proxy: "http://" + one.addr, Allow: []string{receiverHost}}
	p := mustPolicy(t, o)
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()
	for _, proxy := range []string{"http://" + one.addr, "http://" + two.addr, ""} {
		o.Proxy = proxy
		if err := p.Reload(o); err != nil {
			t.Fatal(err)
		}
		if _, err := get(t, client, "http://"+receiverHost+":"+r.port); err != nil {
			t.Error(err)
		}
	}
	if a, b, all := len(one.requests()), len(two.requests()), r.conns.Load(); a != 1 || b != 1 || all != 3 {
		t.Errorf("%d and %d connections through the proxies, %d in all", a, b, all)
	}
}

func TestProxy_EndsWithTheContext(t *testing.T) {
	proxy := newConnectProxy(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	proxy.answer = func(string) string { cancel(); return "HTTP/1.1 " }
	p := mustPolicy(t, Options{Proxy: "http://" + proxy.addr, Allow: []string{receiverHost}, ConnectTimeout: time.Minute})
	if c, err := p.DialContext(ctx, "tcp", receiverHost+":9"); err == nil {
		_ = c.Close()
		t.Error("connected")
	}
}

func TestProxy_ConnectionsNameTheReceiver(t *testing.T) {
	proxy, r := newConnectProxy(t), newReceiver(t, false)
	p := mustPolicy(t, Options{Proxy: "http://" + proxy.addr, Allow: []string{receiverHost}})
	c, err := p.DialContext(t.Context(), "tcp", receiverHost+":"+r.port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.RemoteAddr().String(); got != receiverHost+":"+r.port {
		t.Errorf("remote address %s", got)
	}
}

func TestParseProxy_TakesURLsOfProxiesOnly(t *testing.T) {
	for raw, want := range map[string]string{
		"http://proxy.example:3128":          "proxy.example:3128",
		"http://proxy.example":               "proxy.example:80",
		"https://user:pw@proxy.example/":     "proxy.example:443",
		"http://[fd00::1]:3128":              "[fd00::1]:3128",
		"HTTP://10.0.0.1:" + strconv.Itoa(1): "10.0.0.1:1",
	} {
		if u, err := ParseProxy(raw); err != nil || proxyAddress(u) != want {
			t.Errorf("%s: %v", raw, err)
		}
	}
	for _, raw := range []string{"", "proxy.example:3128", "socks5://hunter2@proxy.example", "http://", "http://:3128", "http://hunter2@proxy.example/path",
		"http://proxy.example?hunter2", "http://proxy.example#hunter2", "http://proxy.example:0", "http://proxy.example:65536",
		"http://a:hunter2@proxy.example:port", "http://hunter2 @x", "file:///hunter2"} {
		if _, err := ParseProxy(raw); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", raw, err)
		}
		if _, err := New(Options{Proxy: raw}); raw != "" && (err == nil || !strings.Contains(err.Error(), "egress.proxy") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}
