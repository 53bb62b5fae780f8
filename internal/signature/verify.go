package signature

import (
	"crypto/hmac"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is how far the timestamp of a request may be from the receiver's clock, in both directions. The
// specification leaves it open; every published verifier uses five minutes.
const Tolerance = 5 * time.Minute

// What Verify finds wrong.
var (
	ErrMissingHeader = errors.New("missing header")
	ErrMalformed     = errors.New("malformed header")
	ErrTooOld        = errors.New("timestamp too old")
	ErrTooNew        = errors.New("timestamp too far in the future")
	ErrNoMatch       = errors.New("no signature matches")
)

// Verify reports whether one of the secrets signed the request with these headers and this body at a time
// within tolerance of now. It returns nil, or an error that wraps ErrSecret, ErrMissingHeader, ErrMalformed,
// ErrTooOld, ErrTooNew or ErrNoMatch. The body must be the bytes as received, before any parsing. X-Signature
// is not looked at; see VerifyLegacy.
func Verify(secrets []string, headers http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	s, err := NewSigner(secrets...)
	if err != nil {
		return err
	}
	return s.Verify(headers, body, now, tolerance)
}

// VerifyLegacy reports whether X-Signature is the hex HMAC-SHA256 of the body under one of the secrets. This
// scheme has no timestamp: a captured request stays valid for ever. The errors are those of Verify.
func VerifyLegacy(secrets []string, headers http.Header, body []byte) error {
	s, err := NewSigner(secrets...)
	if err != nil {
		return err
	}
	return s.VerifyLegacy(headers, body)
}

// Verify is the function Verify with the Signer's secrets.
func (s *Signer) Verify(headers http.Header, body []byte, now time.Time, tolerance time.Duration) error {
	id, err := one(headers, HeaderID)
	if err != nil {
		return err
	}
	stamp, err := one(headers, HeaderTimestamp)
	if err != nil {
		return err
	}
	tokens := lookup(headers, HeaderSignature)
	if len(tokens) == 0 {
		return fmt.Errorf("%w: %s", ErrMissingHeader, HeaderSignature)
	}
	if strings.Contains(id, ".") {
		// With a full stop in the id, one signature would be good for several ids, times and bodies.
		return fmt.Errorf("%w: %s contains a full stop", ErrMalformed, HeaderID)
	}
	timestamp, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strconv.FormatInt(timestamp, 10) != stamp {
		return fmt.Errorf("%w: %s is not a number of seconds", ErrMalformed, HeaderTimestamp)
	}
	// In whole seconds, because a time.Duration does not hold every distance that a header can spell.
	oldest, newest := now.Add(-tolerance).Unix(), now.Add(tolerance).Unix()
	switch {
	case timestamp < oldest:
		return fmt.Errorf("%w: %s is before %d", ErrTooOld, HeaderTimestamp, oldest)
	case timestamp > newest:
		return fmt.Errorf("%w: %s is after %d", ErrTooNew, HeaderTimestamp, newest)
	}

	standard, _ := s.Sign(id, timestamp, body)
	matched := false
	for _, list := range tokens {
		for token := range strings.SplitSeq(list, " ") {
			// Tokens of other versions cannot be equal to one of ours.
			for ours := range strings.SplitSeq(standard, " ") {
				matched = hmac.Equal([]byte(token), []byte(ours)) || matched
			}
		}
	}
	if !matched {
		return fmt.Errorf("%w: %s", ErrNoMatch, HeaderSignature)
	}
	return nil
}

// VerifyLegacy is the function VerifyLegacy with the Signer's secrets.
func (s *Signer) VerifyLegacy(headers http.Header, body []byte) error {
	value, err := one(headers, HeaderLegacy)
	if err != nil {
		return err
	}
	theirs, err := hex.DecodeString(value)
	if err != nil {
		return fmt.Errorf("%w: %s is not hexadecimal", ErrMalformed, HeaderLegacy)
	}
	st := s.pool.Get().(*state)
	defer s.pool.Put(st)
	matched := false
	for _, mac := range st.macs {
		matched = hmac.Equal(theirs, st.mac(mac, nil, body)) || matched
	}
	if !matched {
		return fmt.Errorf("%w: %s", ErrNoMatch, HeaderLegacy)
	}
	return nil
}

// one returns the value of a header that must be there once and not be empty.
func one(h http.Header, name string) (string, error) {
	values := lookup(h, name)
	switch {
	case len(values) == 0 || values[0] == "":
		return "", fmt.Errorf("%w: %s", ErrMissingHeader, name)
	case len(values) > 1:
		return "", fmt.Errorf("%w: %s comes %d times", ErrMalformed, name, len(values))
	}
	return values[0], nil
}

// lookup finds a header in its canonical spelling, as net/http receives it, and in ours, as Headers sets it.
func lookup(h http.Header, name string) []string {
	if values := h.Values(name); len(values) > 0 {
		return values
	}
	return h[name]
}
