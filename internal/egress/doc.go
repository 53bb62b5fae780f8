// Package egress dials only the addresses that policy allows.
//
// Every connection to a receiver is made by a Policy's DialContext, mostly through the Transport and Client
// made from it. The decision falls in the dialer's control hook, on the concrete address, after name
// resolution and before the first packet. So literals in any spelling, names that resolve to something else
// the second time, fallback addresses and redirects all meet the same rule:
//
//  1. What cannot be parsed, is not TCP or has a zone is refused.
//  2. What deny names, by address or by host, is refused.
//  3. Addresses of cloud metadata services, and all of 169.254.0.0/16, are refused unless allow has an entry
//     for that single address. A wider entry or a host name does not lift this.
//  4. What allow names, by address or by host, passes, on any port.
//  5. Of the rest, global unicast addresses outside the special-purpose registries pass, on the listed ports.
//  6. Of what passes, addresses at which the relay itself, its database or its proxy listens are refused.
//
// IPv4 addresses inside of IPv6 ones (mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP) count as
// well: rules 2 and 3 apply to them, and an address passes rules 4 and 5 only if what it wraps passes too.
//
// With a proxy the names are resolved here as well, the same rules hold for every address, and the proxy is asked
// for an address that passed; see Options.Proxy.
//
// CheckURL is a courtesy for whoever enters a URL, and the same rule for rows written by other hands. It does
// not resolve names; the dial is what protects.
//
// Connections do not outlive the policy that they were dialled under: Reload closes idle ones, and busy ones
// take no further request. Nor do they outlive Options.MaxConnAge, so that a change of DNS is seen.
//
// What an Identity sends, with a client certificate, meets the same rules on the same dialer, and shares no connection with
// anything else. A proxy is not shown the certificate: it is for receivers.
package egress
