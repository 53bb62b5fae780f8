package egress

import (
	"net/netip"
	"slices"

	"code.dny.dev/ssrf"
)

// metadata are the addresses of the metadata and host services of cloud providers. Some lie in ranges that
// deployments allow for their private receivers, and one in public space.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),     // link-local: most providers, container credentials
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure, in public space
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud
	netip.MustParsePrefix("fd00:ec2::254/128"),  // AWS
	netip.MustParsePrefix("fd00:ec2::23/128"),   // AWS, container credentials
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google Cloud
}

// IsPublic reports whether an address, mapped ones included, and every IPv4 address that it wraps, is public.
func IsPublic(a netip.Addr) bool {
	a = a.Unmap()
	var space [5]netip.Addr
	for _, f := range embedded(append(space[:0], a), a) {
		if within(metadata, f) || !isPublic(f) {
			return false
		}
	}
	return a.IsValid()
}

// isPublic reports whether the address, which is not a mapped one, is global unicast and outside the IANA
// special-purpose registries (and the few more prefixes that the ssrf package lists).
func isPublic(a netip.Addr) bool {
	if a.Is4() {
		return !within(ssrf.IPv4DeniedPrefixes, a)
	}
	return ssrf.IPv6GlobalUnicast.Contains(a) && !within(ssrf.IPv6DeniedPrefixes, a)
}

func within(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Prefixes of the IPv6 forms that wrap an IPv4 address. Mapped addresses are unmapped before they come here.
var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// embedded returns the IPv4 addresses that an IPv6 address wraps, all that it may be read as where that
// depends on somebody's configuration. It appends to dst.
func embedded(dst []netip.Addr, a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return dst
	}
	b := a.As16()
	take := func(i, j, k, l int) { dst = append(dst, netip.AddrFrom4([4]byte{b[i], b[j], b[k], b[l]})) }
	switch {
	case compatible.Contains(a):
		if a != netip.IPv6Unspecified() && a != netip.IPv6Loopback() {
			take(12, 13, 14, 15)
		}
	case translated.Contains(a), nat64.Contains(a):
		take(12, 13, 14, 15)
	case localNAT64.Contains(a):
		take(12, 13, 14, 15)
		if b[13] == 0 && b[14] == 0 && b[15] == 0 {
			// The prefix may also be one of 48, 56 or 64 bits, which spread the address around byte 8.
			take(6, 7, 9, 10)
			take(7, 9, 10, 11)
			take(9, 10, 11, 12)
		}
	case sixToFour.Contains(a):
		take(2, 3, 4, 5)
	case teredo.Contains(a):
		take(4, 5, 6, 7) // the server
		dst = append(dst, netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	if b[8]&^0x03 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe { // ISATAP, RFC 5214, under any prefix
		take(12, 13, 14, 15)
	}
	return dst
}
