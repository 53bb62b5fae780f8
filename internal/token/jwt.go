package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"
	"golang.org/x/sync/singleflight"

	"github.com/outbox-relay/relay/internal/secret"
)

// JWTOptions say which tokens of an identity provider are taken (RFC 7519).
type JWTOptions struct {
	// Secret verifies HS256. Empty: Keys does.
	Secret secret.Secret
	// Keys is where the provider's public keys are: the https URL of a JWK set (RFC 7517), or a file with one.
	Keys string
	// Issuer and Audience must be the token's; empty: are not looked at.
	Issuer, Audience string
	// TenantClaim names the claim that has the tenant.
	TenantClaim string
	// WriteScope must be one of the token's scopes (claim scope or scp) for it to change anything; empty: every token may.
	WriteScope string
	// Client fetches Keys. It must dial under the egress policy.
	Client *http.Client
}

const (
	// jwtSkew is how far the provider's clock may be from ours.
	jwtSkew = 30 * time.Second
	// jwtFor is how long a JWT that was verified is taken without looking again, if it is good for so long.
	jwtFor = time.Minute
	// keysFor is how long a set of keys is good, and keysAtMost how often it is fetched at most, for keys that are unknown.
	keysFor    = 15 * time.Minute
	keysAtMost = 10 * time.Second
	// keysWithin is how long reading them may take.
	keysWithin = 5 * time.Second
	// maxKeys bounds a set of keys, in bytes.
	maxKeys = 1 << 20
	// maxJWT bounds a token, in bytes: the server takes headers of twice that.
	maxJWT = 8 << 10
)

// ErrKeys says that the identity provider's keys are not to be had, so that it is not known whether a token is good.
var ErrKeys = errors.New("read keys of the identity provider")

// asymmetric are the algorithms that keys of a set may verify with. A set is public: an algorithm whose key is a secret
// would let everybody sign.
var asymmetric = []jwa.SignatureAlgorithm{jwa.RS256(), jwa.RS384(), jwa.RS512(), jwa.PS256(), jwa.PS384(), jwa.PS512(), jwa.ES256(), jwa.ES384(),
	jwa.ES512(), jwa.EdDSA()}

// provider verifies the tokens of an identity provider.
type provider struct {
	JWTOptions
	now func() time.Time

	reading  singleflight.Group // of keys, for whoever waits for them
	mu       sync.Mutex         // never held while anybody is asked
	keys     jwk.Set
	fetched  time.Time // when keys were read
	tried    time.Time // when that was last tried
	failed   error     // of that try
	verified map[[sha256.Size]byte]known
}

func newProvider(o JWTOptions) *provider {
	return &provider{JWTOptions: o, now: time.Now, verified: make(map[[sha256.Size]byte]known)}
}

// isJWT tells whether a text has the form of a signed JWT.
func isJWT(text string) bool {
	return len(text) <= maxJWT && strings.Count(text, ".") == 2 && strings.HasPrefix(text, "eyJ")
}

// known tells whose a token is that was verified lately.
func (p *provider) known(text string) (*Token, bool) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	k, ok := p.verified[sha256.Sum256([]byte(text))]
	if !ok || now.Sub(k.readAt) >= jwtFor || !now.Before(*k.ExpiresAt) {
		return nil, false
	}
	return &k.Token, true
}

// check tells whose a token is. Its errors are ErrRefused, and those of fetching the keys.
func (p *provider) check(ctx context.Context, text string) (*Token, error) {
	now := p.now()
	set, err := p.set(ctx, false)
	if err != nil {
		return nil, err
	}
	t, err := p.verify(text, set, now)
	if err != nil && p.Secret.IsZero() {
		// The provider may sign with a new key.
		fresh, err := p.set(ctx, true)
		if err != nil {
			return nil, err
		}
		if fresh != set {
			t, _ = p.verify(text, fresh, now)
		}
	}
	if t == nil {
		return nil, ErrRefused
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.verified) >= maxCached {
		clear(p.verified)
	}
	p.verified[sha256.Sum256([]byte(text))] = known{Token: *t, readAt: now}
	return t, nil
}

// verify tells whose a token is by a set of keys, which is nil where a secret verifies.
func (p *provider) verify(text string, set jwk.Set, now time.Time) (*Token, error) {
	options := []jwt.ParseOption{jwt.WithValidate(true), jwt.WithAcceptableSkew(jwtSkew), jwt.WithRequiredClaim(jwt.ExpirationKey),
		jwt.WithRequiredClaim(p.TenantClaim), jwt.WithClock(jwt.ClockFunc(func() time.Time { return now }))}
	if set == nil {
		options = append(options, jwt.WithKey(jwa.HS256(), []byte(p.Secret.Reveal())))
	} else {
		options = append(options, jwt.WithKeySet(set, jws.WithInferAlgorithmFromKey(true), jws.WithUseDefault(true)))
	}
	if p.Issuer != "" {
		options = append(options, jwt.WithIssuer(p.Issuer))
	}
	if p.Audience != "" {
		options = append(options, jwt.WithAudience(p.Audience))
	}
	parsed, err := jwt.ParseString(text, options...)
	if err != nil {
		return nil, err
	}
	var tenant string
	if err := parsed.Get(p.TenantClaim, &tenant); err != nil || tenant == "" {
		return nil, ErrRefused
	}
	until, _ := parsed.Expiration() // it is required
	subject, _ := parsed.Subject()
	issuer, _ := parsed.Issuer()
	role := RoleTenantRead
	if p.WriteScope == "" || slices.Contains(scopes(parsed), p.WriteScope) {
		role = RoleTenantWrite
	}
	return &Token{ID: uuid.NewSHA1(uuid.NameSpaceURL, []byte("jwt\x00"+issuer+"\x00"+subject+"\x00"+tenant)), Role: role, TenantID: &tenant, ExpiresAt: &until,
		subject: subject, provider: true}, nil
}

// scopes are what the token is for: words of the claim scope (RFC 8693), or a list in scp.
func scopes(t jwt.Token) []string {
	var text string
	if t.Get("scope", &text) == nil {
		return strings.Fields(text)
	}
	var list []any
	if t.Get("scp", &list) != nil {
		return nil
	}
	var out []string
	for _, v := range list {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// set returns the provider's keys, nil where a secret verifies. again says that those at hand do not do. Keys that are too
// old serve on while new ones are not to be had. Errors wrap ErrKeys.
func (p *provider) set(ctx context.Context, again bool) (jwk.Set, error) {
	if !p.Secret.IsZero() {
		return nil, nil
	}
	p.mu.Lock()
	now, keys := p.now(), p.keys
	fresh := keys != nil && now.Sub(p.fetched) < keysFor && !again
	lately, failed := !p.tried.IsZero() && now.Sub(p.tried) < keysAtMost, p.failed
	p.mu.Unlock()
	switch {
	case fresh, lately && keys != nil:
		return keys, nil
	case lately && failed != nil:
		return nil, failed
	}
	// Not by the caller's time: whoever hangs up must not spoil it for the others.
	done := p.reading.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysWithin)
		defer cancel()
		keys, err := p.read(ctx)
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrKeys, err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.tried, p.failed = p.now(), err
		if err == nil {
			p.keys, p.fetched = keys, p.tried
		}
		if p.keys != nil {
			err = nil
		}
		return p.keys, err
	})
	select {
	case r := <-done:
		set, _ := r.Val.(jwk.Set)
		return set, r.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrKeys, ctx.Err())
	}
}

// read gets the keys from where they are.
func (p *provider) read(ctx context.Context) (jwk.Set, error) {
	var text []byte
	var err error
	if strings.Contains(p.Keys, "://") {
		text, err = p.fetch(ctx)
	} else {
		text, err = os.ReadFile(p.Keys)
	}
	if err != nil {
		return nil, err
	}
	all, err := jwk.Parse(text)
	if err != nil {
		return nil, errors.New("what is there is no JWK set")
	}
	public := jwk.NewSet()
	for i := range all.Len() {
		key, _ := all.Key(i)
		if !verifies(key) {
			continue
		}
		if err := public.AddKey(key); err != nil {
			return nil, err
		}
	}
	if public.Len() == 0 {
		return nil, errors.New("no key is there for asymmetric signatures")
	}
	return public, nil
}

// verifies tells whether a key is public and for signatures.
func verifies(key jwk.Key) bool {
	if private, err := jwk.IsPrivateKey(key); err != nil || private {
		return false
	}
	if use, ok := key.KeyUsage(); ok && use != "sig" {
		return false
	}
	alg, ok := key.Algorithm()
	if !ok {
		return true
	}
	return slices.ContainsFunc(asymmetric, func(a jwa.SignatureAlgorithm) bool { return a.String() == alg.String() })
}

func (p *provider) fetch(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Keys, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxKeys+1))
	if err == nil && len(text) > maxKeys {
		err = errors.New("the answer is too large")
	}
	return text, err
}
