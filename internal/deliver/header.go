package deliver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/secret"
)

// Header is one that a subscription wants with each of its webhooks.
type Header struct{ Name, Value string }

// Bounds of a subscription's headers.
const (
	maxHeaders     = 20
	maxHeaderName  = 64
	maxHeaderValue = 2048
)

// HeaderError says what is wrong with one of a subscription's headers. It never has its value.
type HeaderError struct {
	Index  int // of the header in its list
	Reason string
}

func (e *HeaderError) Error() string { return fmt.Sprintf("header %d: %s", e.Index+1, e.Reason) }

// allowedHeaders are the names that may be wanted besides those that begin with X-.
var allowedHeaders = []string{"Api-Key", "Authorization", "From", "Tenant", "Tenant-Id"}

// ownHeaders begin with X- and are ours, or say where a request came from, or what it is instead of what it is.
var ownHeaders = []string{"X-Signature", "X-Event-", "X-Tenant-", "X-Forwarded", "X-Real-Ip", "X-Original-", "X-Rewrite-", "X-Http-Method",
	"X-Method-Override", "X-Client-Ip", "X-Relay-", "X-Webhook-"}

// NewHeaders makes of a list what a Subscription holds; the empty Secret for none. Names are of an allow list: those that
// begin with X- and are not ours, a few others, and what allow, entries of egress.headers_allow, covers. Values are visible ASCII,
// with spaces between. Errors are HeaderErrors.
func NewHeaders(list []Header, allow ...string) (secret.Secret, error) {
	if len(list) == 0 {
		return secret.Secret{}, nil
	}
	if len(list) > maxHeaders {
		return secret.Secret{}, &HeaderError{maxHeaders, fmt.Sprintf("more than %d", maxHeaders)}
	}
	pairs := make([][2]string, len(list))
	for i, h := range list {
		name := textproto.CanonicalMIMEHeaderKey(h.Name)
		if reason := checkNewHeader(name, h.Value, allow); reason != "" {
			return secret.Secret{}, &HeaderError{i, reason}
		}
		if slices.ContainsFunc(pairs[:i], func(p [2]string) bool { return p[0] == name }) {
			return secret.Secret{}, &HeaderError{i, "its name stands in the list already"}
		}
		pairs[i] = [2]string{name, h.Value}
	}
	text, err := json.Marshal(pairs)
	if err != nil {
		return secret.Secret{}, err
	}
	return secret.New(string(text)), nil
}

// checkNewHeader tells what is wrong with a header that is to be set, for its tenant; "" when nothing is.
func checkNewHeader(name, value string, allow []string) string {
	if reason := checkHeader(name, value); reason != "" {
		return reason
	}
	allowed := strings.HasPrefix(name, "X-") && len(name) > len("X-") || slices.Contains(allowedHeaders, name)
	own := slices.ContainsFunc(ownHeaders, func(p string) bool { return strings.HasPrefix(name, p) })
	if allowed && !own || egress.HeaderAllowed(allow, name) {
		return ""
	}
	may := slices.Concat(allowedHeaders, allow)
	return "its name is not one that may be set: those that begin with X- and are not the relay's own, and " + strings.Join(may, ", ") +
		"; the operator of the relay may allow others"
}

// checkHeader tells what is wrong with a header, whoever has set it; "" when nothing is.
func checkHeader(name, value string) string {
	switch {
	case len(name) > maxHeaderName || strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_')
	}):
		return fmt.Sprintf("its name is not up to %d letters, digits and hyphens", maxHeaderName)
	case name == "" || egress.ReservedHeader(name):
		return "its name is the relay's own, or that of a header that HTTP needs: no subscription can set it"
	case value == "" || len(value) > maxHeaderValue:
		return fmt.Sprintf("its value is not 1 to %d characters", maxHeaderValue)
	case strings.TrimSpace(value) != value || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }):
		return "its value has other characters than visible ASCII and spaces between"
	}
	return ""
}

// errHeaders says that rows were written by other hands.
var errHeaders = errors.New("the headers of the subscription cannot be used")

// Header returns the headers that the subscription wants, nil for none. What none may have is looked for again, because rows may
// be written by other hands than ours; what tenants may set is asked when they do.
func (s *Subscription) Header() (http.Header, error) {
	list, err := s.headerList()
	if err != nil || list == nil {
		return nil, err
	}
	h := make(http.Header, len(list))
	for _, p := range list {
		if checkHeader(p[0], p[1]) != "" || textproto.CanonicalMIMEHeaderKey(p[0]) != p[0] {
			return nil, errHeaders
		}
		h[p[0]] = []string{p[1]}
	}
	return h, nil
}

// HeaderNames returns the names of the headers that the subscription wants.
func (s *Subscription) HeaderNames() []string {
	list, _ := s.headerList()
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p[0]
	}
	return names
}

func (s *Subscription) headerList() (list [][2]string, err error) {
	if s.Headers.IsZero() {
		return nil, nil
	}
	if json.Unmarshal([]byte(s.Headers.Reveal()), &list) != nil || len(list) > maxHeaders {
		return nil, errHeaders
	}
	return list, nil
}
