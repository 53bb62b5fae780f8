package egress

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestPolicy_DecidesByAddress(t *testing.T) {
	refused := map[Rule][]string{
		RuleAddress: {
			"0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1",
			"127.255.255.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1",
			"192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.7",
			"203.0.113.7", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
			"::", "::1", "::2", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
			"::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8",
			"64:ff9b:1::127.0.0.1", "64:ff9b:1::8.8.8.8", "100::1", "100:0:0:1::1", "2001::1",
			"2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:1ff::1",
			"2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "fc00::1",
			"fd12:3456::1", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1",
			"2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1", "8000::1", "e000::1",
		},
		RuleMetadata: {
			"169.254.169.254", "169.254.0.1", "169.254.170.2", "168.63.129.16", "100.100.100.200",
			"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "::ffff:169.254.169.254", "::169.254.169.254",
			"::ffff:0:169.254.169.254", "64:ff9b::169.254.169.254", "64:ff9b:1::169.254.169.254",
			"64:ff9b:1:6464:64:c800::", "64:ff9b:1:64:64:64c8::", "64:ff9b:1:0:64:6464:c800:0", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "2001:0:808:808::5601:5601",
			"2606:4700::5efe:169.254.169.254", "::ffff:168.63.129.16", "64:ff9b::168.63.129.16",
		},
		RuleZone: {"fe80::1%eth0", "::1%lo", "2606:4700::1111%1", "::ffff:8.8.8.8%eth0"},
	}
	passing := []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
		"128.0.0.1", "168.63.129.15", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255",
		"192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "::ffff:8.8.8.8",
		"2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700:4700::1111", "2a00:1450::1",
		"2606:4700::5efe:808:808", "3ffe::1",
	}
	p := mustPolicy(t, Options{})
	for rule, list := range refused {
		for _, a := range list {
			mustDecide(t, p, "receiver.example", a, 443, rule)
		}
	}
	for _, a := range passing {
		mustDecide(t, p, "receiver.example", a, 443, "")
	}
}

func mustDecide(t *testing.T, p *Policy, host, addr string, port uint16, want Rule) {
	t.Helper()
	target := netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	network := "tcp6"
	if target.Addr().Unmap().Is4() {
		network = "tcp4"
	}
	err := p.rules.Load().check(t.Context(), host, network, target.String())
	var blocked *BlockedError
	switch {
	case err == nil && want == "":
	case !errors.As(err, &blocked) || blocked.Rule != want:
		t.Errorf("%s port %d: got %v, want %q", addr, port, err, want)
	case blocked.Host != host || blocked.Addr != target.String():
		t.Errorf("%s: the error names %s and %s", addr, blocked.Host, blocked.Addr)
	}
}

func TestPolicy_FailsClosed(t *testing.T) {
	r := mustPolicy(t, Options{Allow: []string{"0.0.0.0/0", "::/0"}}).rules.Load()
	for _, tc := range []struct {
		network, address string
		want             Rule
	}{
		{"tcp4", "", RuleUnparsable},
		{"tcp4", ":443", RuleUnparsable},
		{"tcp4", "8.8.8.8", RuleUnparsable},
		{"tcp4", "8.8.8.8:0", RuleUnparsable},
		{"tcp4", "8.8.8.8:https", RuleUnparsable},
		{"tcp4", "8.8.8.8:65536", RuleUnparsable},
		{"tcp4", "08.8.8.8:443", RuleUnparsable},
		{"tcp6", "2606:4700::1111:443:", RuleUnparsable},
		{"unix", "/run/socket", RuleUnparsable},
		{"udp4", "8.8.8.8:443", RuleNetwork},
		{"tcp", "8.8.8.8:443", RuleNetwork},
		{"tcp6", "[fe80::1%eth0]:443", RuleZone},
		{"tcp6", "[::ffff:8.8.8.8%eth0]:443", RuleZone},
	} {
		var blocked *BlockedError
		if err := r.check(t.Context(), "h", tc.network, tc.address); !errors.As(err, &blocked) || blocked.Rule != tc.want {
			t.Errorf("%s %q: got %v, want %s", tc.network, tc.address, err, tc.want)
		}
	}
}

func TestPolicy_FollowsAllowAndDeny(t *testing.T) {
	for _, tc := range []struct {
		name        string
		allow, deny []string
		ports       []uint16
		host, addr  string
		port        uint16
		want        Rule
	}{
		{name: "other port", addr: "8.8.8.8", port: 8080, want: RulePort},
		{name: "listed port", ports: []uint16{8080}, addr: "8.8.8.8", port: 8080},
		{name: "list replaces the defaults", ports: []uint16{8080}, addr: "8.8.8.8", port: 443, want: RulePort},
		{name: "allowed address", allow: []string{"127.0.0.1"}, addr: "127.0.0.1", port: 9000},
		{name: "its neighbour", allow: []string{"127.0.0.1"}, addr: "127.0.0.2", port: 443, want: RuleAddress},
		{name: "allowed range", allow: []string{"10.1.0.0/16"}, addr: "10.1.2.3", port: 9000},
		{name: "mapped into the range", allow: []string{"10.1.0.0/16"}, addr: "::ffff:10.1.2.3", port: 9000},
		{name: "range written mapped", allow: []string{"::ffff:10.1.0.0/112"}, addr: "10.1.2.3", port: 9000},
		{name: "wrapped otherwise", allow: []string{"10.1.0.0/16"}, addr: "2002:a01:203::1", port: 443, want: RuleAddress},
		{name: "allowed IPv6 range", allow: []string{"fd00::/8"}, addr: "fd12::1", port: 9000},
		{name: "loopback in IPv6", allow: []string{"::1"}, addr: "::1", port: 9000},
		{name: "all of IPv4 is not IPv6", allow: []string{"0.0.0.0/0"}, addr: "::1", port: 443, want: RuleAddress},
		{name: "NAT64 to a public address", allow: []string{"64:ff9b::/96"}, addr: "64:ff9b::8.8.8.8", port: 443},
		{name: "NAT64 to a private address", allow: []string{"64:ff9b::/96"}, addr: "64:ff9b::10.0.0.1", port: 443, want: RuleAddress},
		{name: "NAT64 to metadata", allow: []string{"64:ff9b::/96"}, addr: "64:ff9b::169.254.169.254", port: 80, want: RuleMetadata},
		{name: "local NAT64 to a private address", allow: []string{"64:ff9b:1::/48"}, addr: "64:ff9b:1::10.0.0.1", port: 443, want: RuleAddress},
		{name: "local NAT64 to a public address", allow: []string{"64:ff9b:1::/48"}, addr: "64:ff9b:1::8.8.8.8", port: 443},
		{name: "allowed host", allow: []string{"receiver.internal"}, host: "receiver.internal", addr: "10.0.0.1", port: 9000},
		{name: "allowed host in capitals, final dot", allow: []string{"Receiver.Internal"}, host: "RECEIVER.internal.", addr: "10.0.0.1", port: 9000},
		{name: "allowed host beyond ASCII", allow: []string{"bücher.example"}, host: "xn--bcher-kva.example", addr: "10.0.0.1", port: 9000},
		{name: "host below the allowed", allow: []string{"internal"}, host: "receiver.internal", addr: "10.0.0.1", port: 443, want: RuleAddress},
		{name: "other host, same address", allow: []string{"receiver.internal"}, host: "other.internal", addr: "10.0.0.1", port: 443, want: RuleAddress},

		{name: "denied address", deny: []string{"8.8.8.8"}, addr: "8.8.8.8", port: 443, want: RuleDeny},
		{name: "denied address, mapped", deny: []string{"8.8.8.8"}, addr: "::ffff:8.8.8.8", port: 443, want: RuleDeny},
		{name: "denied address, wrapped", deny: []string{"8.8.8.0/24"}, allow: []string{"64:ff9b::/96"}, addr: "64:ff9b::8.8.8.8", port: 443, want: RuleDeny},
		{name: "denied host", deny: []string{"bad.example"}, host: "BAD.example.", addr: "8.8.8.8", port: 443, want: RuleDeny},
		{name: "deny before allow", allow: []string{"10.0.0.0/8"}, deny: []string{"10.9.0.0/16"}, addr: "10.9.1.1", port: 443, want: RuleDeny},
		{name: "deny before allowed host", allow: []string{"receiver.internal"}, deny: []string{"10.9.0.0/16"}, host: "receiver.internal", addr: "10.9.1.1", port: 443, want: RuleDeny},
		{name: "deny the same host", allow: []string{"receiver.internal"}, deny: []string{"receiver.internal"}, host: "receiver.internal", addr: "8.8.8.8", port: 443, want: RuleDeny},
		{name: "deny the same address", allow: []string{"10.0.0.1"}, deny: []string{"10.0.0.1"}, addr: "10.0.0.1", port: 443, want: RuleDeny},

		{name: "metadata in an allowed range", allow: []string{"0.0.0.0/0"}, addr: "169.254.169.254", port: 80, want: RuleMetadata},
		{name: "metadata in carrier space", allow: []string{"100.64.0.0/10"}, addr: "100.100.100.200", port: 80, want: RuleMetadata},
		{name: "metadata in local IPv6", allow: []string{"fc00::/7"}, addr: "fd00:ec2::254", port: 80, want: RuleMetadata},
		{name: "metadata under an allowed host", allow: []string{"receiver.internal"}, host: "receiver.internal", addr: "169.254.169.254", port: 80, want: RuleMetadata},
		{name: "metadata by its address", allow: []string{"169.254.169.254"}, addr: "169.254.169.254", port: 80},
		{name: "metadata by its address as a range", allow: []string{"169.254.169.254/32"}, addr: "169.254.169.254", port: 80},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.host == "" {
				tc.host = "receiver.example"
			}
			p := mustPolicy(t, Options{Allow: tc.allow, Deny: tc.deny, Ports: tc.ports})
			mustDecide(t, p, tc.host, tc.addr, tc.port, tc.want)
		})
	}
}

func TestNew_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	for entry, reason := range map[string]string{
		"":                         "empty",
		"10.0.0.0/33":              "neither",
		"10.0.0.1/8":               "10.0.0.0/8 is the whole range",
		"10.0.0.0/8/8":             "neither",
		"10.0.0":                   "ends in a number",
		"010.0.0.1":                "ends in a number",
		"receiver.internal:9000":   "without a port",
		"https://receiver.example": "neither",
		"fe80::1%eth0":             "zone",
		"*.example":                "not a valid host name",
		"two words":                "not a valid host name",
		"a..b":                     "empty",
	} {
		for key, o := range map[string]Options{"egress.allow": {Allow: []string{"10.0.0.0/8", entry}}, "egress.deny": {Deny: []string{entry}}} {
			_, err := New(o)
			if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), key) {
				t.Errorf("%s %q: got %v, want %q", key, entry, err, reason)
			}
		}
	}
	for _, o := range []Options{{ConnectTimeout: -1}, {TLSTimeout: -1}, {HeaderTimeout: -1}, {Timeout: -1}, {MaxConnAge: -1}, {Ports: []uint16{443, 0}}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v passed", o)
		}
	}
}

func FuzzRefuse(f *testing.F) {
	for _, a := range []string{"127.0.0.1", "8.8.8.8", "::1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::", "2606:4700::5efe:7f00:1"} {
		b := netip.MustParseAddr(a).As16()
		f.Add(b[:])
	}
	r := mustPolicy(f, Options{}).rules.Load()
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok || r.refuse("receiver.example", netip.AddrPortFrom(a, 443)) != "" {
			return
		}
		// The standard library's predicates see less, but what they see must not pass.
		a = a.Unmap()
		if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() {
			t.Errorf("%s passed", a)
		}
		mustBePublic(t, "the policy", netip.AddrPortFrom(a, 443).String())
	})
}

func BenchmarkCheck(b *testing.B) {
	r := mustPolicy(b, Options{Allow: []string{"10.0.0.0/8", "receiver.internal"}}).rules.Load()
	for _, address := range []string{"8.8.8.8:443", "[2606:4700:4700::1111]:443", "10.0.0.1:9000"} {
		b.Run(address, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				network := "tcp4"
				if address[0] == '[' {
					network = "tcp6"
				}
				if err := r.check(b.Context(), "receiver.example", network, address); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
