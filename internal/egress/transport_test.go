package egress

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestClient_AbortsHugeHeaders(t *testing.T) {
	for name, hostile := range map[string]func(io.Writer) error{
		"one long header": func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nX: %s\r\n\r\n", strings.Repeat("x", 1<<20))
			return err
		},
		"headers without end": func(w io.Writer) (err error) {
			_, err = io.WriteString(w, "HTTP/1.1 200 OK\r\n")
			for i := 0; err == nil; i++ {
				_, err = fmt.Fprintf(w, "X-%d: x\r\n", i)
			}
			return nil
		},
		"informational answers without end": func(w io.Writer) (err error) {
			for err == nil {
				_, err = io.WriteString(w, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := serveRaw(t, hostile)
			client := mustPolicy(t, Options{Allow: []string{"127.0.0.1"}}).Client(TransportOptions{})
			defer client.CloseIdleConnections()
			resp, err := get(t, client, "http://"+addr)
			if err == nil {
				t.Fatalf("status %d", resp.StatusCode)
			}
			if !strings.Contains(err.Error(), "headers exceeded") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestClient_AcceptsOrdinaryHeaders(t *testing.T) {
	addr := serve(t, "127.0.0.1", 0, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("X", strings.Repeat("x", 16<<10))
	})})
	client := mustPolicy(t, Options{Allow: []string{"127.0.0.1"}}).Client(TransportOptions{})
	defer client.CloseIdleConnections()
	if _, err := get(t, client, "http://"+addr); err != nil {
		t.Error(err)
	}
}

func TestClient_InflatesNothing(t *testing.T) {
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	if _, err := zip.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	var asked string
	addr := serve(t, "127.0.0.1", 0, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header.Get("Accept-Encoding")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	})})
	client := mustPolicy(t, Options{Allow: []string{"127.0.0.1"}}).Client(TransportOptions{})
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != int64(bomb.Len()) {
		t.Errorf("read %d bytes of %d, %v", n, bomb.Len(), err)
	}
	if asked != "" {
		t.Errorf("asked for %s", asked)
	}
}

func TestClient_UsesNoProxy(t *testing.T) {
	trap := newTrap(t, "")
	proxy := fmt.Sprintf("http://127.0.0.1:%d", trap.port)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, proxy)
	}
	if tr := mustPolicy(t, Options{}).Transport(TransportOptions{}); tr.Proxy != nil {
		t.Error("the transport has a proxy")
	}
	p := mustPolicy(t, Options{Allow: []string{"0.0.0.0/0"}, Deny: []string{"203.0.113.1"}})
	_, err := get(t, p.Client(TransportOptions{}), "http://203.0.113.1/")
	mustBeBlocked(t, err, "203.0.113.1", RuleDeny)
	trap.mustBeEmpty(t)
}

func TestClient_RefusesOldTLSAndUnknownRoots(t *testing.T) {
	start := func(version uint16) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.EnableHTTP2 = true
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		s := start(version)
		roots := x509.NewCertPool()
		roots.AddCert(s.Certificate())
		for _, known := range []bool{true, false} {
			o := Options{Allow: []string{"127.0.0.1"}}
			if known {
				o.RootCAs = roots
			} else {
				o.RootCAs = x509.NewCertPool()
			}
			client := mustPolicy(t, o).Client(TransportOptions{})
			resp, err := get(t, client, s.URL)
			client.CloseIdleConnections()
			if (err == nil) != (want && known) {
				t.Errorf("%s, root known %t: %v", tls.VersionName(version), known, err)
			}
			if err == nil && resp.ProtoMajor != 1 {
				t.Errorf("spoke %s", resp.Proto)
			}
		}
	}
}

func TestClient_GivesUpOnSilence(t *testing.T) {
	silent := func(io.Writer) error { return nil }
	for name, o := range map[string]Options{
		"headers": {HeaderTimeout: 20 * time.Millisecond},
		"all":     {Timeout: 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			o.Allow = []string{"127.0.0.1"}
			client := mustPolicy(t, o).Client(TransportOptions{})
			defer client.CloseIdleConnections()
			_, err := get(t, client, "http://"+serveRaw(t, silent))
			if timeout, ok := err.(interface{ Timeout() bool }); !ok || !timeout.Timeout() {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("TLS", func(t *testing.T) {
		client := mustPolicy(t, Options{Allow: []string{"127.0.0.1"}, TLSTimeout: 20 * time.Millisecond}).Client(TransportOptions{})
		defer client.CloseIdleConnections()
		_, err := get(t, client, "https://"+serveRaw(t, silent))
		if timeout, ok := err.(interface{ Timeout() bool }); !ok || !timeout.Timeout() {
			t.Errorf("got %v", err)
		}
	})
}

func TestTransport_HasThePoolAskedFor(t *testing.T) {
	p := mustPolicy(t, Options{})
	if tr := p.Transport(TransportOptions{}); tr.MaxIdleConnsPerHost <= http.DefaultMaxIdleConnsPerHost || tr.MaxIdleConns == 0 ||
		tr.IdleConnTimeout != 90*time.Second {
		t.Errorf("defaults: %d per host, %d, %s", tr.MaxIdleConnsPerHost, tr.MaxIdleConns, tr.IdleConnTimeout)
	}
	tr := p.Transport(TransportOptions{MaxIdleConns: 7, MaxIdleConnsPerHost: 3, MaxConnsPerHost: 5})
	if tr.MaxIdleConns != 7 || tr.MaxIdleConnsPerHost != 3 || tr.MaxConnsPerHost != 5 {
		t.Errorf("got %d, %d, %d", tr.MaxIdleConns, tr.MaxIdleConnsPerHost, tr.MaxConnsPerHost)
	}
}

// serveRaw answers each connection's first bytes with what answer writes, then keeps it open until the client
// goes away.
func serveRaw(t *testing.T, answer func(io.Writer) error) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				if _, err := r.ReadByte(); err == nil && answer(c) == nil {
					_, _ = io.Copy(io.Discard, r)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}
