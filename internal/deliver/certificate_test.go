package deliver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/test/authority"
)

func TestNewClientCertificate_TakesWhatAuthoritiesGive(t *testing.T) {
	t.Parallel()
	now := time.Now()
	root := authority.New(t, "root")
	chain := authority.PEM("CERTIFICATE", root.Certificate.Raw)
	template := func() *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: "ada", Organization: []string{"Acme, Inc"}}}
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	numbers, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ certificate, key string }{
		"ed25519":        {root.Sign(t, template(), edwards.Public()), authority.Key(t, edwards)},
		"ECDSA":          {root.Sign(t, template(), curve.Public()), authority.Key(t, curve)},
		"ECDSA, SEC 1":   {root.Sign(t, template(), curve.Public()), "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n" + authority.PEM("EC PRIVATE KEY", sec1)},
		"RSA":            {root.Sign(t, template(), numbers.Public()), authority.Key(t, numbers)},
		"RSA, PKCS 1":    {root.Sign(t, template(), numbers.Public()), authority.PEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(numbers))},
		"with its chain": {root.Sign(t, template(), curve.Public()) + chain, authority.Key(t, curve)},
		"with text between and other ends of lines": {"subject=CN = ada\r\n" + strings.ReplaceAll(root.Sign(t, template(), curve.Public()), "\n", "\r\n") + "issuer=\n" + chain,
			strings.ReplaceAll(authority.Key(t, curve), "\n", "\r\n")},
	} {
		made, err := NewClientCertificate(c.certificate, c.key, now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s := &Subscription{URL: "https://a.test", ClientCertificate: made}
		pair, err := s.ClientPair()
		if err != nil || len(pair.Certificate) != strings.Count(c.certificate, "BEGIN CERTIFICATE") {
			t.Errorf("%s: %v", name, err)
		}
		if shown := describe(made); shown.Subject != `CN=ada,O=Acme\, Inc` || len(shown.Fingerprint) != 64 || !shown.NotAfter.Equal(pair.Leaf.NotAfter) ||
			shown.State(now) != CertificateValid || shown.Warnings(now) != nil {
			t.Errorf("%s: shown as %+v, %q", name, shown, shown.Warnings(now))
		}
	}
	if pair, err := (&Subscription{}).ClientPair(); pair != nil || err != nil || describe(secret.Secret{}) != nil {
		t.Errorf("none: %v, %v", pair, err)
	}
}

func TestNewClientCertificate_RefusesWhatIsOfNoUse(t *testing.T) {
	t.Parallel()
	now := time.Now()
	root := authority.New(t, "root")
	certificate, key := root.Client(t, "ada")
	other, otherKey := root.Client(t, "bob")
	ended, endedKey := root.Issue(t, &x509.Certificate{NotBefore: now.Add(-2 * time.Hour), NotAfter: now.Add(-time.Minute)})
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(key))
	legacy := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: block.Bytes,
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}}))
	for name, c := range map[string]struct{ certificate, key, part, says string }{
		"no certificate":           {"", key, CertificatePart, "not PEM"},
		"no key":                   {certificate, "", KeyPart, "not PEM"},
		"text":                     {"certificate", key, CertificatePart, "not PEM"},
		"DER":                      {string(root.Certificate.Raw), key, CertificatePart, "not PEM"},
		"a key that is text":       {certificate, "CANARY", KeyPart, "not PEM"},
		"a chain that breaks off":  {certificate + other[:200], key, CertificatePart, "breaks off"},
		"the key in certificate":   {certificate + key, key, CertificatePart, "belongs into key"},
		"a request":                {authority.PEM("CERTIFICATE REQUEST", []byte("CANARY")), key, CertificatePart, "not a certificate"},
		"no DER in it":             {authority.PEM("CERTIFICATE", []byte("CANARY")), key, CertificatePart, "cannot be read"},
		"two clients":              {certificate + other, key, CertificatePart, "certificate 2"},
		"authority first":          {authority.PEM("CERTIFICATE", root.Certificate.Raw) + certificate, key, CertificatePart, "certificate 2"},
		"another's key":            {certificate, otherKey, KeyPart, "not the key of the certificate"},
		"two keys":                 {certificate, key + otherKey, KeyPart, "more than one"},
		"a certificate as key":     {certificate, certificate, KeyPart, "not a private key"},
		"encrypted, PKCS 8":        {certificate, authority.PEM("ENCRYPTED PRIVATE KEY", []byte("CANARY")), KeyPart, "encrypted"},
		"encrypted, as OpenSSL":    {certificate, legacy, KeyPart, "encrypted"},
		"no key in it":             {certificate, authority.PEM("PRIVATE KEY", []byte("CANARY")), KeyPart, "cannot be read"},
		"a block of another name":  {certificate, authority.PEM("RSA PRIVATE KEY", block.Bytes), KeyPart, "cannot be read"},
		"parameters alone":         {certificate, authority.PEM("EC PARAMETERS", []byte("CANARY")), KeyPart, "no private key"},
		"a key of enormous length": {certificate, authority.PEM("RSA PRIVATE KEY", make([]byte, 7<<10)), KeyPart, "too large"},
		"weak":                     {root.Sign(t, &x509.Certificate{}, weak.Public()), authority.Key(t, weak), CertificatePart, "1024 bits"},
		"on an odd curve":          {root.Sign(t, &x509.Certificate{}, odd.Public()), authority.Key(t, odd), CertificatePart, "TLS does not use"},
		"ended":                    {ended, endedKey, CertificatePart, "it ended at"},
		"too large":                {certificate + strings.Repeat("\n", MaxCertificate), key, CertificatePart, "32 KiB"},
	} {
		made, err := NewClientCertificate(c.certificate, c.key, now)
		var wrong *CertificateError
		if !errors.As(err, &wrong) || wrong.Part != c.part || !strings.Contains(err.Error(), c.says) || !made.IsZero() {
			t.Errorf("%s: %v, want one of the %s that says %q", name, err, c.part, c.says)
		} else if strings.Contains(err.Error(), "CANARY") || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: %v repeats what it was given", name, err)
		}
	}
}

func TestCertificate_SaysWhatMayNotBeMeant(t *testing.T) {
	t.Parallel()
	now := time.Now()
	root := authority.New(t, "root")
	for name, c := range map[string]struct {
		template x509.Certificate
		state    string
		says     []string
	}{
		"fine":           {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, CertificateValid, nil},
		"for everything": {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}, CertificateValid, nil},
		"ends soon":      {x509.Certificate{NotAfter: now.Add(29 * 24 * time.Hour)}, CertificateExpiring, []string{"ends at"}},
		"begins later":   {x509.Certificate{NotBefore: now.Add(time.Hour)}, CertificateValid, []string{"not valid before"}},
		"for servers":    {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, CertificateValid, []string{"clientAuth"}},
	} {
		made, err := NewClientCertificate(first(root.Issue(t, &c.template)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		shown := describe(made)
		warnings := shown.Warnings(now)
		if shown.State(now) != c.state || len(warnings) != len(c.says) || len(warnings) > 0 && !strings.Contains(warnings[0], c.says[0]) {
			t.Errorf("%s: %s, %q", name, shown.State(now), warnings)
		}
		if shown.State(shown.NotAfter) != CertificateExpired {
			t.Errorf("%s: is %s at its end", name, shown.State(shown.NotAfter))
		}
	}
	// A subject is text from outside.
	made, err := NewClientCertificate(first(root.Issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "a\x00\x1b[2J", Organization: []string{strings.Repeat("ü", 1000)}}})))
	if err != nil {
		t.Fatal(err)
	}
	if s := describe(made).Subject; strings.ContainsAny(s, "\x00\x1b") || len(s) > maxSubject+3 || !strings.HasSuffix(s, "...") {
		t.Errorf("shown as %q", s)
	}
}

// first makes a call's arguments of what Issue returns.
func first(certificate, key string) (string, string, time.Time) { return certificate, key, time.Now() }

func mustCertificate(t testing.TB, root *authority.Authority, name string) secret.Secret {
	t.Helper()
	made, err := NewClientCertificate(first(root.Client(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Rows may be written by other hands than ours.
func TestClientPair_IsCheckedWhenItIsRead(t *testing.T) {
	t.Parallel()
	root := authority.New(t, "root")
	good := mustCertificate(t, root, "ada").Reveal()
	mixed := mustCertificate(t, root, "bob").Reveal()
	mixed = good[:strings.Index(good, "-----BEGIN PRIVATE")] + mixed[strings.Index(mixed, "-----BEGIN PRIVATE"):]
	for _, c := range []struct {
		text, url string
		as        Identify
	}{{"x", "https://a.test", identify(nil)}, {mixed, "https://a.test", identify(nil)}, {good, "http://a.test", identify(nil)}, {good, "https://a.test", nil}} {
		d := NewDirectory(anyURL, c.as, nil)
		ep := d.put(&Subscription{ID: uuid.New(), TenantID: "acme", URL: c.url, Events: []string{"*"}, stored: newStored(testSecret, nil, nil, nil, &c.text)})
		if spec := ep.spec.Load(); spec.fault == "" || strings.Contains(spec.fault, "BEGIN") || spec.client != nil {
			t.Errorf("%.20s at %s: an attempt would be made: %q", c.text, c.url, spec.fault)
		}
	}
}

// fakeIdentity tells who it is, and whether it was closed.
type fakeIdentity struct {
	http.RoundTripper
	name string
	mu   *sync.Mutex
	open *[]string
}

func (f *fakeIdentity) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	*f.open = slices.DeleteFunc(*f.open, func(s string) bool { return s == f.name })
}

// identify makes identities, and lists those that are open.
func identify(open *[]string) Identify {
	var mu sync.Mutex
	if open == nil {
		open = new([]string)
	}
	return func(c *tls.Certificate) Identity {
		mu.Lock()
		defer mu.Unlock()
		*open = append(*open, c.Leaf.Subject.CommonName)
		return &fakeIdentity{name: c.Leaf.Subject.CommonName, mu: &mu, open: open}
	}
}

func TestDirectory_KeepsAnIdentityForAsLongAsItsCertificate(t *testing.T) {
	t.Parallel()
	root := authority.New(t, "root")
	ada, bob := mustCertificate(t, root, "ada").Reveal(), mustCertificate(t, root, "bob").Reveal()
	var open []string
	allowed := true
	d := NewDirectory(func(_, raw string) (*url.URL, error) {
		if !allowed {
			return nil, errors.New("not now")
		}
		return url.Parse(raw)
	}, identify(&open), nil)
	id, other := uuid.New(), uuid.New()
	drop := func(id uuid.UUID) {
		d.mu.Lock()
		defer d.unlock()
		d.drop(d.byID[id])
	}
	put := func(id uuid.UUID, certificate *string, description, to string) {
		d.mu.Lock()
		defer d.unlock()
		d.put(&Subscription{ID: id, TenantID: "acme", URL: to, Events: []string{"*"}, Description: description, stored: newStored(testSecret, nil, nil, nil, certificate)})
	}
	is := func(when string, want ...string) {
		t.Helper()
		if fmt.Sprint(open) != fmt.Sprint(want) {
			t.Errorf("%s: open are %v, want %v", when, open, want)
		}
	}
	put(id, nil, "", "https://a.test")
	is("without one")
	put(id, &ada, "", "https://a.test")
	is("with one", "ada")
	before := d.Get(id).client()
	put(id, &ada, "renamed", "https://b.test")
	d.Recheck()
	if is("something else changed", "ada"); d.Get(id).client() != before {
		t.Error("its connections are gone")
	}
	put(other, &ada, "", "https://a.test")
	if is("another with the same", "ada", "ada"); d.Get(other).client() == before {
		t.Error("it uses connections of the first one")
	}
	drop(other)
	put(id, &bob, "renamed", "https://b.test")
	is("another one", "bob")
	allowed = false
	d.Recheck()
	is("while its URL is not allowed")
	allowed = true
	d.Recheck()
	is("when it is again", "bob")
	put(id, nil, "renamed", "https://b.test")
	is("taken away")
	put(id, &ada, "renamed", "https://b.test")
	put(other, &bob, "", "https://a.test")
	is("two", "ada", "bob")
	drop(other)
	is("one is removed", "ada")
	d.Close()
	is("at the end")
}

func TestDispatcher_AttemptsWithTheCertificateThereIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := authority.New(t, "root")
	store := Subscriptions{DB: w.pool}
	with := NewSubscription(testTenant, "https://a.test/", []string{"*"}, testSecret)
	with.ClientCertificate = mustCertificate(t, root, "ada")
	if err := store.Add(t.Context(), with); err != nil {
		t.Fatal(err)
	}
	w.subscribe("b.test")
	var mu sync.Mutex
	seen := map[string][]string{}
	note := func(ctx context.Context, r *Request, try int) Outcome {
		mu.Lock()
		defer mu.Unlock()
		name := ""
		if r.Identity != nil {
			name = r.Identity.(*fakeIdentity).name
		}
		seen[r.URL.Host] = append(seen[r.URL.Host], name)
		return ok(ctx, r, try)
	}
	w.sink.on("a.test", note)
	w.sink.on("b.test", note)
	l := w.lead()
	sent := l.send("k1")
	w.arrivedInAll("a.test", sent...)
	w.arrivedInAll("b.test", sent...)
	if err := store.SetClientCertificate(t.Context(), with.ID, mustCertificate(t, root, "bob")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.dir.Refresh(t.Context(), w.pool, with.ID); err != nil {
		t.Fatal(err)
	}
	more := l.send("k1")
	w.arrivedInAll("a.test", append(sent, more...)...)
	w.arrivedInAll("b.test", append(sent, more...)...)
	mu.Lock()
	defer mu.Unlock()
	if got := fmt.Sprintf("%q", seen); got != `map["a.test":["ada" "bob"] "b.test":["" ""]]` {
		t.Errorf("attempted as %s", got)
	}
}

func TestDispatcher_TellsOnceOfACertificateThatHasExpired(t *testing.T) {
	t.Parallel()
	root := authority.New(t, "root")
	text := mustCertificate(t, root, "ada").Reveal()
	d := NewDirectory(anyURL, identify(nil), nil)
	ep := d.put(&Subscription{ID: uuid.New(), TenantID: "acme", URL: "https://a.test", Events: []string{"*"}, stored: newStored(testSecret, nil, nil, nil, &text)})
	var log bytes.Buffer
	p := &Dispatcher{log: slog.New(slog.NewJSONHandler(&log, nil))}
	spec := ep.spec.Load()
	p.tellExpired(ep, spec, spec.client.notAfter.Add(-time.Second))
	if log.Len() > 0 {
		t.Errorf("told before: %s", log.String())
	}
	for range 3 {
		p.tellExpired(ep, spec, spec.client.notAfter)
		d.Recheck()
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), spec.sub.Certificate.Fingerprint) || strings.Contains(log.String(), "BEGIN") {
		t.Errorf("told %d times: %s", n, log.String())
	}
}

func TestSubscriptions_SealClientCertificatesLikeSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := keyring(t, newKeyset(t))
	root := authority.New(t, "root")
	certificate := mustCertificate(t, root, "ada")
	store, plain := Subscriptions{DB: w.pool, Keys: keys}, Subscriptions{DB: w.pool}
	add := func(s Subscriptions) *Subscription {
		t.Helper()
		sub := NewSubscription("acme", "https://a.test", []string{"*"}, testSecret)
		sub.ClientCertificate = certificate
		if err := s.Add(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
		return sub
	}
	sub := add(store)
	row := func(id uuid.UUID) string {
		return w.text("SELECT s::text FROM relay.subscriptions s WHERE id = $1", id)
	}
	if text := row(sub.ID); strings.Contains(text, "BEGIN") || strings.Count(text, "sealed:") != 2 {
		t.Errorf("the row is %s", text)
	}
	got, err := store.Get(t.Context(), sub.ID)
	if err != nil || got.ClientCertificate != certificate || got.Certificate.Subject != "CN=ada" {
		t.Errorf("%+v, %v", got, err)
	}
	if b, err := json.Marshal(got); err != nil || strings.Contains(string(b), "BEGIN") || !strings.Contains(string(b), `"client_certificate":{"subject":"CN=ada","fingerprint_sha256":"`) {
		t.Errorf("printed as %s, %v", b, err)
	}
	// It opens in its own row and column alone.
	other := add(store)
	w.exec("UPDATE relay.subscriptions SET client_certificate = (SELECT client_certificate FROM relay.subscriptions WHERE id = $1) WHERE id = $2", sub.ID, other.ID)
	if got, err := store.Get(t.Context(), other.ID); err != nil || !errors.Is(got.Locked, secret.ErrLocked) || !got.ClientCertificate.IsZero() {
		t.Errorf("that of another row opens: %v", err)
	}
	w.exec("UPDATE relay.subscriptions SET headers = client_certificate WHERE id = $1", sub.ID)
	if got, err := store.Get(t.Context(), sub.ID); err != nil || !errors.Is(got.Locked, secret.ErrLocked) {
		t.Errorf("it opens as headers: %v", err)
	}
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", other.ID)
	w.exec("UPDATE relay.subscriptions SET headers = NULL WHERE id = $1", sub.ID)
	// Without a key it stands as it is, and is sealed afterwards; a new key seals both anew.
	bare := add(plain)
	if !strings.Contains(row(bare.ID), "BEGIN") {
		t.Error("it was sealed without a key")
	}
	if report, err := store.Seal(t.Context()); err != nil || report.Sealed != 1 || report.Already != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	used, err := store.KeysInUse(t.Context())
	if err != nil || used[keys.Primary()] != 4 || len(used) != 1 {
		t.Errorf("keys in use: %v, %v", used, err)
	}
	for _, id := range []uuid.UUID{sub.ID, bare.ID} {
		if got, err := store.Get(t.Context(), id); err != nil || got.ClientCertificate != certificate || strings.Contains(row(id), "BEGIN") {
			t.Errorf("after sealing: %v", err)
		}
	}
	updated := w.text("SELECT updated_at::text FROM relay.subscriptions WHERE id = $1", sub.ID)
	if err := store.SetClientCertificate(t.Context(), sub.ID, secret.Secret{}); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Get(t.Context(), sub.ID); err != nil || !got.ClientCertificate.IsZero() || got.Certificate != nil ||
		updated == w.text("SELECT updated_at::text FROM relay.subscriptions WHERE id = $1", sub.ID) {
		t.Errorf("taken away: %+v, %v", got, err)
	}
	if err := store.SetClientCertificate(t.Context(), uuid.New(), certificate); !errors.Is(err, ErrNotFound) {
		t.Errorf("of no subscription: %v", err)
	}
}
