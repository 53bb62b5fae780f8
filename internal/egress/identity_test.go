package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-relay/relay/test/authority"
)

// gate is a server that looks at clients' certificates.
type gate struct {
	*httptest.Server
	authority *authority.Authority
	opened    atomic.Int64 // connections

	mu   sync.Mutex
	open map[net.Conn]bool
	seen []string      // who came, request by request; "" for one without a certificate
	hold chan struct{} // of requests for /slow
	slow chan struct{} // that arrived
}

func newGate(t *testing.T, auth tls.ClientAuthType, version uint16) *gate {
	t.Helper()
	g := &gate{authority: authority.New(t, "gate"), open: make(map[net.Conn]bool), hold: make(chan struct{}), slow: make(chan struct{}, 1)}
	g.Server = g.authority.Unstarted(t, auth, version, func(_ http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.seen = append(g.seen, authority.Shown(r))
		g.mu.Unlock()
		if r.URL.Path == "/slow" {
			g.slow <- struct{}{}
			<-g.hold
		}
	})
	g.Config.ConnState = func(c net.Conn, s http.ConnState) {
		g.mu.Lock()
		defer g.mu.Unlock()
		switch s {
		case http.StateNew:
			g.opened.Add(1)
			g.open[c] = true
		case http.StateClosed, http.StateHijacked:
			delete(g.open, c)
		}
	}
	g.StartTLS()
	return g
}

func (g *gate) who() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.seen)
}

// mustHaveOpen waits until as many connections are open.
func (g *gate) mustHaveOpen(t *testing.T, want int) {
	t.Helper()
	n := -1
	for range 500 {
		g.mu.Lock()
		n = len(g.open)
		g.mu.Unlock()
		if n == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d connections are open, want %d", n, want)
}

func (g *gate) policy(t *testing.T) *Policy {
	return mustPolicy(t, Options{Allow: []string{"127.0.0.1"}, RootCAs: g.authority.Pool()})
}

func as(rt http.RoundTripper) *http.Client { return &http.Client{Transport: rt} }

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

func TestIdentity_IsSeenAsItselfAndSharesNoConnection(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, tls.VerifyClientCertIfGiven, version)
			p := g.policy(t)
			all := p.Identities(TransportOptions{})
			ada, bob := all.New(g.authority.Pair(t, "ada")), all.New(g.authority.Pair(t, "bob"))
			defer ada.Close()
			defer bob.Close()
			nobody := p.Client(TransportOptions{})
			defer nobody.CloseIdleConnections()
			for range 3 {
				for _, client := range []*http.Client{as(ada), nobody, as(bob)} {
					if _, err := get(t, client, g.URL); err != nil {
						t.Fatal(err)
					}
				}
			}
			want := []string{"ada", "", "bob", "ada", "", "bob", "ada", "", "bob"}
			if got := g.who(); !slices.Equal(got, want) || g.opened.Load() != 3 {
				t.Errorf("seen %q on %d connections, want %q on 3", got, g.opened.Load(), want)
			}
		})
	}
}

// A session that is resumed without the certificate would be that of somebody else.
func TestIdentity_ResumesNobodyElsesSession(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, tls.VerifyClientCertIfGiven, version)
			p := g.policy(t)
			all := p.Identities(TransportOptions{})
			nobody := p.Client(TransportOptions{})
			for range 3 {
				ada, bob := all.New(g.authority.Pair(t, "ada")), all.New(g.authority.Pair(t, "bob"))
				for _, client := range []*http.Client{as(ada), nobody, as(bob)} {
					if _, err := get(t, client, g.URL); err != nil {
						t.Fatal(err)
					}
				}
				ada.Close()
				bob.Close()
				nobody.CloseIdleConnections()
			}
			if got := fmt.Sprintf("%q", g.who()); got != `["ada" "" "bob" "ada" "" "bob" "ada" "" "bob"]` {
				t.Errorf("seen %s", got)
			}
		})
	}
}

func TestIdentity_ClosesWhatItHasWhenItIsClosed(t *testing.T) {
	g := newGate(t, tls.RequireAndVerifyClientCert, 0)
	p := g.policy(t)
	all := p.Identities(TransportOptions{})
	ada := all.New(g.authority.Pair(t, "ada"))
	if _, err := get(t, as(ada), g.URL); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := get(t, as(ada), g.URL+"/slow")
		done <- err
	}()
	<-g.slow
	if _, err := get(t, as(ada), g.URL); err != nil {
		t.Fatal(err)
	}
	g.mustHaveOpen(t, 2) // an idle one and a busy one
	ada.Close()
	g.mustHaveOpen(t, 1)
	// What was on its way is sent, and leaves nothing behind.
	if _, err := get(t, as(ada), g.URL); err != nil {
		t.Error(err)
	}
	g.mustHaveOpen(t, 1)
	close(g.hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
	g.mustHaveOpen(t, 0)
	if err := p.Reload(Options{Allow: []string{"127.0.0.1"}, RootCAs: g.authority.Pool()}); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, as(ada), g.URL); err != nil {
		t.Error(err)
	}
	g.mustHaveOpen(t, 0)
	if n := all.open.Len(); n != 0 {
		t.Errorf("%d identities are still known", n)
	}
}

func TestIdentity_TakesInAReload(t *testing.T) {
	g := newGate(t, tls.RequireAndVerifyClientCert, 0)
	p := g.policy(t)
	ada := p.Identities(TransportOptions{}).New(g.authority.Pair(t, "ada"))
	defer ada.Close()
	done := make(chan error, 1)
	go func() {
		_, err := get(t, as(ada), g.URL+"/slow")
		done <- err
	}()
	<-g.slow
	if _, err := get(t, as(ada), g.URL); err != nil {
		t.Fatal(err)
	}
	g.mustHaveOpen(t, 2)
	if err := p.Reload(Options{Allow: []string{"127.0.0.1"}, RootCAs: x509.NewCertPool()}); err != nil {
		t.Fatal(err)
	}
	g.mustHaveOpen(t, 1)
	var unknown x509.UnknownAuthorityError
	if _, err := get(t, as(ada), g.URL); !errors.As(err, &unknown) {
		t.Errorf("%v, want that the receiver's authority is no longer trusted", err)
	}
	if err := p.Reload(Options{Allow: []string{"127.0.0.1"}, RootCAs: g.authority.Pool()}); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, as(ada), g.URL); err != nil {
		t.Error(err)
	}
	close(g.hold)
	if err := <-done; err != nil {
		t.Errorf("the busy one: %v", err)
	}
	g.mustHaveOpen(t, 1)
	if err := p.Reload(Options{}); err != nil {
		t.Fatal(err)
	}
	g.mustHaveOpen(t, 0)
	_, err := get(t, as(ada), g.URL)
	mustBeBlocked(t, err, "127.0.0.1", RuleAddress)
}

func TestIdentities_BoundWhatTheyKeepOpenTogether(t *testing.T) {
	g := newGate(t, tls.RequireAndVerifyClientCert, 0)
	all := g.policy(t).Identities(TransportOptions{MaxIdleConns: 6, MaxIdleConnsPerHost: 2})
	var list []*Identity
	for n := range 5 {
		i := all.New(g.authority.Pair(t, fmt.Sprint(n)))
		defer i.Close()
		list = append(list, i)
	}
	for _, n := range []int{0, 1, 2, 0, 3, 4} { // 1 and 2 are used longest ago
		if _, err := get(t, as(list[n]), g.URL); err != nil {
			t.Fatal(err)
		}
	}
	g.mustHaveOpen(t, 3)
	before := g.opened.Load()
	for _, n := range []int{0, 3, 4} {
		if _, err := get(t, as(list[n]), g.URL); err != nil || g.opened.Load() != before {
			t.Errorf("identity %d: %v, %d connections anew", n, err, g.opened.Load()-before)
		}
	}
	if _, err := get(t, as(list[1]), g.URL); err != nil || g.opened.Load()-before != 1 {
		t.Errorf("one that was closed: %v, %d connections anew", err, g.opened.Load()-before)
	}
	g.mustHaveOpen(t, 3)
	all.Resize(TransportOptions{MaxIdleConns: 1, MaxIdleConnsPerHost: 1})
	if _, err := get(t, as(list[1]), g.URL); err != nil {
		t.Error(err)
	}
	g.mustHaveOpen(t, 1)
}

// The proxy is not whom the certificate is for, also when it asks for one.
func TestIdentity_GoesThroughTheProxyAndIsNotShownToIt(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			g := newGate(t, tls.RequireAndVerifyClientCert, version)
			shown := make(chan int, 10)
			asks := &tls.Config{Certificates: g.TLS.Certificates, ClientAuth: tls.RequestClientCert,
				VerifyConnection: func(s tls.ConnectionState) error { shown <- len(s.PeerCertificates); return nil }}
			proxy := newConnectProxyOver(t, func(l net.Listener) net.Listener { return tls.NewListener(l, asks) })
			p := mustPolicy(t, Options{Proxy: "https://" + proxy.addr, Allow: []string{"127.0.0.1"}, RootCAs: g.authority.Pool()})
			all := p.Identities(TransportOptions{})
			ada, bob := all.New(g.authority.Pair(t, "ada")), all.New(g.authority.Pair(t, "bob"))
			defer ada.Close()
			defer bob.Close()
			for range 2 {
				for _, i := range []*Identity{ada, bob} {
					if _, err := get(t, as(i), g.URL); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := fmt.Sprint(g.who()); got != "[ada bob ada bob]" {
				t.Errorf("the receiver saw %s", got)
			}
			if len(proxy.requests()) != 2 || len(shown) != 2 || <-shown != 0 || <-shown != 0 {
				t.Errorf("the proxy was asked %q, and shown a certificate", proxy.requests())
			}
		})
	}
}

// Servers that name other authorities than the issuer trust it all the same, by an intermediate one or without checking.
func TestIdentity_IsShownWhateverAuthoritiesAreNamed(t *testing.T) {
	g := newGate(t, tls.RequireAnyClientCert, 0)
	i := g.policy(t).Identities(TransportOptions{}).New(authority.New(t, "somebody else").Pair(t, "ada"))
	defer i.Close()
	if _, err := get(t, as(i), g.URL); err != nil || fmt.Sprint(g.who()) != "[ada]" {
		t.Errorf("%v, seen %q", err, g.who())
	}
}

func TestIdentity_SaysWhenItsKindOfCertificateIsNotTaken(t *testing.T) {
	g := newGate(t, tls.RequireAndVerifyClientCert, tls.VersionTLS13)
	// In TLS 1.3 a signature goes with one curve, and Go's servers name none for this one.
	key, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := g.authority.Sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ada"}}, key.Public())
	pair, err := tls.X509KeyPair([]byte(text), []byte(authority.Key(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	i := g.policy(t).Identities(TransportOptions{}).New(&pair)
	defer i.Close()
	var unfit *CertificateError
	if _, err := get(t, as(i), g.URL); !errors.As(err, &unfit) {
		t.Errorf("%v", err)
	}
	g.mustHaveOpen(t, 0)
}

// A body that is not read to its end costs its connection, and nothing else.
func TestIdentity_KeepsConnectionsAsOthersDo(t *testing.T) {
	g := newGate(t, tls.RequireAndVerifyClientCert, 0)
	i := g.policy(t).Identities(TransportOptions{}).New(g.authority.Pair(t, "ada"))
	defer i.Close()
	for range 5 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := i.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := g.opened.Load(); n != 1 {
		t.Errorf("%d connections for five requests one after another", n)
	}
}
