// Package authority issues certificates to the servers and clients of tests.
package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// New returns an authority that nobody knows yet.
func New(tb testing.TB, name string) *Authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	a := &Authority{key: key}
	a.Certificate = a.sign(tb, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign}, key.Public())
	return a
}

// Pool trusts the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	return pool
}

// sign fills in what a template leaves open, and signs it; with itself when the authority has no certificate yet.
func (a *Authority) sign(tb testing.TB, template *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		tb.Fatal(err)
	}
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(365 * 24 * time.Hour)
	}
	parent := a.Certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// Sign issues a certificate for a key, and returns it as PEM. What the template leaves open is filled in: it is good for a
// year.
func (a *Authority) Sign(tb testing.TB, template *x509.Certificate, key crypto.PublicKey) string {
	tb.Helper()
	return PEM("CERTIFICATE", a.sign(tb, template, key).Raw)
}

// Client issues a certificate to a client, and returns it and its key as PEM.
func (a *Authority) Client(tb testing.TB, name string) (certificate, key string) {
	tb.Helper()
	return a.Issue(tb, &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// Issue makes a key and a certificate for it, and returns both as PEM.
func (a *Authority) Issue(tb testing.TB, template *x509.Certificate) (certificate, key string) {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return a.Sign(tb, template, private.Public()), Key(tb, private)
}

// Key returns a private key as PEM.
func Key(tb testing.TB, key any) string {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return PEM("PRIVATE KEY", der)
}

// PEM wraps bytes in a block.
func PEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// Pair returns what Client returns in the form that TLS takes.
func (a *Authority) Pair(tb testing.TB, name string) *tls.Certificate {
	tb.Helper()
	certificate, key := a.Client(tb, name)
	c, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		tb.Fatal(err)
	}
	return &c
}

// Server serves on this machine over TLS, with a certificate of the authority, and treats clients' certificates, of which it
// trusts those of the authority, as auth says. It speaks the one version, 0 for any.
func (a *Authority) Server(tb testing.TB, auth tls.ClientAuthType, version uint16, handler http.HandlerFunc) *httptest.Server {
	tb.Helper()
	s := a.Unstarted(tb, auth, version, handler)
	s.StartTLS()
	return s
}

// Unstarted is a Server that begins to serve with StartTLS.
func (a *Authority) Unstarted(tb testing.TB, auth tls.ClientAuthType, version uint16, handler http.HandlerFunc) *httptest.Server {
	tb.Helper()
	certificate, key := a.Issue(tb, &x509.Certificate{Subject: pkix.Name{CommonName: "receiver"}, DNSNames: []string{"example.com", "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		tb.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: auth, ClientCAs: a.Pool(), MinVersion: version, MaxVersion: version}
	s.Config.ErrorLog = log.New(tb.Output(), "", 0)
	tb.Cleanup(s.Close)
	return s
}

// Shown is the common name of the certificate that a client showed; "" for none.
func Shown(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return r.TLS.PeerCertificates[0].Subject.CommonName
}
