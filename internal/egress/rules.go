package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// entries is a list of addresses and hosts from the configuration.
type entries struct {
	prefixes []netip.Prefix
	hosts    map[string]bool // as canonicalHost gives them, without a final dot
}

func parseEntries(list []string) (entries, error) {
	e := entries{hosts: map[string]bool{}}
	for _, text := range list {
		if p, err := parsePrefix(text); err == nil {
			e.prefixes = append(e.prefixes, p)
			continue
		} else if strings.ContainsAny(text, "/:%") {
			return entries{}, fmt.Errorf("entry %q: %w", text, err)
		}
		host, err := canonicalHost(text)
		if err != nil {
			return entries{}, fmt.Errorf("entry %q: %w", text, err)
		}
		e.hosts[undotted(host)] = true
	}
	return e, nil
}

// parsePrefix reads a CIDR or a single address. Mapped IPv4 becomes IPv4, the form in which addresses are
// compared.
func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, errors.New("has a zone")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, errors.New("is neither an IP address, a CIDR (10.1.0.0/16) nor a host name without a port")
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("has bits beyond its length; %s is the whole range", p.Masked())
	}
	if p.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// rules is one state of a Policy. It is immutable; its address tells it from an earlier one.
type rules struct {
	Options
	allow, deny entries
	own         []ownAddress
	proxy       *url.URL // nil for none
}

// refuse gives the rule by which an address is refused for a host, or "". The host is as in the URL.
func (r *rules) refuse(host string, target netip.AddrPort) Rule {
	a := target.Addr().Unmap()
	if !a.IsValid() || target.Port() == 0 {
		return RuleUnparsable
	}
	if target.Addr().Zone() != "" { // Unmap may have dropped it
		return RuleZone
	}
	host = lookupHost(host)
	var space [5]netip.Addr
	forms := embedded(append(space[:0], a), a)
	for _, f := range forms {
		if within(r.deny.prefixes, f) {
			return RuleDeny
		}
	}
	if r.deny.hosts[host] {
		return RuleDeny
	}
	for _, f := range forms {
		if within(metadata, f) && !slices.Contains(r.allow.prefixes, netip.PrefixFrom(f, f.BitLen())) {
			return RuleMetadata
		}
	}
	if r.allow.hosts[host] {
		return ""
	}
	for _, f := range forms {
		if !within(r.allow.prefixes, f) && !isPublic(f) {
			return RuleAddress
		}
	}
	if within(r.allow.prefixes, a) || slices.Contains(r.Ports, target.Port()) {
		return ""
	}
	return RulePort
}

// lookupHost gives the form of a host under which entries keep it.
func lookupHost(host string) string {
	if ascii, err := canonicalHost(host); err == nil {
		host = ascii
	}
	return undotted(host)
}

// check is the decision about one address, as the dialer's hook gets it.
func (r *rules) check(ctx context.Context, host, network, address string) error {
	target, err := netip.ParseAddrPort(address)
	rule := RuleUnparsable
	switch {
	case err != nil:
	case network != "tcp4" && network != "tcp6":
		rule = RuleNetwork
	default:
		if rule = r.refuse(host, target); rule == "" && r.isOwn(ctx, host, target) {
			rule = RuleOwn
		}
	}
	if rule == "" {
		return nil
	}
	return &BlockedError{Host: host, Addr: address, Rule: rule}
}

// splitHost takes the port from what a dialer is asked for. What cannot be split matches no host entry.
func splitHost(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return host
}
