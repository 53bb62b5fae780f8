package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPolicy_NoOwnAddressIsReached(t *testing.T) {
	// Addresses of this machine's interfaces are private ones in most places; where they are public, the
	// rule cannot know them and deny is the way.
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	trap := newTrap(t, "")
	var deny []string
	for _, a := range addrs {
		deny = append(deny, netip.MustParsePrefix(a.String()).Addr().WithZone("").String())
	}
	p := mustPolicy(t, Options{Ports: []uint16{trap.port}, Deny: deny})
	for _, host := range deny {
		if c, err := p.DialContext(t.Context(), "tcp", net.JoinHostPort(host, strconv.Itoa(int(trap.port)))); err == nil {
			_ = c.Close()
			t.Errorf("%s was dialled", host)
		}
	}
	trap.mustBeEmpty(t)
}

func TestPolicy_AllowLetsThisMachineIn(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	for _, tc := range []struct {
		allow []string
		host  string
	}{
		{[]string{"127.0.0.1"}, "127.0.0.1"},
		{[]string{"127.0.0.0/8"}, "127.0.0.1"},
		{[]string{"127.0.0.0/8"}, "localhost"},
		{[]string{"127.0.0.0/8"}, "receiver.example"},
		{[]string{"127.0.0.0/8"}, "①②⑦.⓪.⓪.①"},
		{[]string{"127.0.0.0/8"}, "[::ffff:127.0.0.1]"},
		{[]string{"receiver.example"}, "receiver.example"},
		{[]string{"RECEIVER.example."}, "receiver.example"},
		{[]string{"localhost"}, "localhost"},
	} {
		t.Run(tc.host+" by "+tc.allow[0], func(t *testing.T) {
			p := mustPolicy(t, Options{Allow: tc.allow, Resolver: newResolver(t, always("127.0.0.1"))})
			client := p.Client(TransportOptions{})
			defer client.CloseIdleConnections()
			if _, err := get(t, client, "http://"+tc.host+port); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPolicy_BlocksNamesThatChangeTheirMind(t *testing.T) {
	trap := newTrap(t, "127.0.0.1")
	good := listen(t, "127.0.0.2", trap.port)
	// The name leads to the allowed receiver for a while, then to its neighbour.
	var moved atomic.Bool
	p := mustPolicy(t, Options{
		Allow: []string{"127.0.0.2"},
		Ports: []uint16{trap.port},
		Resolver: newResolver(t, func(string) []netip.Addr {
			if moved.Load() {
				return []netip.Addr{netip.MustParseAddr("127.0.0.1")}
			}
			return []netip.Addr{netip.MustParseAddr("127.0.0.2")}
		}),
	})
	raw := fmt.Sprintf("http://rebind.example:%d/", trap.port)
	if _, err := p.CheckURL(raw); err != nil {
		t.Fatal(err)
	}
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()
	if _, err := get(t, client, raw); err != nil {
		t.Fatal(err)
	}
	moved.Store(true)
	client.CloseIdleConnections()
	_, err := get(t, client, raw)
	mustBeBlocked(t, err, "rebind.example", RuleAddress)
	if good.count.Load() != 1 {
		t.Errorf("%d requests at the receiver", good.count.Load())
	}
	trap.mustBeEmpty(t)
}

func TestPolicy_BlocksRedirectsEvenWhenFollowed(t *testing.T) {
	trap := newTrap(t, "127.0.0.1")
	server := &http.Server{Handler: http.RedirectHandler(fmt.Sprintf("http://127.0.0.1:%d/", trap.port), http.StatusTemporaryRedirect)}
	good := serve(t, "127.0.0.2", 0, server)
	p := mustPolicy(t, Options{Allow: []string{"127.0.0.2"}, Ports: []uint16{trap.port}})
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()

	resp, err := get(t, client, "http://"+good)
	if err != nil || resp.StatusCode != http.StatusTemporaryRedirect {
		t.Fatalf("got %v, %v, want the redirect itself", resp, err)
	}
	client.CheckRedirect = nil // as if somebody had changed it
	_, err = get(t, client, "http://"+good)
	mustBeBlocked(t, err, "127.0.0.1", RuleAddress)
	trap.mustBeEmpty(t)
}

func TestPolicy_TriesTheAddressesThatPass(t *testing.T) {
	trap := newTrap(t, "127.0.0.1")
	good := listen(t, "127.0.0.2", trap.port)
	p := mustPolicy(t, Options{
		Allow:    []string{"127.0.0.2"},
		Ports:    []uint16{trap.port},
		Resolver: newResolver(t, always("127.0.0.1", "::1", "127.0.0.2")),
	})
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()
	if _, err := get(t, client, fmt.Sprintf("http://mixed.example:%d/", trap.port)); err != nil {
		t.Error(err)
	}
	if good.count.Load() != 1 {
		t.Errorf("%d requests at the receiver", good.count.Load())
	}
	trap.mustBeEmpty(t)
}

func TestPolicy_ErrorsAreFoundThroughTheirWrappers(t *testing.T) {
	p := mustPolicy(t, Options{})
	_, err := get(t, p.Client(TransportOptions{}), "http://10.0.0.1/")
	mustBeBlocked(t, err, "10.0.0.1", RuleAddress)
	var outer *url.Error
	var inner *net.OpError
	if !errors.As(err, &outer) || !errors.As(err, &inner) {
		t.Errorf("%v is no url.Error around a net.OpError", err)
	}
	if !strings.HasSuffix(err.Error(), "blocked by rule address; an entry in egress.allow lets it through") {
		t.Errorf("the message has no way out: %v", err)
	}
}

func TestReload_TakesEffectOnIdleAndBusyConnections(t *testing.T) {
	var conns atomic.Int64
	hold, entered := make(chan struct{}), make(chan struct{}, 1)
	server := &http.Server{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				entered <- struct{}{}
				<-hold
			}
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Add(1)
			}
		},
	}
	addr := serve(t, "127.0.0.1", 0, server)
	open := Options{Allow: []string{"127.0.0.0/8"}}
	p := mustPolicy(t, open)
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()

	for range 3 {
		if _, err := get(t, client, "http://"+addr); err != nil {
			t.Fatal(err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Fatalf("%d connections for three requests", n)
	}

	// A faulty reload changes nothing.
	if err := p.Reload(Options{Allow: []string{"10.0.0.1/8"}}); err == nil {
		t.Fatal("a faulty policy was taken")
	}
	if _, err := get(t, client, "http://"+addr); err != nil || conns.Load() != 1 {
		t.Fatalf("after a refused reload: %v, %d connections", err, conns.Load())
	}

	// The idle connection is not used again.
	if err := p.Reload(Options{}); err != nil {
		t.Fatal(err)
	}
	_, err := get(t, client, "http://"+addr)
	mustBeBlocked(t, err, "127.0.0.1", RuleAddress)

	// Neither is one that was busy during the reload, whose own exchange ends well.
	if err := p.Reload(open); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := get(t, client, "http://"+addr+"/slow")
		done <- err
	}()
	<-entered
	if err := p.Reload(Options{}); err != nil {
		t.Fatal(err)
	}
	// A request meanwhile makes the transport forget that it was told to close what becomes idle.
	_, err = get(t, client, "http://"+addr)
	mustBeBlocked(t, err, "127.0.0.1", RuleAddress)
	close(hold)
	if err := <-done; err != nil {
		t.Errorf("the busy exchange: %v", err)
	}
	_, err = get(t, client, "http://"+addr)
	mustBeBlocked(t, err, "127.0.0.1", RuleAddress)
}

func TestConnections_AreRetiredByAge(t *testing.T) {
	var conns, requests atomic.Int64
	server := &http.Server{
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			// Whole, because a connection that is answered early is not kept anyway.
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				requests.Add(1)
			}
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				conns.Add(1)
			}
		},
	}
	addr := serve(t, "127.0.0.1", 0, server)
	p := mustPolicy(t, Options{Allow: []string{"127.0.0.1"}, MaxConnAge: time.Nanosecond})
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()
	for i := range 5 {
		// The large ones do not fit into the write buffer.
		resp, err := client.Post("http://"+addr, "application/json", strings.NewReader(strings.Repeat("x", 10<<(4*i))))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if conns.Load() != 5 || requests.Load() != 5 {
		t.Errorf("%d connections and %d requests for 5 calls", conns.Load(), requests.Load())
	}
}

func TestDialContext_StopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := mustPolicy(t, Options{Allow: []string{"127.0.0.1"}})
	if c, err := p.DialContext(ctx, "tcp", "127.0.0.1:9"); err == nil {
		_ = c.Close()
		t.Error("dialled")
	}
}

func mustBeBlocked(t *testing.T, err error, host string, rule Rule) {
	t.Helper()
	var blocked *BlockedError
	if !errors.As(err, &blocked) || blocked.Host != host || blocked.Rule != rule {
		t.Errorf("got %v, want host %s blocked by %s", err, host, rule)
	}
}

// get makes one request and reads nothing of its body.
func get(t *testing.T, client *http.Client, raw string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, raw, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	return resp, resp.Body.Close()
}

type counted struct{ count atomic.Int64 }

// listen serves empty answers on one loopback address and counts them.
func listen(t *testing.T, host string, port uint16) *counted {
	t.Helper()
	c := &counted{}
	serve(t, host, port, &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { c.count.Add(1) })})
	return c
}

// serve runs a server until the end of the test and returns its address.
func serve(t *testing.T, host string, port uint16, server *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return l.Addr().String()
}
