package webhook

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/test/authority"
)

// mustIdentify returns a Poster that trusts an authority, and what makes identities beside it.
func mustIdentify(t *testing.T, a *authority.Authority) (*Poster, *egress.Identities) {
	t.Helper()
	policy, err := egress.New(egress.Options{Allow: []string{"127.0.0.1"}, RootCAs: a.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	client := policy.Client(egress.TransportOptions{})
	t.Cleanup(client.CloseIdleConnections)
	return &Poster{Transport: client.Transport, Timeout: 10 * time.Second}, policy.Identities(egress.TransportOptions{})
}

var versions = map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13}

func TestPoster_ShowsEachSubscriptionsCertificateAlone(t *testing.T) {
	t.Parallel()
	for name, version := range versions {
		a := authority.New(t, "a")
		var mu sync.Mutex
		var seen []string
		s := a.Server(t, tls.VerifyClientCertIfGiven, version, func(_ http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, authority.Shown(r))
		})
		p, all := mustIdentify(t, a)
		ada, bob, carol := all.New(a.Pair(t, "ada")), all.New(a.Pair(t, "bob")), all.New(a.Pair(t, "carol"))
		for _, i := range []*egress.Identity{ada, nil, bob, ada, nil, carol, bob} {
			r := mustRequest(t, s.URL)
			if i != nil {
				r.Identity = i
			}
			if out := p.Attempt(t.Context(), r); !out.Success() {
				t.Errorf("%s: %+v", name, out)
			}
		}
		for _, i := range []*egress.Identity{ada, bob, carol} {
			i.Close()
		}
		if got := fmt.Sprintf("%q", seen); got != `["ada" "" "bob" "ada" "" "carol" "bob"]` {
			t.Errorf("%s: seen %s", name, got)
		}
	}
}

func TestPoster_SaysWhatAnEndpointHasAgainstTheCertificate(t *testing.T) {
	t.Parallel()
	a, stranger := authority.New(t, "a"), authority.New(t, "stranger")
	issue := func(template *x509.Certificate) *tls.Certificate {
		certificate, key := a.Issue(t, template)
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	revoked := a.Pair(t, "revoked")
	for name, version := range versions {
		s := a.Server(t, tls.RequireAndVerifyClientCert, version, func(http.ResponseWriter, *http.Request) {})
		p, all := mustIdentify(t, a)
		for _, c := range []struct {
			what string
			show *tls.Certificate
			says string
		}{
			{"none", nil, map[string]string{"TLS 1.2": "the endpoint ended the handshake; it may ask for a client certificate, and the subscription has none",
				"TLS 1.3": "the endpoint asks for a client certificate, and the subscription has none"}[name]},
			{"unknown issuer", stranger.Pair(t, "ada"), "the endpoint does not know the authority of the client certificate"},
			{"expired", issue(&x509.Certificate{NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}),
				"the endpoint says that the client certificate has expired"},
			{"for servers", issue(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}), "the endpoint does not accept the client certificate"},
			{"accepted", revoked, ""},
		} {
			for _, size := range []int{10, 200 << 10} {
				r := mustRequest(t, s.URL)
				r.Body = bytes.Repeat([]byte("x"), size)
				var i *egress.Identity
				if c.show != nil {
					i = all.New(c.show)
					r.Identity = i
				}
				out := p.Attempt(t.Context(), r)
				if i != nil {
					i.Close()
				}
				if c.says == "" && !out.Success() || c.says != "" && (out.Reason != deliver.ReasonTLS || out.Detail != c.says || strings.Contains(out.Detail, "127.0.0.1")) {
					t.Errorf("%s, %s, %d bytes: %s: %s; want %q", name, c.what, size, out.Reason, out.Detail, c.says)
				}
			}
		}
	}
}

// Other servers send other alerts than Go's.
func TestTLSDetail_KnowsTheAlertsAboutCertificates(t *testing.T) {
	t.Parallel()
	for alert, says := range map[byte]string{40: "ended the handshake", 42: "does not accept", 43: "of this kind", 44: "revoked", 45: "expired", 46: "does not accept",
		48: "does not know the authority", 49: "does not accept", 70: "TLS 1.2 or newer", 80: "ended the handshake", 112: "does not know the host name", 116: "asks for another"} {
		for _, identified := range []bool{true, false} {
			// The server answers the handshake with nothing but the alert.
			to := raw(t, func(c net.Conn) {
				_, _ = io.ReadAtLeast(c, make([]byte, 64), 6)
				_, _ = c.Write([]byte{21, 3, 3, 0, 2, 2, alert})
				untilClosed(c)
			})
			p, all := mustIdentify(t, authority.New(t, "a"))
			r := mustRequest(t, strings.Replace(to, "http:", "https:", 1))
			want := says
			if i := all.New(authority.New(t, "b").Pair(t, "ada")); identified {
				r.Identity = i
				defer i.Close()
			} else if alert == 40 || alert == 42 || alert == 116 {
				want = "the subscription has none"
			} else if alert != 70 && alert != 112 {
				want = "ended the handshake"
			}
			if out := p.Attempt(t.Context(), r); out.Reason != deliver.ReasonTLS || !strings.Contains(out.Detail, want) {
				t.Errorf("alert %d, with a certificate %t: %s: %s; want %q", alert, identified, out.Reason, out.Detail, want)
			}
		}
	}
}
