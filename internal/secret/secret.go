package secret

import (
	"fmt"
	"io"
	"log/slog"
	"unique"
)

// mask is what is seen in place of every secret, set or not.
const mask = "***"

// Secret is a text that is shown as "***" wherever it is printed, marshalled or logged. Its zero value is
// the empty secret. Secrets are comparable: two are equal if their texts are.
//
// Hand Reveal's result to a database driver, not the Secret: a driver that knows fmt.Stringer stores "***".
type Secret struct {
	// text is a handle, not a string, because fmt prints the content of unexported fields without asking
	// their methods, and of a handle that is an address.
	text unique.Handle[string]
}

// New returns the secret with the given text.
func New(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: unique.Make(text)}
}

// Reveal returns the text itself.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.text.Value()
}

// IsZero reports whether the secret is empty, that is, not set.
func (s Secret) IsZero() bool { return s == Secret{} }

// String returns "***".
func (s Secret) String() string { return mask }

// Format writes "***", whatever the verb and the flags.
func (s Secret) Format(f fmt.State, _ rune) {
	// Formatters have no way to report an error; fmt ignores it as well.
	_, _ = io.WriteString(f, mask)
}

// MarshalJSON returns the JSON string "***".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + mask + `"`), nil }

// MarshalText returns "***"; YAML, XML and JSON object keys come this way.
func (s Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }

// LogValue returns "***".
func (s Secret) LogValue() slog.Value { return slog.StringValue(mask) }

// UnmarshalText sets the secret to the text, so that configuration decoders can fill it.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = New(string(text))
	return nil
}
