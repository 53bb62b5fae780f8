package ops

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o Options) *Server {
	t.Helper()
	o.Gatherer, o.Log = prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	o.Ready = func() error { return errors.New("host=10.0.0.7 is away") }
	o.Status = func() any { return map[string]string{"state": "streaming"} }
	o.API = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the API") })
	o.Guard = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer operator" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t *testing.T, url, bearer string, transport *http.Transport) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	if transport == nil {
		transport = &http.Transport{}
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':'):] }

func TestServer_OnLoopbackAsksNobody(t *testing.T) {
	s := start(t, Options{Listen: "127.0.0.1:0"})
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/status": 200, "/metrics": 200, "/api/v1/x": 200} {
		if code, _ := get(t, "http://"+s.Addr()+path, "", nil); code != want {
			t.Errorf("%s: status %d", path, code)
		}
	}
	if _, body := get(t, "http://"+s.Addr()+"/readyz", "", nil); !strings.Contains(body, "10.0.0.7 is away") {
		t.Errorf("it does not say why: %s", body)
	}
	if s.Addr() != s.APIAddr() {
		t.Error("two addresses")
	}
}

func TestServer_OnOtherAddressesShowsMetricsAndStatusToOperatorsOnly(t *testing.T) {
	s := start(t, Options{Listen: ":0"})
	base := "http://127.0.0.1" + port(s.Addr())
	for _, path := range []string{"/status", "/metrics"} {
		for bearer, want := range map[string]int{"": 401, "tenant": 401, "operator": 200} {
			if code, body := get(t, base+path, bearer, nil); code != want || code != 200 && body != "" {
				t.Errorf("%s as %q: status %d, %s", path, bearer, code, body)
			}
		}
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/readyz?verbose": 503, "/api/v1/x": 200} {
		code, body := get(t, base+path, "", nil)
		if code != want || strings.Contains(body, "10.0.0.7") || strings.Contains(body, "streaming") {
			t.Errorf("%s: status %d, %s", path, code, body)
		}
	}
}

// A proxy on the same machine brings strangers to a loopback address.
func TestServer_OnLoopbackGuardsWhatAProxyPassesOn(t *testing.T) {
	s := start(t, Options{Listen: "127.0.0.1:0"})
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"} {
		for path, want := range map[string]int{"/status": 401, "/metrics": 401, "/readyz?verbose": 503, "/healthz": 200} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(name, "192.0.2.7")
			transport := &http.Transport{DisableKeepAlives: true}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != want || strings.Contains(string(body), "streaming") || strings.Contains(string(body), "10.0.0.7") {
				t.Errorf("%s with %s: status %d, %s", path, name, resp.StatusCode, body)
			}
		}
	}
}

func TestServer_WithAnAddressForOperatorsShowsTenantsNothingOfTheirs(t *testing.T) {
	s := start(t, Options{Listen: ":0", OpsListen: "127.0.0.1:0"})
	for _, path := range []string{"/healthz", "/readyz", "/status", "/metrics"} {
		if _, body := get(t, "http://127.0.0.1"+port(s.APIAddr())+path, "operator", nil); body != "the API" {
			t.Errorf("%s on the address of tenants: %s", path, body)
		}
	}
	if code, _ := get(t, "http://"+s.Addr()+"/metrics", "", nil); code != 200 {
		t.Errorf("metrics: status %d", code)
	}
	if code, body := get(t, "http://"+s.Addr()+"/api/v1/x", "", nil); code != 404 {
		t.Errorf("the API on the address of operators: status %d, %s", code, body)
	}
}

func TestServer_SpeaksTLSWhereTenantsCome(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Listen: "127.0.0.1:0", OpsListen: "127.0.0.1:0",
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}})
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	if code, body := get(t, "https://"+s.APIAddr()+"/api/v1/x", "", transport); code != 200 || body != "the API" {
		t.Errorf("status %d, %s", code, body)
	}
	old := &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11}
	if c, err := tls.Dial("tcp", s.APIAddr(), old); err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 is spoken")
	}
	if code, _ := get(t, "http://"+s.Addr()+"/metrics", "", nil); code != 200 {
		t.Errorf("metrics, without TLS on an address of their own: status %d", code)
	}
}

func TestNewServer_NamesTheKeyOfAnAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for key, o := range map[string]Options{"http.listen": {Listen: l.Addr().String()},
		"http.ops_listen": {Listen: "127.0.0.1:0", OpsListen: l.Addr().String()}} {
		o.Log = slog.New(slog.DiscardHandler)
		if _, err := NewServer(o); err == nil || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("%s: %v", key, err)
		}
	}
	if s := fmt.Sprint(loopback(&net.TCPAddr{IP: net.IPv6loopback}), loopback(&net.TCPAddr{IP: net.IPv6unspecified})); s != "true false" {
		t.Error(s)
	}
}

// A caller that takes its time holds a connection and no more, and not for long.
func TestServer_GivesUpOnCallersThatTakeTheirTime(t *testing.T) {
	s := start(t, Options{Listen: "127.0.0.1:0"})
	c, err := net.Dial("tcp", s.APIAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	began, closed := time.Now(), make(chan error, 1)
	go func() {
		_, err := io.ReadAll(c)
		closed <- err
	}()
	for {
		select {
		case <-closed:
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it was held for %s", took)
			}
			return
		case <-time.After(250 * time.Millisecond):
			_, _ = io.WriteString(c, "x") // it goes on, a byte at a time
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("the connection is still open")
		}
	}
}

func TestServer_RefusesHeadersWithoutEnd(t *testing.T) {
	s := start(t, Options{Listen: "127.0.0.1:0"})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.APIAddr()+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Large", strings.Repeat("x", 64<<10))
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return // it hung up before it had all, which is as good
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d", resp.StatusCode)
	}
}
