package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/test/authority"
)

// mustServeTLS serves with a certificate that an authority issues from a template.
func mustServeTLS(t *testing.T, a *authority.Authority, template *x509.Certificate, version uint16) string {
	t.Helper()
	certificate, key := a.Issue(t, template)
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS10, MaxVersion: version} // #nosec G402 -- what is tested
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestPoster_SaysWhatIsWrongWithTheSecureConnection(t *testing.T) {
	t.Parallel()
	a, stranger := authority.New(t, "a"), authority.New(t, "stranger")
	here := []net.IP{net.IPv4(127, 0, 0, 1)}
	servers := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	began, ended := time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	soon := time.Now().Add(24 * time.Hour)
	for name, c := range map[string]struct{ to, says string }{
		"expired": {mustServeTLS(t, a, &x509.Certificate{IPAddresses: here, ExtKeyUsage: servers, NotBefore: began, NotAfter: ended}, 0),
			"the endpoint's certificate expired at " + ended.UTC().Format(time.RFC3339)},
		"not yet valid": {mustServeTLS(t, a, &x509.Certificate{IPAddresses: here, ExtKeyUsage: servers, NotBefore: soon}, 0),
			"the endpoint's certificate is not valid before " + soon.UTC().Format(time.RFC3339)},
		"another name": {mustServeTLS(t, a, &x509.Certificate{DNSNames: []string{"vault.inside.example"}, ExtKeyUsage: servers}, 0),
			"the endpoint's certificate is for other names, not for the host of the URL"},
		"unknown authority": {mustServeTLS(t, stranger, &x509.Certificate{IPAddresses: here, ExtKeyUsage: servers}, 0), "an authority that is not trusted"},
		"for clients":       {mustServeTLS(t, a, &x509.Certificate{IPAddresses: here, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, 0), "is not one for servers"},
		"old protocol":      {mustServeTLS(t, a, &x509.Certificate{IPAddresses: here, ExtKeyUsage: servers}, tls.VersionTLS11), "TLS 1.2 or newer is needed"},
		"no TLS":            {strings.Replace(mustServe(t, func(http.ResponseWriter, *http.Request) {}), "http:", "https:", 1), "does not speak TLS on this port"},
	} {
		p, _ := mustIdentify(t, a)
		var log bytes.Buffer
		p.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		out := p.Attempt(t.Context(), mustRequest(t, c.to))
		if out.Reason != deliver.ReasonTLS || !strings.Contains(out.Detail, c.says) {
			t.Errorf("%s: %s: %s; want %q", name, out.Reason, out.Detail, c.says)
		}
		if strings.Contains(out.Detail, "127.0.0.1") || strings.Contains(out.Detail, "inside") {
			t.Errorf("%s: the tenant reads %q", name, out.Detail)
		}
		if out.Cause == "" || !strings.Contains(log.String(), "attempt failed") || !strings.Contains(log.String(), "127.0.0.1") {
			t.Errorf("%s: the operator reads %q, and in the log %q", name, out.Cause, log.String())
		}
	}
	p, _ := mustIdentify(t, a)
	to := raw(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	if out := p.Attempt(t.Context(), mustRequest(t, strings.Replace(to, "http:", "https:", 1))); out.Reason != deliver.ReasonConnect ||
		out.Detail != "the connection broke during the handshake of TLS" {
		t.Errorf("hung up: %s: %s", out.Reason, out.Detail)
	}
}

func TestNamesOf_TellsAFewAndNothingOfTheInside(t *testing.T) {
	t.Parallel()
	c := &x509.Certificate{DNSNames: []string{"a.example", "b.example", strings.Repeat("c", 300), "d.example", "e.example"}}
	if got, want := namesOf(c, true), "a.example, b.example, "+strings.Repeat("c", toldName)+"... and 2 more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := namesOf(c, false); got != "other names" {
		t.Errorf("of an endpoint inside: %q", got)
	}
	if len(c.DNSNames[2]) != 300 {
		t.Error("the certificate was changed")
	}
}

func TestRedirectTo_TellsWhereWithoutWhatMayBeSecret(t *testing.T) {
	t.Parallel()
	from, err := url.Parse("https://hooks.example.com/old?token=1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		location string
		public   bool
		want     string
	}{
		{"/new", false, " to https://hooks.example.com/new"},
		{"http://hooks.example.com/old", false, " to http://hooks.example.com/old"},
		{"https://ada:pw@other.example/x?secret=1#f", true, " to https://other.example/x"},
		{"https://jenkins.inside/login", false, " to another host"},
		{"//other.example:8443/", true, " to https://other.example:8443/"},
		{"", true, ", without a Location"},
		{"javascript:alert(1)", true, ", to what is no http or https URL"},
		{"https://%zz", true, ", to what is no http or https URL"},
	} {
		if got := redirectTo(from, c.location, c.public); got != c.want {
			t.Errorf("%q, public %t: got %q, want %q", c.location, c.public, got, c.want)
		}
	}
	if got := redirectTo(from, "/"+strings.Repeat("x", 4000), true); len(got) > keptLocation+20 {
		t.Errorf("%d bytes of a Location are told", len(got))
	}
}

func TestPoster_SaysWhereARedirectLeads(t *testing.T) {
	t.Parallel()
	to := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/moved?secret=1", http.StatusMovedPermanently)
	})
	out := mustPoster(t, 5*time.Second).Attempt(t.Context(), mustRequest(t, to))
	if out.Reason != deliver.ReasonRedirect || out.Detail != "HTTP 301 Moved Permanently to "+to+"/moved" {
		t.Errorf("%s: %s", out.Reason, out.Detail)
	}
}

func TestPoster_SaysWhatBecameOfTheName(t *testing.T) {
	t.Parallel()
	policy, err := egress.New(egress.Options{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: net.ErrClosed} // no name server can be reached
	}}})
	if err != nil {
		t.Fatal(err)
	}
	client := policy.Client(egress.TransportOptions{})
	t.Cleanup(client.CloseIdleConnections)
	out := (&Poster{Transport: client.Transport, Timeout: 10 * time.Second}).Attempt(t.Context(), mustRequest(t, "http://nothing.example/"))
	if out.Reason != deliver.ReasonDNS || !strings.Contains(out.Detail, "had no answer") {
		t.Errorf("%s: %s", out.Reason, out.Detail)
	}
	for _, c := range []struct {
		err  net.DNSError
		says string
	}{{net.DNSError{IsNotFound: true}, "does not exist"}, {net.DNSError{IsTimeout: true}, "in time"}, {net.DNSError{IsTemporary: true}, "no answer"}} {
		if got := dnsDetail(&c.err); !strings.Contains(got, c.says) {
			t.Errorf("%+v: %q, want %q", c.err, got, c.says)
		}
	}
}
