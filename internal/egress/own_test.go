package egress

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

func TestPolicy_NeverReachesItsOwnProcessAndDatabase(t *testing.T) {
	all := []string{"0.0.0.0/0", "::/0", "127.0.0.1", "::1", "10.0.0.5", "fd00::5", "db.internal", "other.example", "64:ff9b::/96"}
	var mine string
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			mine = p.Addr().String()
		}
	}
	resolver := newResolver(t, func(name string) []netip.Addr {
		switch name {
		case "db.internal.":
			return always("10.0.0.5", "fd00::5")(name)
		case "local.internal.":
			return always("127.0.0.1")(name)
		}
		return nil
	})
	for _, tc := range []struct {
		name, own, host, addr string
		port                  uint16
		want                  Rule
	}{
		{"itself", "127.0.0.1:8000", "", "127.0.0.1", 8000, RuleOwn},
		{"another port", "127.0.0.1:8000", "", "127.0.0.1", 9000, ""},
		{"mapped", "127.0.0.1:8000", "", "::ffff:127.0.0.1", 8000, RuleOwn},
		{"translated", "127.0.0.1:8000", "", "64:ff9b::7f00:1", 8000, RuleOwn},
		{"by 0.0.0.0", "127.0.0.1:8000", "", "0.0.0.0", 8000, RuleOwn},
		{"by ::", "127.0.0.1:8000", "", "::", 8000, RuleOwn},
		{"by another loopback address", "127.0.0.1:8000", "", "127.9.9.9", 8000, RuleOwn},
		{"by IPv6", "127.0.0.1:8000", "", "::1", 8000, RuleOwn},
		{"all interfaces", ":8000", "", "127.0.0.1", 8000, RuleOwn},
		{"all of IPv4", "0.0.0.0:8000", "", "127.0.0.1", 8000, RuleOwn},
		{"all interfaces, another machine", ":8000", "", "10.0.0.5", 8000, ""},
		{"another machine", "10.0.0.5:5432", "", "10.0.0.5", 5432, RuleOwn},
		{"its neighbour", "10.0.0.5:5432", "", "10.0.0.6", 5432, ""},
		{"by name", "db.internal:5432", "db.internal", "10.0.0.7", 5432, RuleOwn},
		{"by name, otherwise written", "db.internal:5432", "DB.internal.", "10.0.0.7", 5432, RuleOwn},
		{"by the address of the name", "db.internal:5432", "", "10.0.0.5", 5432, RuleOwn},
		{"by the other one", "db.internal:5432", "other.example", "fd00::5", 5432, RuleOwn},
		{"beside the name", "db.internal:5432", "", "10.0.0.6", 5432, ""},
		{"name of this machine", "local.internal:5432", "", "127.0.0.1", 5432, RuleOwn},
		{"a name that cannot be looked up", "gone.internal:5432", "", "10.0.0.6", 5432, RuleOwn},
		{"and its other ports", "gone.internal:5432", "", "10.0.0.6", 443, ""},
		{"a port that the system chooses", "127.0.0.1:0", "", "127.0.0.1", 8000, ""},
		{"of what is refused anyway, the reason stays", "169.254.1.1:80", "", "169.254.1.1", 80, RuleMetadata},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := mustPolicy(t, Options{Allow: all, Own: []string{tc.own}, Resolver: resolver})
			if tc.host == "" {
				tc.host = "receiver.example"
			}
			mustDecide(t, p, tc.host, tc.addr, tc.port, tc.want)
		})
	}
	if mine != "" {
		t.Run("by an address of an interface", func(t *testing.T) {
			for _, own := range []string{":8000", "127.0.0.1:8000", net.JoinHostPort(mine, "8000")} {
				mustDecide(t, mustPolicy(t, Options{Allow: all, Own: []string{own}}), "receiver.example", mine, 8000, RuleOwn)
			}
		})
	}
}

func TestPolicy_OwnAddressesAreNotDialled(t *testing.T) {
	trap := newTrap(t, "")
	port := strconv.Itoa(int(trap.port))
	for _, own := range []string{":" + port, "127.0.0.1:" + port, "localhost:" + port} {
		p := mustPolicy(t, Options{Allow: []string{"127.0.0.0/8", "::1", "0.0.0.0", "localhost"}, Own: []string{own}})
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"} {
			_, err := get(t, p.Client(TransportOptions{}), "http://"+host+":"+port)
			mustBeBlocked(t, err, strings.Trim(host, "[]"), RuleOwn)
		}
		var blocked *BlockedError
		for _, host := range []string{"127.0.0.1", "localhost"} {
			if _, err := p.CheckURL("http://" + host + ":" + port); own != "localhost:"+port && (!errors.As(err, &blocked) || blocked.Rule != RuleOwn) {
				t.Errorf("own %s: CheckURL of %s: %v", own, host, err)
			}
		}
	}
	trap.mustBeEmpty(t)
}

func TestNew_RefusesOwnAddressesThatItCannotRead(t *testing.T) {
	for _, own := range []string{"", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:65536"} {
		if _, err := New(Options{Own: []string{own}}); err == nil {
			t.Errorf("%q passed", own)
		}
	}
}
