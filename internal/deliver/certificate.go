package deliver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/outbox-relay/relay/internal/secret"
)

// MaxCertificate is how many bytes of PEM a client certificate, those that lead to its authority, and its key may have together.
const MaxCertificate = 32 << 10

// What of a client certificate is wrong, in a CertificateError.
const (
	CertificatePart = "certificate"
	KeyPart         = "key"
)

// CertificateError says what is wrong with a client certificate. It has nothing of its key.
type CertificateError struct {
	Part   string // CertificatePart or KeyPart
	Reason string
}

func (e *CertificateError) Error() string { return "client " + e.Part + ": " + e.Reason }

// NewClientCertificate makes of a certificate, with those behind it that lead to its authority, and of its key what a
// Subscription holds. Both are PEM. One that has ended, that a receiver could not check, or whose key is weak or does not
// belong to it is refused. Errors are CertificateErrors.
func NewClientCertificate(certificate, key string, now time.Time) (secret.Secret, error) {
	if len(certificate)+len(key) > MaxCertificate {
		return secret.Secret{}, &CertificateError{CertificatePart, fmt.Sprintf("it has more than %d KiB together with its key", MaxCertificate>>10)}
	}
	chain, err := readChain(certificate)
	if err != nil {
		return secret.Secret{}, err
	}
	leaf := chain[0]
	if !now.Before(leaf.NotAfter) {
		return secret.Secret{}, &CertificateError{CertificatePart, "it ended at " + leaf.NotAfter.UTC().Format(time.RFC3339)}
	}
	if reason := checkPublicKey(leaf.PublicKey); reason != "" {
		return secret.Secret{}, &CertificateError{CertificatePart, reason}
	}
	private, err := readKey(key)
	if err != nil {
		return secret.Secret{}, err
	}
	if public, ok := private.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return secret.Secret{}, &CertificateError{KeyPart, "it is not the key of the certificate, which must be the first in its list"}
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return secret.Secret{}, &CertificateError{KeyPart, "it is of a kind that TLS does not use"}
	}
	var text strings.Builder
	for _, c := range chain {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Builder takes everything
	}
	_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return secret.New(text.String()), nil
}

// blocks reads the PEM blocks of a text. What stands between them is passed over, as everybody does; a block that breaks off is
// not: the rest of a list would be missing in silence.
func blocks(text, part string) ([]*pem.Block, error) {
	var list []*pem.Block
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		list = append(list, b)
	}
	if len(list) == 0 || len(list) != strings.Count(text, "-----BEGIN ") {
		return nil, &CertificateError{part, "it is not PEM, or breaks off"}
	}
	return list, nil
}

func readChain(text string) ([]*x509.Certificate, error) {
	wrong := func(format string, args ...any) ([]*x509.Certificate, error) {
		return nil, &CertificateError{CertificatePart, fmt.Sprintf(format, args...)}
	}
	list, err := blocks(text, CertificatePart)
	if err != nil {
		return nil, err
	}
	chain := make([]*x509.Certificate, len(list))
	for i, b := range list {
		switch {
		case strings.HasSuffix(b.Type, "PRIVATE KEY"):
			return wrong("it has a private key, which belongs into key")
		case b.Type != "CERTIFICATE":
			return wrong("block %d is not a certificate", i+1)
		}
		if chain[i], err = x509.ParseCertificate(b.Bytes); err != nil {
			return wrong("certificate %d cannot be read", i+1)
		}
		if i > 0 && !chain[i].IsCA {
			return wrong("certificate %d is not an authority's: behind the first one stand those that lead to its authority", i+1)
		}
	}
	return chain, nil
}

// checkPublicKey tells what is wrong with the key that a certificate is for; "" when nothing is. Large keys cost us time with
// each connection, and receivers refuse them.
func checkPublicKey(key any) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return fmt.Sprintf("its RSA key has %d bits; 2048 to 4096 are needed", bits)
		}
		return ""
	case *ecdsa.PublicKey:
		if slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
			return ""
		}
	case ed25519.PublicKey:
		return ""
	}
	return "its key is of a kind that TLS does not use"
}

// maxKey is more than an RSA key of 4096 bits has, in bytes. Larger ones take seconds to be looked at.
const maxKey = 6 << 10

func readKey(text string) (crypto.Signer, error) {
	wrong := func(reason string) (crypto.Signer, error) { return nil, &CertificateError{KeyPart, reason} }
	list, err := blocks(text, KeyPart)
	if err != nil {
		return nil, err
	}
	var found crypto.Signer
	for _, b := range list {
		if b.Type == "EC PARAMETERS" { // stand before the key in what OpenSSL writes
			continue
		}
		var key any
		switch {
		case b.Type == "ENCRYPTED PRIVATE KEY" || b.Headers["DEK-Info"] != "":
			return wrong("it is encrypted; give it without its passphrase")
		case found != nil:
			return wrong("it has more than one block")
		case len(b.Bytes) > maxKey:
			return wrong("it is too large")
		case b.Type == "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case b.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case b.Type == "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(b.Bytes)
		default:
			return wrong("it has a block that is not a private key")
		}
		if err != nil {
			return wrong("it cannot be read")
		}
		var ok bool
		if found, ok = key.(crypto.Signer); !ok {
			return wrong("it is of a kind that TLS does not use")
		}
	}
	if found == nil {
		return wrong("it has no private key")
	}
	return found, nil
}

// Certificate is what is shown of a client certificate.
type Certificate struct {
	Subject     string    `json:"subject"`            // as RFC 4514 writes it
	Fingerprint string    `json:"fingerprint_sha256"` // of the whole certificate, in hexadecimal
	NotAfter    time.Time `json:"not_after"`
	NotBefore   time.Time `json:"-"`
	forClients  bool
}

// maxSubject bounds the subject that is shown, in bytes.
const maxSubject = 500

// describe returns what is shown of a client certificate, nil for none, and for one that other hands have written wrongly.
func describe(stored secret.Secret) *Certificate {
	b, rest := pem.Decode([]byte(stored.Reveal()))
	for b != nil && b.Type != "CERTIFICATE" {
		b, rest = pem.Decode(rest)
	}
	if b == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(leaf.Raw)
	subject := printable(leaf.Subject.String())
	if len(subject) > maxSubject {
		subject = strings.ToValidUTF8(subject[:maxSubject], "") + "..."
	}
	forAll := len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0
	return &Certificate{Subject: subject, Fingerprint: hex.EncodeToString(sum[:]), NotAfter: leaf.NotAfter.UTC(), NotBefore: leaf.NotBefore.UTC(),
		forClients: forAll || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)}
}

// States of a client certificate.
const (
	CertificateValid    = "valid"
	CertificateExpiring = "expiring" // ends within 30 days
	CertificateExpired  = "expired"  // is shown all the same: the receiver decides
)

// expiringFor is how long before its end a certificate is said to expire.
const expiringFor = 30 * 24 * time.Hour

// State returns what a certificate's end says at a time.
func (c *Certificate) State(now time.Time) string {
	switch left := c.NotAfter.Sub(now); {
	case left <= 0:
		return CertificateExpired
	case left < expiringFor:
		return CertificateExpiring
	}
	return CertificateValid
}

// Warnings say what of a certificate may not be meant, in sentences.
func (c *Certificate) Warnings(now time.Time) []string {
	var out []string
	if c.State(now) != CertificateValid {
		out = append(out, "The client certificate ends at "+c.NotAfter.Format(time.RFC3339)+".")
	}
	if now.Before(c.NotBefore) {
		out = append(out, "The client certificate is not valid before "+c.NotBefore.Format(time.RFC3339)+".")
	}
	if !c.forClients {
		out = append(out, "The client certificate's extended key usage does not have clientAuth; most receivers refuse it.")
	}
	return out
}

// errNotShown says that a client certificate would be of no use.
var errNotShown = errors.New("a client certificate needs https: without TLS it is never shown")

// CheckShown tells what is wrong with a client certificate at the subscription's URL.
func (s *Subscription) CheckShown() error {
	if scheme, _, _ := strings.Cut(s.URL, ":"); !s.ClientCertificate.IsZero() && !strings.EqualFold(scheme, "https") {
		return errNotShown
	}
	return nil
}

// errCertificate says that rows were written by other hands.
var errCertificate = errors.New("the client certificate of the subscription cannot be used")

// ClientPair returns the client certificate with its key, nil for none. Both are checked again, because rows may be written by
// other hands than ours.
func (s *Subscription) ClientPair() (*tls.Certificate, error) {
	if s.ClientCertificate.IsZero() {
		return nil, nil
	}
	if err := s.CheckShown(); err != nil {
		return nil, err
	}
	text := []byte(s.ClientCertificate.Reveal())
	pair, err := tls.X509KeyPair(text, text)
	if err != nil || checkPublicKey(pair.Leaf.PublicKey) != "" {
		return nil, errCertificate
	}
	return &pair, nil
}

// Identity sends requests with a client certificate, over connections that nobody else uses. Close closes them, busy ones when
// their exchange has ended; what is sent after it is sent all the same.
type Identity interface {
	http.RoundTripper
	Close()
}

// Identify makes an Identity of a certificate.
type Identify func(*tls.Certificate) Identity

// client is as whom an endpoint is called. It stays while the certificate does.
type client struct {
	of       secret.Secret // what it was made of
	notAfter time.Time
	identity Identity
	told     atomic.Bool // that it has ended
}

// newClient returns as whom a subscription's endpoint is called, nil for nobody: old, if that is the same.
func newClient(s *Subscription, old *client, identify Identify) (*client, error) {
	if old != nil && old.of == s.ClientCertificate && s.CheckShown() == nil {
		return old, nil
	}
	pair, err := s.ClientPair()
	switch {
	case err != nil || pair == nil:
		return nil, err
	case identify == nil:
		return nil, errCertificate
	}
	return &client{of: s.ClientCertificate, notAfter: pair.Leaf.NotAfter, identity: identify(pair)}, nil
}

// tellExpired says once that an endpoint is called with a certificate that has ended. Attempts go on: the receiver decides.
func (p *Dispatcher) tellExpired(ep *Endpoint, spec *endpointSpec, now time.Time) {
	if c := spec.client; !now.Before(c.notAfter) && !c.told.Swap(true) {
		p.log.Warn("client certificate has expired; it is shown all the same, and its receiver decides: its tenant has to give another one",
			"subscription", ep.id, "tenant", spec.sub.TenantID, "fingerprint_sha256", spec.sub.Certificate.Fingerprint, "ended", c.notAfter.UTC().Format(time.RFC3339))
	}
}
