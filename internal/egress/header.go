package egress

import (
	"errors"
	"slices"
	"strings"
)

// reservedHeaders are those that HTTP needs, that say what a request is, or that are the relay's own. A name that ends with a hyphen
// stands for all that begin with it. No setting opens them.
var reservedHeaders = []string{"accept", "accept-", "connection", "content-", "date", "expect", "host", "http2-settings", "keep-alive", "proxy-", "relay-", "te",
	"trailer", "transfer-encoding", "upgrade", "user-agent", "webhook-", "x-event-type", "x-relay-", "x-signature"}

// ReservedHeader reports whether nobody but the relay sets a header.
func ReservedHeader(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(reservedHeaders, func(r string) bool {
		return name == r || strings.HasSuffix(r, "-") && strings.HasPrefix(name, r) || name == strings.TrimSuffix(r, "-")
	})
}

// CheckHeaderEntry says what is wrong with an entry of egress.headers_allow: the name of a header, or the beginning of names with a
// star behind its last hyphen (CF-Access-*). Its errors complete a sentence about the entry.
func CheckHeaderEntry(entry string) error {
	name, prefix := strings.CutSuffix(entry, "*")
	switch {
	case name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_')
	}):
		return errors.New("is not the name of a header, of up to 64 letters, digits and hyphens")
	case prefix && !strings.HasSuffix(name, "-"):
		return errors.New("has a star that is not behind a hyphen")
	case ReservedHeader(name):
		return errors.New("is of the relay's own headers, or of those that HTTP needs")
	}
	return nil
}

// HeaderAllowed reports whether one of some entries, as egress.headers_allow has them, covers the name of a header that is not reserved.
func HeaderAllowed(entries []string, name string) bool {
	return !ReservedHeader(name) && slices.ContainsFunc(entries, func(entry string) bool {
		prefix, star := strings.CutSuffix(entry, "*")
		return strings.EqualFold(entry, name) || star && len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
	})
}
