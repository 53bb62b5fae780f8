package token

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"math/big"
	"strings"

	"github.com/outbox-relay/relay/internal/secret"
)

const (
	prefix      = "relay_"
	lookupLen   = 10
	randomLen   = 43 // 256 bits in base 62
	checksumLen = 6  // 32 bits in base 62
	length      = len(prefix) + lookupLen + randomLen + checksumLen
	alphabet    = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	checksummed = length - checksumLen
	lookupEnd   = len(prefix) + lookupLen
	randomBits  = 256
)

// ErrMalformed says that a text is no token: it cannot have been issued by a relay.
var ErrMalformed = errors.New("malformed token")

// generate returns a new token's text.
func generate() secret.Secret {
	lookup := new(big.Int).Exp(big.NewInt(62), big.NewInt(lookupLen), nil)
	random := new(big.Int).Lsh(big.NewInt(1), randomBits)
	text := prefix + draw(lookup, lookupLen) + draw(random, randomLen)
	return secret.New(text + checksum(text))
}

// draw returns a random number below limit, in base 62.
func draw(limit *big.Int, width int) string {
	// crypto/rand.Reader never fails; it ends the program when the system has no randomness.
	n, _ := rand.Int(rand.Reader, limit)
	return base62(n, width)
}

func checksum(text string) string {
	return base62(new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(text)))), checksumLen)
}

// base62 writes a number with leading zeros.
func base62(n *big.Int, width int) string {
	out := make([]byte, width)
	base, digit, rest := big.NewInt(62), new(big.Int), new(big.Int).Set(n)
	for i := width - 1; i >= 0; i-- {
		rest.DivMod(rest, base, digit)
		out[i] = alphabet[digit.Int64()]
	}
	return string(out)
}

// parse returns the part of a token that finds its row, and the hash of the whole, or ErrMalformed.
func parse(text string) (lookup string, hash [sha256.Size]byte, err error) {
	if len(text) != length || !strings.HasPrefix(text, prefix) || checksum(text[:checksummed]) != text[checksummed:] {
		return "", hash, ErrMalformed
	}
	return text[len(prefix):lookupEnd], sha256.Sum256([]byte(text)), nil
}
