package secret

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead/aesgcm"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// ErrKeyset says that a text is no keyset that the relay can use. The errors that wrap it give the reason and
// never a part of the text.
var ErrKeyset = errors.New("invalid keyset")

// ErrNothingStaged says that the last key of a keyset is the primary one already.
var ErrNothingStaged = errors.New("the newest key of the keyset is the primary one already")

// parameters are what every key of a keyset is for: AES-256-GCM with random nonces of 96 bits, and Tink's prefix,
// which tells the keys apart.
var parameters = func() *aesgcm.Parameters {
	p, err := aesgcm.NewParameters(aesgcm.ParametersOpts{KeySizeInBytes: 32, IVSizeInBytes: 12, TagSizeInBytes: 16, Variant: aesgcm.VariantTink})
	if err != nil {
		panic(err) // they are constants
	}
	return p
}()

// Keyset is the keys themselves, to be kept in a file. It never prints them.
type Keyset struct{ handle *keyset.Handle }

// Key is what may be said of a key.
type Key struct {
	ID      uint32 `json:"id"`
	Primary bool   `json:"primary"`
	Enabled bool   `json:"enabled"`
}

// GenerateKeyset returns a keyset with one new key.
func GenerateKeyset() (*Keyset, error) {
	m := keyset.NewManager()
	id, err := m.AddNewKeyFromParameters(parameters)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if err := m.SetPrimary(id); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return newKeyset(m)
}

// parseKeyset reads a Tink keyset in JSON.
func parseKeyset(text Secret) (*Keyset, error) {
	// What the reader says of a text that it cannot read may show a part of it.
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(strings.NewReader(text.Reveal())))
	if err != nil {
		return nil, fmt.Errorf("%w: it is no Tink keyset in JSON, or not a valid one", ErrKeyset)
	}
	set := &Keyset{handle}
	if _, err := set.keyring(); err != nil {
		return nil, err
	}
	return set, nil
}

func newKeyset(m *keyset.Manager) (*Keyset, error) {
	handle, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("make a keyset: %w", err)
	}
	return &Keyset{handle}, nil
}

// keyring makes the keys ready for use.
func (s *Keyset) keyring() (*Keyring, error) {
	k := &Keyring{keys: make(map[uint32]tink.AEAD)}
	for i := range s.handle.Len() {
		e, err := s.handle.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("%w: key %d of %d is not readable", ErrKeyset, i+1, s.handle.Len())
		}
		key, ok := e.Key().(*aesgcm.Key)
		if !ok || !key.Parameters().Equal(parameters) {
			return nil, fmt.Errorf("%w: key %d is not for AES-256-GCM with Tink's prefix (template AES256_GCM)", ErrKeyset, e.KeyID())
		}
		if e.KeyStatus() != keyset.Enabled {
			continue
		}
		if k.keys[e.KeyID()], err = aesgcm.NewAEAD(key); err != nil {
			return nil, fmt.Errorf("%w: key %d is not usable", ErrKeyset, e.KeyID())
		}
		if e.IsPrimary() {
			k.primary = e.KeyID()
		}
	}
	if k.keys[k.primary] == nil {
		return nil, fmt.Errorf("%w: it has no primary key that is enabled", ErrKeyset)
	}
	return k, nil
}

// Keys says what keys there are, oldest first.
func (s *Keyset) Keys() []Key {
	var keys []Key
	for i := range s.handle.Len() {
		if e, err := s.handle.Entry(i); err == nil {
			keys = append(keys, Key{e.KeyID(), e.IsPrimary(), e.KeyStatus() == keyset.Enabled})
		}
	}
	return keys
}

// Add returns the keyset with a new key, which seals from then on if it is to be the primary one, and else opens
// what other relays seal with it.
func (s *Keyset) Add(primary bool) (*Keyset, uint32, error) {
	m := keyset.NewManagerFromHandle(s.handle)
	id, err := m.AddNewKeyFromParameters(parameters)
	if err == nil && primary {
		err = m.SetPrimary(id)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("add a key: %w", err)
	}
	set, err := newKeyset(m)
	return set, id, err
}

// Promote returns the keyset with its newest key as the primary one, or ErrNothingStaged.
func (s *Keyset) Promote() (*Keyset, uint32, error) {
	keys := s.Keys()
	last := keys[len(keys)-1]
	if last.Primary {
		return nil, 0, ErrNothingStaged
	}
	m := keyset.NewManagerFromHandle(s.handle)
	if err := m.SetPrimary(last.ID); err != nil {
		return nil, 0, fmt.Errorf("make key %d the primary one: %w", last.ID, err)
	}
	set, err := newKeyset(m)
	return set, last.ID, err
}

// Keep returns the keyset without the keys that are older than its primary key and for which keep is false, and the
// ids of those. A newer key is still to become the primary one.
func (s *Keyset) Keep(keep func(id uint32) bool) (*Keyset, []uint32, error) {
	m := keyset.NewManagerFromHandle(s.handle)
	dropped := []uint32{}
	for _, k := range s.Keys() {
		if k.Primary {
			break
		}
		if keep(k.ID) {
			continue
		}
		if err := m.Delete(k.ID); err != nil {
			return nil, nil, fmt.Errorf("drop key %d: %w", k.ID, err)
		}
		dropped = append(dropped, k.ID)
	}
	set, err := newKeyset(m)
	return set, dropped, err
}

// Text returns the keyset as JSON in one line. It is the keys themselves.
func (s *Keyset) Text() (Secret, error) {
	var b, line bytes.Buffer
	if err := insecurecleartextkeyset.Write(s.handle, keyset.NewJSONWriter(&b)); err != nil {
		return Secret{}, fmt.Errorf("write keyset: %w", err)
	}
	if err := json.Compact(&line, b.Bytes()); err != nil {
		return Secret{}, errors.New("write keyset: it is no JSON")
	}
	return New(line.String()), nil
}
