package token

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// CacheFor is how long a token that was found good is taken without asking the database: the longest time until a
// revocation holds.
const CacheFor = 2 * time.Second

// maxCached bounds the tokens in memory. Beyond it all are asked for again.
const maxCached = 10_000

// Checker tells whose a token is. It is safe for concurrent use.
type Checker struct {
	db  DB
	now func() time.Time

	provider *provider // nil: tokens of the database only

	mu    sync.Mutex
	known map[string]known // by lookup
}

// known is a token that was good when it was read.
type known struct {
	hash [sha256.Size]byte
	Token
	readAt time.Time
}

// NewChecker returns a Checker over a database.
func NewChecker(db DB) *Checker {
	return &Checker{db: db, now: time.Now, known: make(map[string]known)}
}

// WithJWT returns a Checker that takes JWTs of an identity provider too.
func (c *Checker) WithJWT(o JWTOptions) *Checker {
	c.provider = newProvider(o)
	return c
}

// Known tells whose a token is, without the database: false says that only Check can tell.
func (c *Checker) Known(text string) (*Token, bool) {
	if c.provider != nil && isJWT(text) {
		return c.provider.known(text)
	}
	lookup, hash, err := parse(text)
	if err != nil {
		return nil, false
	}
	now := c.now()
	c.mu.Lock()
	k, ok := c.known[lookup]
	c.mu.Unlock()
	if !ok || now.Sub(k.readAt) >= CacheFor || subtle.ConstantTimeCompare(k.hash[:], hash[:]) != 1 ||
		k.ExpiresAt != nil && !now.Before(*k.ExpiresAt) {
		return nil, false
	}
	return &k.Token, true
}

// NoGuess tells whether nothing is won by guessing such a token: it was good when it was last looked at, though it may have
// been revoked since, or it is a JWT, whose signature nobody guesses and which costs the database nothing.
func (c *Checker) NoGuess(text string) bool {
	if c.provider != nil && isJWT(text) {
		return true
	}
	lookup, hash, err := parse(text)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[lookup]
	return ok && subtle.ConstantTimeCompare(k.hash[:], hash[:]) == 1 && (k.ExpiresAt == nil || c.now().Before(*k.ExpiresAt))
}

// forget drops a token that is not good any more.
func (c *Checker) forget(lookup string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, lookup)
}

// Check tells whose a token is. Its errors are ErrMalformed, ErrRefused, or of the database.
func (c *Checker) Check(ctx context.Context, text string) (*Token, error) {
	if t, ok := c.Known(text); ok {
		return t, nil
	}
	if c.provider != nil && isJWT(text) {
		return c.provider.check(ctx, text)
	}
	lookup, hash, err := parse(text)
	if err != nil {
		return nil, err
	}
	began := c.now()
	var kept []byte
	var t Token
	err = c.db.QueryRow(ctx, sqlUse, lookup, hash[:]).Scan(append([]any{&kept}, t.fields()...)...)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		c.forget(lookup)
		return nil, ErrRefused
	case err != nil:
		return nil, fmt.Errorf("look up token: %w", err)
	case subtle.ConstantTimeCompare(kept, hash[:]) != 1:
		return nil, ErrRefused
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxCached {
		clear(c.known)
	}
	c.known[lookup] = known{hash: hash, Token: t, readAt: began}
	return &t, nil
}
