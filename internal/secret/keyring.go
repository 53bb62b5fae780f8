package secret

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tink-crypto/tink-go/v2/tink"
)

// sealedPrefix marks a stored text that is sealed. What follows is the base64 of Tink's output.
const sealedPrefix = "sealed:"

// Tink's output begins with this byte and the id of the key, in network order.
const (
	tinkStart      = 1
	tinkPrefixSize = 5
)

var (
	// ErrLocked says that a stored secret cannot be opened. The errors that wrap it name the key and the way out.
	ErrLocked = errors.New("secret cannot be opened")
	// ErrLooksSealed says that a text cannot be stored as it is, because it would be taken for a sealed one.
	ErrLooksSealed = errors.New("a secret that begins with " + sealedPrefix + " cannot be stored without a key to seal it (secrets.key_file)")
)

// Keyring seals and opens. It is immutable and safe for concurrent use. A nil Keyring stores secrets as they
// are, and opens those alone.
type Keyring struct {
	primary uint32
	keys    map[uint32]tink.AEAD // those that are enabled, by id
}

// NewKeyring returns the keyring of a Tink keyset in JSON, nil for the empty text. Its errors never show a part
// of the text.
func NewKeyring(text Secret) (*Keyring, error) {
	if text.IsZero() {
		return nil, nil
	}
	set, err := parseKeyset(text)
	if err != nil {
		return nil, err
	}
	return set.keyring()
}

// Primary is the id of the key that seals, 0 without a keyring.
func (k *Keyring) Primary() uint32 {
	if k == nil {
		return 0
	}
	return k.primary
}

// Seal returns the text that is stored for a secret at a place: column and row. It opens there alone. Without a
// keyring that is the secret's own text.
func (k *Keyring) Seal(s Secret, place string) (string, error) {
	if k == nil {
		if strings.HasPrefix(s.Reveal(), sealedPrefix) {
			return "", ErrLooksSealed
		}
		return s.Reveal(), nil
	}
	b, err := k.keys[k.primary].Encrypt([]byte(s.Reveal()), []byte(place))
	if err != nil {
		return "", fmt.Errorf("seal with key %d: %w", k.primary, err)
	}
	return sealedPrefix + base64.StdEncoding.EncodeToString(b), nil
}

// Open returns the secret of a text that is stored at a place. A text that is not sealed is the secret itself.
// The errors wrap ErrLocked.
func (k *Keyring) Open(stored, place string) (Secret, error) {
	encoded, ok := strings.CutPrefix(stored, sealedPrefix)
	if !ok {
		return New(stored), nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(b) <= tinkPrefixSize || b[0] != tinkStart {
		return Secret{}, fmt.Errorf("%w: what follows %s was not sealed by a relay, or was cut off", ErrLocked, sealedPrefix)
	}
	id := binary.BigEndian.Uint32(b[1:tinkPrefixSize])
	if k == nil {
		return Secret{}, fmt.Errorf("%w: it is sealed with key %d, and there is no keyset: let secrets.key_file name the one that holds this key",
			ErrLocked, id)
	}
	key := k.keys[id]
	if key == nil {
		return Secret{}, fmt.Errorf("%w: it is sealed with key %d, and the keyset of secrets.key has %s: configure the keyset that holds key %d, "+
			"which a relay takes over at SIGHUP", ErrLocked, id, k.ids(), id)
	}
	text, err := key.Decrypt(b, []byte(place))
	if err != nil {
		return Secret{}, fmt.Errorf("%w: key %d does not open it: it was altered, or sealed for another row", ErrLocked, id)
	}
	return New(string(text)), nil
}

// ids names the keys.
func (k *Keyring) ids() string {
	var names []string
	for _, id := range slices.Sorted(maps.Keys(k.keys)) {
		names = append(names, fmt.Sprint(id))
	}
	return strings.Join(names, ", ")
}

// KeyOf tells whether a stored text is sealed, and with which key; 0 when it is too short to tell.
func KeyOf(stored string) (id uint32, sealed bool) {
	encoded, ok := strings.CutPrefix(stored, sealedPrefix)
	if !ok {
		return 0, false
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(b) < tinkPrefixSize || b[0] != tinkStart {
		return 0, true
	}
	return binary.BigEndian.Uint32(b[1:tinkPrefixSize]), true
}
