package signature

import (
	"fmt"
	"strings"
	"unicode"
)

// Lengths of a key in bytes. Shorter ones than leastKey can be found by trying.
//
// Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md (24 to 64 bytes)
const (
	leastKey    = 8
	shortestKey = 24
	longestKey  = 64
)

// Check tells whether a secret may be given to a subscription: what published verifiers take, and from which both sides derive
// the same key. Its errors wrap ErrSecret, and hold no part of the text. weak is "" or says what is allowed and not good.
//
// It is stricter than Key, by which secrets go on to sign that were given before.
func Check(secret string) (weak string, err error) {
	key, err := Key(secret)
	if err != nil {
		return "", err
	}
	encoded, standard := strings.CutPrefix(secret, prefix)
	lower := strings.ToLower(secret)
	switch {
	case strings.TrimSpace(secret) != secret:
		return "", fmt.Errorf("%w: it begins or ends with a blank or a line end", ErrSecret)
	case strings.ContainsFunc(secret, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", fmt.Errorf("%w: it has a character that is not printed", ErrSecret)
	case standard && len(encoded)%4 != 0:
		return "", fmt.Errorf("%w: what follows whsec_ lacks its padding, = at the end until its length is a multiple of four", ErrSecret)
	case !standard && strings.HasPrefix(lower, "whsec"):
		return "", fmt.Errorf("%w: it begins almost like whsec_, which has small letters and an underscore", ErrSecret)
	case !standard && strings.Contains(lower, prefix):
		return "", fmt.Errorf("%w: something stands before whsec_, with which a secret begins", ErrSecret)
	case len(key) < leastKey:
		return "", fmt.Errorf("%w: its key has %d bytes, and at least %d are needed", ErrSecret, len(key), leastKey)
	case len(key) < shortestKey || len(key) > longestKey:
		weak = fmt.Sprintf("its key has %d bytes, and Standard Webhooks asks for %d to %d", len(key), shortestKey, longestKey)
	case !standard:
		weak = "it does not begin with whsec_, and verifiers of Standard Webhooks take no other"
	case strings.Count(string(key), string(key[:1])) == len(key):
		weak = "its key is one byte, repeated"
	}
	return weak, nil
}
