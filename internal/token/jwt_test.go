package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/outbox-relay/relay/internal/secret"
)

const jwtSecret = "the identity provider's key, 32 b"

// claims makes a token's claims; more replaces and, with nil, removes.
func claims(more map[string]any) map[string]any {
	c := map[string]any{"iss": "https://login.example.com", "aud": "relay", "sub": "ada", "exp": time.Now().Add(time.Hour).Unix(), "tenant_id": "acme"}
	for k, v := range more {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return c
}

func mustSign(t *testing.T, alg jwa.SignatureAlgorithm, key any, c map[string]any) string {
	t.Helper()
	b := jwt.New()
	for k, v := range c {
		if err := b.Set(k, v); err != nil {
			t.Fatal(err)
		}
	}
	text, err := jwt.Sign(b, jwt.WithKey(alg, key))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func hs256(t *testing.T, more map[string]any) string {
	t.Helper()
	return mustSign(t, jwa.HS256(), []byte(jwtSecret), claims(more))
}

// checkerOf takes JWTs and has no database.
func checkerOf(o JWTOptions) *Checker {
	if o.TenantClaim == "" {
		o.TenantClaim = "tenant_id"
	}
	return NewChecker(nil).WithJWT(o)
}

func TestJWT_OfASecretTellsTenantAndRole(t *testing.T) {
	t.Parallel()
	c := checkerOf(JWTOptions{Secret: secret.New(jwtSecret), Issuer: "https://login.example.com", Audience: "relay", WriteScope: "webhooks:write"})
	for name, want := range map[string]struct {
		more map[string]any
		role Role
	}{
		"none":       {nil, RoleTenantRead},
		"other":      {map[string]any{"scope": "profile webhooks:read"}, RoleTenantRead},
		"in a part":  {map[string]any{"scope": "xwebhooks:write"}, RoleTenantRead},
		"words":      {map[string]any{"scope": "profile webhooks:write"}, RoleTenantWrite},
		"list":       {map[string]any{"scp": []string{"profile", "webhooks:write"}}, RoleTenantWrite},
		"audiences":  {map[string]any{"aud": []string{"shop", "relay"}}, RoleTenantRead},
		"not yet by": {map[string]any{"nbf": time.Now().Add(10 * time.Second).Unix()}, RoleTenantRead},
	} {
		got, err := c.Check(t.Context(), hs256(t, want.more))
		if err != nil || got.Role != want.role || *got.TenantID != "acme" || got.Bearer() != "jwt:ada" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	c = checkerOf(JWTOptions{Secret: secret.New(jwtSecret), TenantClaim: "https://example.com/org"})
	got, err := c.Check(t.Context(), hs256(t, map[string]any{"https://example.com/org": "globex", "iss": nil, "aud": nil, "sub": nil}))
	if err != nil || *got.TenantID != "globex" || got.Role != RoleTenantWrite {
		t.Errorf("another claim: %+v, %v", got, err)
	}
}

func TestJWT_RefusesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	c := checkerOf(JWTOptions{Secret: secret.New(jwtSecret), Issuer: "https://login.example.com", Audience: "relay"})
	good := hs256(t, nil)
	parts := strings.Split(good, ".")
	enc := base64.RawURLEncoding.EncodeToString
	payload, err := json.Marshal(claims(nil))
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"expired":         hs256(t, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}),
		"without end":     hs256(t, map[string]any{"exp": nil}),
		"not yet":         hs256(t, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}),
		"other issuer":    hs256(t, map[string]any{"iss": "https://evil.example.com"}),
		"no issuer":       hs256(t, map[string]any{"iss": nil}),
		"other audience":  hs256(t, map[string]any{"aud": "shop"}),
		"no audience":     hs256(t, map[string]any{"aud": nil}),
		"no tenant":       hs256(t, map[string]any{"tenant_id": nil}),
		"empty tenant":    hs256(t, map[string]any{"tenant_id": ""}),
		"tenant a number": hs256(t, map[string]any{"tenant_id": 7}),
		"tenants":         hs256(t, map[string]any{"tenant_id": []string{"acme", "globex"}}),
		"other key":       mustSign(t, jwa.HS256(), []byte("another key of the same length...."), claims(nil)),
		"other algorithm": mustSign(t, jwa.HS512(), []byte(jwtSecret), claims(nil)),
		"alg none":        enc([]byte(`{"alg":"none"}`)) + "." + enc(payload) + ".",
		"alg None":        enc([]byte(`{"alg":"nOnE"}`)) + "." + enc(payload) + ".",
		"no signature":    parts[0] + "." + parts[1] + ".",
		"other payload":   parts[0] + "." + enc(payload) + "." + parts[2],
		"two of them":     good + "." + good,
		"not a JWT":       "eyJ.eyJ.x",
	}
	for name, text := range bad {
		if got, err := c.Check(t.Context(), text); !errors.Is(err, ErrRefused) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if _, ok := c.Known(text); ok {
			t.Errorf("%s: known", name)
		}
	}
	if _, err := NewChecker(nil).Check(t.Context(), good); !errors.Is(err, ErrMalformed) {
		t.Errorf("a relay without an identity provider: %v", err)
	}
}

// idp is an identity provider that publishes keys.
type idp struct {
	*httptest.Server
	set   atomic.Pointer[jwk.Set]
	asked atomic.Int64
	down  atomic.Bool
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	p := &idp{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		if p.down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(*p.set.Load())
	}))
	t.Cleanup(p.Close)
	return p
}

// publish makes the set of keys the ones that are given; private parts are published too, as a mistake would.
func (p *idp) publish(t *testing.T, keys ...jwk.Key) {
	t.Helper()
	set := jwk.NewSet()
	for _, k := range keys {
		if err := set.AddKey(k); err != nil {
			t.Fatal(err)
		}
	}
	p.set.Store(&set)
}

func mustKey(t *testing.T, raw any, id string) jwk.Key {
	t.Helper()
	k, err := jwk.Import(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Set(jwk.KeyIDKey, id); err != nil {
		t.Fatal(err)
	}
	return k
}

func mustPublic(t *testing.T, k jwk.Key) jwk.Key {
	t.Helper()
	p, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestJWT_OfPublishedKeysFollowsTheirRotation(t *testing.T) {
	t.Parallel()
	rsaRaw, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecRaw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first, second := mustKey(t, rsaRaw, "first"), mustKey(t, ecRaw, "second")
	p := newIDP(t)
	p.publish(t, mustPublic(t, first))
	c := checkerOf(JWTOptions{Keys: p.URL, Client: p.Client()})
	now := time.Now()
	c.provider.now = func() time.Time { return now }
	ok := func(text string) error {
		t.Helper()
		_, err := c.Check(t.Context(), text)
		return err
	}
	signed := func(alg jwa.SignatureAlgorithm, key jwk.Key) string { return mustSign(t, alg, key, claims(nil)) }
	if err := ok(signed(jwa.RS256(), first)); err != nil {
		t.Fatal(err)
	}
	newer := signed(jwa.ES256(), second)
	if err := ok(newer); !errors.Is(err, ErrRefused) {
		t.Errorf("a key that is not published: %v", err)
	}
	asked := p.asked.Load()
	for range 50 {
		_ = ok(signed(jwa.ES256(), second))
	}
	if n := p.asked.Load() - asked; n > 0 {
		t.Errorf("50 tokens of an unknown key made it ask %d times", n)
	}
	p.publish(t, mustPublic(t, second))
	now = now.Add(keysAtMost)
	if err := ok(newer); err != nil {
		t.Errorf("the new key: %v", err)
	}
	now = now.Add(keysFor)
	if err := ok(signed(jwa.RS256(), first)); !errors.Is(err, ErrRefused) {
		t.Errorf("the old key: %v", err)
	}
	p.down.Store(true)
	now = now.Add(keysFor)
	fresh := claims(map[string]any{"exp": now.Add(time.Hour).Unix()})
	if err := ok(mustSign(t, jwa.ES256(), second, fresh)); err != nil {
		t.Errorf("the keys at hand, while the provider is away: %v", err)
	}
}

// A published key must never serve as the secret of an HMAC, nor a secret that was published by mistake.
func TestJWT_TakesNoSecretOutOfPublishedKeys(t *testing.T) {
	t.Parallel()
	raw, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key, shared := mustKey(t, raw, "rsa"), mustKey(t, []byte(jwtSecret), "shared")
	p := newIDP(t)
	p.publish(t, mustPublic(t, key), shared)
	c := checkerOf(JWTOptions{Keys: p.URL, Client: p.Client()})
	if _, err := c.Check(t.Context(), mustSign(t, jwa.RS256(), key, claims(nil))); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Check(t.Context(), mustSign(t, jwa.HS256(), shared, claims(nil))); !errors.Is(err, ErrRefused) {
		t.Errorf("signed with a published secret: %+v, %v", got, err)
	}
	public, err := json.Marshal(mustPublic(t, key))
	if err != nil {
		t.Fatal(err)
	}
	confused, err := jwk.Import(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := confused.Set(jwk.KeyIDKey, "rsa"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Check(t.Context(), mustSign(t, jwa.HS256(), confused, claims(nil))); !errors.Is(err, ErrRefused) {
		t.Errorf("signed with the text of a public key: %+v, %v", got, err)
	}
	p.publish(t, shared, key)
	c = checkerOf(JWTOptions{Keys: p.URL, Client: p.Client()})
	if _, err := c.Check(t.Context(), mustSign(t, jwa.HS256(), shared, claims(nil))); err == nil || errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "no key is there for asymmetric signatures") {
		t.Errorf("a set of secrets and private keys alone: %v", err)
	}
}

func TestJWT_ReadsKeysFromAFileAndSaysWhatIsWrongWithThem(t *testing.T) {
	t.Parallel()
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := mustKey(t, raw, "k")
	set := jwk.NewSet()
	if err := set.AddKey(mustPublic(t, key)); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(good, text, 0o600); err != nil {
		t.Fatal(err)
	}
	signed := mustSign(t, jwa.ES256(), key, claims(nil))
	if _, err := checkerOf(JWTOptions{Keys: good}).Check(t.Context(), signed); err != nil {
		t.Error(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte("<html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newIDP(t)
	p.down.Store(true)
	for path, want := range map[string]string{good + ".none": "no such file", bad: "no JWK set", p.URL: "500"} {
		_, err := checkerOf(JWTOptions{Keys: path, Client: p.Client()}).Check(t.Context(), signed)
		if err == nil || errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "identity provider") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestJWT_IsLookedAtAgainWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	c := checkerOf(JWTOptions{Secret: secret.New(jwtSecret)})
	now := time.Now()
	c.provider.now = func() time.Time { return now }
	text := hs256(t, map[string]any{"exp": now.Add(45 * time.Second).Unix()})
	if _, err := c.Check(context.Background(), text); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Known(text); !ok {
		t.Error("it is verified with each call")
	}
	now = now.Add(46*time.Second + jwtSkew)
	if _, ok := c.Known(text); ok {
		t.Error("it is known beyond its end")
	}
	if _, err := c.Check(context.Background(), text); !errors.Is(err, ErrRefused) {
		t.Errorf("beyond its end: %v", err)
	}
}
