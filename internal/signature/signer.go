package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"sync"
)

// Names of the headers, as they are sent. The Standard Webhooks names are lower-case in the specification;
// HTTP/1.1 receivers compare them in any case.
const (
	HeaderID        = "webhook-id"
	HeaderTimestamp = "webhook-timestamp"
	HeaderSignature = "webhook-signature"
	HeaderLegacy    = "X-Signature"
)

// version is the token that goes before each symmetric signature.
const version = "v1,"

// Signer signs with a fixed set of secrets, the current one first. It is immutable and safe for concurrent
// use; the key schedules of its HMACs are computed once, not for each request.
type Signer struct {
	keys [][]byte
	pool sync.Pool // of *state
}

// state is what one signature needs. It belongs to one goroutine between Get and Put.
type state struct {
	macs []hash.Hash // one for each key, in the order of Signer.keys
	text []byte      // scratch; holds no key material
	sum  []byte
}

// NewSigner returns a Signer for the secrets, the current one first. It wraps ErrSecret when there is none,
// or when Key refuses one.
func NewSigner(secrets ...string) (*Signer, error) {
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrSecret)
	}
	s := &Signer{keys: make([][]byte, len(secrets))}
	for i, secret := range secrets {
		key, err := Key(secret)
		if err != nil {
			return nil, fmt.Errorf("secret %d of %d: %w", i+1, len(secrets), err)
		}
		s.keys[i] = key
	}
	s.pool.New = func() any {
		st := &state{macs: make([]hash.Hash, len(s.keys)), sum: make([]byte, 0, sha256.Size)}
		for i, key := range s.keys {
			st.macs[i] = hmac.New(sha256.New, key)
			// The first Reset keeps the state after the padded key, which later ones restore.
			st.macs[i].Reset()
		}
		return st
	}
	return s, nil
}

// Sign returns the values of webhook-signature and X-Signature. The id must not contain a full stop, which
// separates it from the timestamp in what is signed, and must not be chosen by the tenant. The timestamp is
// the time of this attempt in Unix seconds. The body must be the very bytes that are sent.
func (s *Signer) Sign(id string, timestamp int64, body []byte) (standard, legacy string) {
	st := s.pool.Get().(*state)
	text := append(st.text[:0], id...)
	text = append(text, '.')
	text = strconv.AppendInt(text, timestamp, 10)
	text = append(text, '.')
	signed := len(text)
	for i, mac := range st.macs {
		if i > 0 {
			text = append(text, ' ')
		}
		text = append(text, version...)
		text = base64.StdEncoding.AppendEncode(text, st.mac(mac, text[:signed], body))
	}
	middle := len(text)
	text = hex.AppendEncode(text, st.mac(st.macs[0], nil, body))
	st.text = text
	// One string for both values is one allocation.
	both := string(text[signed:])
	s.pool.Put(st)
	return both[:middle-signed], both[middle-signed:]
}

// Headers sets the four headers for one attempt in h; see Sign for the arguments. The names of Standard
// Webhooks are set in lower case, so read them from a received request, or by index, but not by h.Get.
func (s *Signer) Headers(h http.Header, id string, timestamp int64, body []byte) {
	standard, legacy := s.Sign(id, timestamp, body)
	values := []string{id, strconv.FormatInt(timestamp, 10), standard, legacy}
	h[HeaderID] = values[0:1:1]
	h[HeaderTimestamp] = values[1:2:2]
	h[HeaderSignature] = values[2:3:3]
	h[HeaderLegacy] = values[3:4:4]
}

// mac returns the HMAC of head and body, valid until the next call.
func (st *state) mac(m hash.Hash, head, body []byte) []byte {
	m.Reset()
	m.Write(head)
	m.Write(body)
	st.sum = m.Sum(st.sum[:0])
	return st.sum
}
