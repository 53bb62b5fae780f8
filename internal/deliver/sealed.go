package deliver

import (
	"fmt"
	"reflect"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
)

// slot is a column that holds a secret. What is sealed in one does not open in another.
type slot string

const (
	slotCurrent     slot = "secret"
	slotNext        slot = "next_secret"
	slotPrevious    slot = "previous_secret"
	slotHeaders     slot = "headers"
	slotCertificate slot = "client_certificate"
)

// place is what is authenticated with a sealed secret: its column and row.
func (s slot) place(id uuid.UUID) string {
	return "relay.subscriptions." + string(s) + " " + id.String()
}

// storedSecrets are a row's secrets as they stand there, sealed or not; zero where there is none.
type storedSecrets struct{ current, next, previous, headers, certificate secret.Secret }

func newStored(current string, next, previous, headers, certificate *string) storedSecrets {
	given := func(text *string) secret.Secret {
		if text == nil {
			return secret.Secret{}
		}
		return secret.New(*text)
	}
	return storedSecrets{secret.New(current), given(next), given(previous), given(headers), given(certificate)}
}

// all are the texts of every column, nil where there is none.
func (s storedSecrets) all() []any {
	return append(s.args(), revealed(s.headers), revealed(s.certificate))
}

// args are those of the secrets that sign.
func (s storedSecrets) args() []any {
	return []any{s.current.Reveal(), revealed(s.next), revealed(s.previous)}
}

func revealed(s secret.Secret) *string {
	if s.IsZero() {
		return nil
	}
	text := s.Reveal()
	return &text
}

// open fills in the secrets from what is stored, or says in Locked why it cannot.
// One that cannot be opened is enough: a receiver may hold it as the only one.
func (s *Subscription) open(keys *secret.Keyring) {
	s.Locked = nil
	read := func(stored secret.Secret, at slot) secret.Secret {
		if stored.IsZero() {
			return secret.Secret{}
		}
		text, err := keys.Open(stored.Reveal(), at.place(s.ID))
		if err != nil && s.Locked == nil {
			s.Locked = err
		}
		return text
	}
	s.Secret = read(s.stored.current, slotCurrent)
	s.NextSecret = read(s.stored.next, slotNext)
	s.PreviousSecret = read(s.stored.previous, slotPrevious)
	s.Headers = read(s.stored.headers, slotHeaders)
	s.ClientCertificate = read(s.stored.certificate, slotCertificate)
	s.Certificate = describe(s.ClientCertificate)
	if s.Locked == nil && s.badFilter != nil {
		s.Locked = fmt.Errorf("its filter, which other hands wrote: %w", s.badFilter)
	}
}

// SecretKey tells which key the subscription's current secret is sealed with in the
// database; sealed is false when it stands there as it is.
func (s *Subscription) SecretKey() (id uint32, sealed bool) {
	return secret.KeyOf(s.stored.current.Reveal())
}

// previousGood tells whether the secret before still signs.
func (s *Subscription) previousGood(now time.Time) bool {
	return s.PreviousExpiresAt != nil && now.Before(*s.PreviousExpiresAt)
}

// alike tells whether two readings of a subscription mean the same now, however its
// secrets are stored.
func (s *Subscription) alike(other *Subscription, now time.Time) bool {
	return reflect.DeepEqual(s.asOf(now), other.asOf(now))
}

func (s *Subscription) asOf(now time.Time) Subscription {
	c := *s
	c.stored = storedSecrets{}
	if !c.previousGood(now) {
		c.PreviousSecret, c.PreviousExpiresAt = secret.Secret{}, nil
	}
	return c
}

// Signer returns what signs at a time: the current secret first, which is that of
// X-Signature, then the next one, then the one before.
func (s *Subscription) Signer(now time.Time) (*signature.Signer, error) {
	if s.Locked != nil {
		return nil, fmt.Errorf("subscription %s: %w", s.ID, s.Locked)
	}
	good := []string{s.Secret.Reveal()}
	if !s.NextSecret.IsZero() {
		good = append(good, s.NextSecret.Reveal())
	}
	if s.previousGood(now) {
		good = append(good, s.PreviousSecret.Reveal())
	}
	signer, err := signature.NewSigner(good...)
	if err != nil {
		return nil, fmt.Errorf("secret of subscription %s: %w", s.ID, err)
	}
	return signer, nil
}

// NextSigner returns what signs with the next secret alone, to see whether a receiver has
// it. Without one the error is ErrNoSecretStaged.
func (s *Subscription) NextSigner() (*signature.Signer, error) {
	switch {
	case s.NextStagedAt == nil:
		return nil, ErrNoSecretStaged
	case s.NextSecret.IsZero():
		return nil, s.Locked
	}
	return signature.NewSigner(s.NextSecret.Reveal())
}
