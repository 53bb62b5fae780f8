package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxURL is the most bytes that a URL may have.
const maxURL = 2048

// CheckURL says whether a receiver may have this URL, and returns it with its host in ASCII. It takes https
// (and http, unless Options.RequireHTTPS) with a host and nothing that hides where it leads: no credentials,
// no fragment, no control or direction characters, no IP address in an uncommon spelling. A literal address
// must be one that policy lets through, and so must localhost. Errors wrap ErrURL, and a *BlockedError where
// policy refuses the address. What CheckURL returns, it accepts again and returns unchanged.
//
// It does not resolve the name, so acceptance is no promise that a dial will pass.
func (p *Policy) CheckURL(raw string) (*url.URL, error) { return p.CheckURLOf("", raw) }

// CheckURLOf is CheckURL for a receiver of one tenant, which may be one of Options.HTTPTenants.
func (p *Policy) CheckURLOf(tenant, raw string) (*url.URL, error) {
	u, err := p.rules.Load().checkURL(tenant, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrURL, err)
	}
	return u, nil
}

func (r *rules) checkURL(tenant, raw string) (*url.URL, error) {
	if err := checkText(raw); err != nil {
		return nil, err
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the URL; its cause does not always, but may quote a part with credentials.
		return nil, errors.New("it cannot be parsed")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("it must begin with https:// (or http:// where that is allowed)")
	case u.Scheme == "http" && r.RequireHTTPS && !slices.Contains(r.HTTPTenants, tenant):
		return nil, errors.New("https is required (egress.require_https, egress.http_tenants)")
	case u.User != nil || strings.Contains(u.Host, "@"):
		return nil, errors.New("user names and passwords do not belong into it")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("it has no host")
	}
	host, err := canonicalHost(bracketed(u))
	if err != nil {
		return nil, fmt.Errorf("its host %w", err)
	}
	if strings.Contains(host, "_") && !r.allow.hosts[undotted(host)] {
		return nil, &UnderscoreError{Host: undotted(host)}
	}
	port, err := r.checkTarget(host, u)
	if err != nil {
		return nil, err
	}

	u.Host = host
	if strings.Contains(host, ":") {
		u.Host = "[" + host + "]"
	}
	if port != "" {
		u.Host += ":" + port
	}
	canonical := u.String()
	again, err := url.Parse(canonical)
	if err != nil || again.Hostname() != host || again.Port() != port || again.String() != canonical {
		return nil, errors.New("it means different things to different readers")
	}
	if len(canonical) > maxURL {
		return nil, fmt.Errorf("it is longer than %d bytes when encoded", maxURL)
	}
	return again, nil
}

// checkText refuses characters that do not show, or that readers of URLs disagree about.
func checkText(raw string) error {
	switch {
	case raw == "":
		return errors.New("it is empty")
	case len(raw) > maxURL:
		return fmt.Errorf("it is longer than %d bytes", maxURL)
	case !utf8.ValidString(raw):
		return errors.New("it is not valid UTF-8")
	case strings.Contains(raw, "#"):
		return errors.New("it has a fragment (#), which is never sent")
	case strings.Contains(raw, `\`):
		return errors.New("it has a backslash")
	}
	for _, c := range raw {
		// Cf holds the characters that change direction and those without width.
		if unicode.IsSpace(c) || unicode.In(c, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Zs) {
			return fmt.Errorf("it has a space, control or invisible character (%U)", c)
		}
	}
	beforeQuery, query, _ := strings.Cut(raw, "?")
	for _, c := range query {
		if c >= utf8.RuneSelf {
			return fmt.Errorf("%U in its query must be percent-encoded", c)
		}
	}
	if _, rest, ok := strings.Cut(beforeQuery, "://"); ok {
		if authority, _, _ := strings.Cut(rest, "/"); strings.Contains(authority, "%") {
			return errors.New("its host has a percent sign (an encoded character or a zone)")
		}
	}
	return nil
}

// bracketed is u.Hostname, with the brackets that tell an IPv6 address.
func bracketed(u *url.URL) string {
	if strings.HasPrefix(u.Host, "[") {
		return "[" + u.Hostname() + "]"
	}
	return u.Hostname()
}

// checkTarget applies policy to what is known of the target before names are resolved. It gives the port in
// its plain spelling, "" for the scheme's own.
func (r *rules) checkTarget(host string, u *url.URL) (string, error) {
	number, text := uint64(443), ""
	if u.Scheme == "http" {
		number = 80
	}
	if given := u.Port(); given != "" {
		n, err := strconv.ParseUint(given, 10, 16)
		if err != nil || n == 0 {
			return "", errors.New("its port is not a number from 1 to 65535")
		}
		number, text = n, strconv.FormatUint(n, 10)
	}
	port := uint16(number)

	var candidates []netip.Addr
	if a, err := netip.ParseAddr(host); err == nil {
		candidates = []netip.Addr{a}
	} else if name := undotted(host); name == "localhost" || strings.HasSuffix(name, ".localhost") {
		candidates = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	} else {
		blocked := &BlockedError{Host: host, Addr: net.JoinHostPort(host, strconv.FormatUint(number, 10))}
		own, _ := r.knownOwn(host, netip.AddrPortFrom(netip.Addr{}, port))
		switch {
		case r.deny.hosts[name]:
			blocked.Rule = RuleDeny
		case own:
			blocked.Rule = RuleOwn
		case !r.allow.hosts[name] && len(r.allow.prefixes) == 0 && !slices.Contains(r.Ports, port):
			// With prefixes in allow, only the dial can tell whether the port rule applies.
			blocked.Rule = RulePort
		default:
			return text, nil
		}
		return "", blocked
	}
	var blocked error
	for _, a := range candidates {
		target := netip.AddrPortFrom(a, port)
		rule := r.refuse(host, target)
		if own, _ := r.knownOwn(host, target); own && rule == "" {
			rule = RuleOwn
		}
		if rule == "" {
			return text, nil
		}
		if blocked == nil {
			blocked = &BlockedError{Host: host, Addr: target.String(), Rule: rule}
		}
	}
	return "", blocked
}

// canonicalHost gives a host name in lower-case ASCII, by the same mapping that net/http applies before it
// dials, or an IP address in its usual spelling. IPv6 addresses come with or without brackets and leave
// without. A final dot is kept, because it changes how the name is looked up.
func canonicalHost(host string) (string, error) {
	literal, wrapped := strings.CutPrefix(host, "[")
	if wrapped {
		literal = strings.TrimSuffix(literal, "]")
	}
	if strings.Contains(literal, ":") || wrapped {
		a, err := netip.ParseAddr(literal)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", errors.New("is not an IPv6 address without zone")
		}
		return a.Unmap().String(), nil
	}
	ascii, err := toASCII(host)
	if err != nil {
		return "", errors.New("is not a valid host name")
	}
	name := undotted(ascii)
	if a, err := netip.ParseAddr(name); err == nil && a.Is4() && name == ascii {
		return a.String(), nil
	}
	if name == "" || len(name) > 253 {
		return "", errors.New("is empty or longer than 253 characters")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return "", errors.New("has a part that is empty or longer than 63 characters")
		}
	}
	// Resolvers disagree about 127.1, 0x7f.1, 017700000001 and 2130706433; no top-level domain looks so.
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" || isHexNumber(last) {
		return "", errors.New("ends in a number and is not an IPv4 address of four decimal numbers")
	}
	return ascii, nil
}

// toASCII gives the form of a name that is looked up. Underscores are in no name of the internet, but in those of services in
// compose and clusters, which resolvers and net/http take as they are.
func toASCII(host string) (string, error) {
	plain := !strings.ContainsFunc(host, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_')
	})
	if plain && strings.Contains(host, "_") {
		_, err := idna.Lookup.ToASCII(strings.ReplaceAll(host, "_", "x"))
		return strings.ToLower(host), err
	}
	return idna.Lookup.ToASCII(host)
}

func isHexNumber(label string) bool {
	digits, ok := strings.CutPrefix(label, "0x")
	return ok && strings.Trim(digits, "0123456789abcdef") == ""
}

// undotted takes the final dot from a name.
func undotted(host string) string { return strings.TrimSuffix(host, ".") }
