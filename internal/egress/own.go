package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// ownAddress is one of Options.Own: an address, or a host that is looked up when it matters.
type ownAddress struct {
	addr netip.Addr // unspecified: every address of this machine
	host string     // as entries keep hosts; "" when addr is set
	port uint16
}

func parseOwn(list []string) ([]ownAddress, error) {
	var own []ownAddress
	for _, text := range list {
		host, number, err := net.SplitHostPort(text)
		if err != nil {
			return nil, fmt.Errorf("read own address %q: %w", text, err)
		}
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("read own address %q: its port is not a number from 0 to 65535", text)
		}
		if port == 0 { // the system chooses one; nobody can know it here
			continue
		}
		o := ownAddress{port: uint16(port), addr: netip.IPv6Unspecified()}
		if a, err := netip.ParseAddr(host); err == nil {
			o.addr = a.Unmap().WithZone("")
		} else if host != "" {
			o.addr, o.host = netip.Addr{}, lookupHost(host)
		}
		own = append(own, o)
	}
	return own, nil
}

// isOwn reports whether the target is one of the own addresses. It asks the network only when the port is that
// of an own address with a name, which is rare: such ports are not dialled unless Allow or Ports name them. What
// cannot be found out counts as own.
func (r *rules) isOwn(ctx context.Context, host string, target netip.AddrPort) bool {
	own, ask := r.knownOwn(host, target)
	for _, name := range ask {
		if own {
			break
		}
		addrs, err := r.resolver().LookupNetIP(ctx, "ip", name)
		own = err != nil || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return leadsTo(target.Addr(), a) })
	}
	return own
}

// knownOwn is isOwn without asking the network; ask are the names that would have to be looked up.
func (r *rules) knownOwn(host string, target netip.AddrPort) (own bool, ask []string) {
	for _, o := range r.own {
		switch {
		case o.port != target.Port():
		case o.host == "":
			own = own || target.IsValid() && leadsTo(target.Addr(), o.addr)
		case o.host == lookupHost(host):
			own = true
		default:
			ask = append(ask, o.host)
		}
	}
	return own, ask
}

// leadsTo reports whether an address, or one inside of it, is the other one or of the same machine.
func leadsTo(a, own netip.Addr) bool {
	var space [5]netip.Addr
	a, own = a.Unmap().WithZone(""), own.Unmap().WithZone("")
	return slices.ContainsFunc(embedded(append(space[:0], a), a), func(form netip.Addr) bool { return sameMachine(form, own) })
}

func (r *rules) resolver() *net.Resolver {
	if r.Resolver != nil {
		return r.Resolver
	}
	return net.DefaultResolver
}

// sameMachine reports whether two addresses are the same, or both of this machine.
func sameMachine(a, b netip.Addr) bool { return a == b || isLocal(a) && isLocal(b) }

// isLocal reports whether an address leads to this machine, as far as this machine can know.
func isLocal(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	return slices.ContainsFunc(addrs, func(i net.Addr) bool {
		p, err := netip.ParsePrefix(i.String())
		return err == nil && p.Addr().Unmap().WithZone("") == a
	})
}
