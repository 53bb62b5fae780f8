package signature

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// prefix marks a secret whose key is what follows, base64-decoded.
const prefix = "whsec_"

// newKeySize is the length in bytes of generated keys. The specification asks for 24 to 64.
const newKeySize = 32

// ErrSecret says that a text cannot serve as a secret. The errors that wrap it give the reason and never a
// part of the text.
var ErrSecret = errors.New("invalid secret")

// Key returns the HMAC key that a secret stands for: the base64-decoded rest of whsec_..., and the bytes of
// any other text. The padding of the base64 may be missing; anything else that is not plain base64 is an
// ErrSecret, because a key that the two sides derive differently fails only at the receiver.
func Key(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, prefix)
	switch {
	case secret == "":
		return nil, fmt.Errorf("%w: it is empty", ErrSecret)
	case !utf8.ValidString(secret):
		return nil, fmt.Errorf("%w: it is not valid UTF-8", ErrSecret)
	case !ok:
		return []byte(secret), nil
	case encoded == "":
		return nil, fmt.Errorf("%w: nothing follows whsec_", ErrSecret)
	case strings.ContainsAny(encoded, "\r\n"):
		// The decoder skips line ends; other implementations do not.
		return nil, fmt.Errorf("%w: a line end follows whsec_", ErrSecret)
	case strings.ContainsAny(encoded, "-_"):
		return nil, fmt.Errorf("%w: what follows whsec_ is URL-safe base64, the standard alphabet (+ and /) is needed", ErrSecret)
	}
	encoding := base64.StdEncoding
	if !strings.Contains(encoded, "=") {
		encoding = base64.RawStdEncoding
	}
	key, err := encoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: what follows whsec_ is not base64", ErrSecret)
	}
	return key, nil
}

// Standard returns the whsec_ spelling, padded, of the key that the secret stands for. Give it to receivers
// that verify with a Standard Webhooks library, which takes no other spelling; both schemes then verify with
// one key.
func Standard(secret string) (string, error) {
	key, err := Key(secret)
	if err != nil {
		return "", err
	}
	return prefix + base64.StdEncoding.EncodeToString(key), nil
}

// NewSecret returns a fresh secret: whsec_ and 32 random bytes.
func NewSecret() string {
	var key [newKeySize]byte
	// crypto/rand.Read never returns an error; it ends the program when the system has no randomness.
	_, _ = rand.Read(key[:])
	return prefix + base64.StdEncoding.EncodeToString(key[:])
}
