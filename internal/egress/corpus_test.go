package egress

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// spelling is a host that means an address to some resolver, parser or gateway, and one that no tenant may reach.
type spelling struct {
	host  string
	means string // where it leads; "": the address that it is, or 127.0.0.1
	// late says that nothing is to be seen at creation: only the dial knows where the name leads.
	late bool
}

func (s spelling) address() netip.Addr {
	if s.means != "" {
		return netip.MustParseAddr(s.means)
	}
	if a, err := netip.ParseAddr(strings.Trim(s.host, "[]")); err == nil {
		return a
	}
	return netip.MustParseAddr("127.0.0.1")
}

var corpus = []spelling{
	// This machine, as it is usually written.
	{host: "127.0.0.1"}, {host: "127.0.0.2"}, {host: "127.1.2.3"}, {host: "127.255.255.254"}, {host: "0.0.0.0"}, {host: "0.0.0.1"},
	{host: "[::1]"}, {host: "[::]"}, {host: "[0:0:0:0:0:0:0:1]"}, {host: "[0000:0000:0000:0000:0000:0000:0000:0001]"}, {host: "[::0.0.0.1]"},
	{host: "localhost"}, {host: "LOCALHOST"}, {host: "LocalHost."}, {host: "localhost."}, {host: "sub.localhost"}, {host: "a.b.localhost."},
	{host: "localhost.localdomain", late: true}, {host: "localhost6.localdomain6", means: "::1", late: true},
	{host: "ip6-localhost", means: "::1", late: true}, {host: "ip6-loopback", means: "::1", late: true},

	// Private and special ranges.
	{host: "10.0.0.1"}, {host: "172.16.0.1"}, {host: "172.31.255.255"}, {host: "192.168.0.1"}, {host: "100.64.0.1"}, {host: "192.0.0.1"},
	{host: "192.0.0.192"}, {host: "192.0.2.1"}, {host: "192.88.99.1"}, {host: "198.18.0.1"}, {host: "198.51.100.1"}, {host: "203.0.113.1"},
	{host: "224.0.0.1"}, {host: "239.255.255.250"}, {host: "240.0.0.1"}, {host: "255.255.255.255"}, {host: "[fc00::1]"}, {host: "[fd12:3456:789a::1]"},
	{host: "[fe80::1]"}, {host: "[febf::1]"}, {host: "[fec0::1]"}, {host: "[ff01::1]"}, {host: "[ff02::1]"}, {host: "[100::1]"}, {host: "[2001:db8::1]"},
	{host: "[3fff::1]"}, {host: "[5f00::1]"}, {host: "[2001:2::1]"}, {host: "[2001:20::1]"}, {host: "[4000::1]"},

	// Metadata services, by address and by name.
	{host: "169.254.169.254"}, {host: "169.254.170.2"}, {host: "169.254.0.1"}, {host: "168.63.129.16"}, {host: "100.100.100.200"},
	{host: "[fd00:ec2::254]"}, {host: "[fd00:ec2::23]"}, {host: "[fd20:ce::254]"}, {host: "[::ffff:169.254.169.254]"}, {host: "[::ffff:a9fe:a9fe]"},
	{host: "[::169.254.169.254]"}, {host: "[64:ff9b::a9fe:a9fe]"}, {host: "[64:ff9b:1::a9fe:a9fe]"}, {host: "[2002:a9fe:a9fe::1]"},
	{host: "2852039166", means: "169.254.169.254"}, {host: "0xa9fea9fe", means: "169.254.169.254"}, {host: "0251.0376.0251.0376", means: "169.254.169.254"},
	{host: "169.16689662", means: "169.254.169.254"}, {host: "169.254.43518", means: "169.254.169.254"},
	{host: "metadata.google.internal", means: "169.254.169.254", late: true}, {host: "metadata.google.internal.", means: "169.254.169.254", late: true},
	{host: "METADATA", means: "169.254.169.254", late: true}, {host: "instance-data.ec2.internal", means: "169.254.169.254", late: true},
	{host: "metadata.azure.internal", means: "168.63.129.16", late: true}, {host: "169.254.169.254.nip.example", means: "169.254.169.254", late: true},
	{host: "169。254。169。254", means: "169.254.169.254"}, {host: "①⑥⑨.②⑤④.①⑥⑨.②⑤④", means: "169.254.169.254"},

	// IPv4 inside of IPv6: mapped, compatible, translated, NAT64 by both prefixes and every length, 6to4, Teredo, ISATAP.
	{host: "[::ffff:127.0.0.1]"}, {host: "[::ffff:7f00:1]"}, {host: "[::FFFF:7F00:1]"}, {host: "[0:0:0:0:0:ffff:127.0.0.1]"}, {host: "[::ffff:0.0.0.0]"},
	{host: "[::ffff:10.0.0.1]"}, {host: "[::127.0.0.1]"}, {host: "[::7f00:1]"}, {host: "[::ffff:0:127.0.0.1]"}, {host: "[::ffff:0:7f00:1]"},
	{host: "[64:ff9b::127.0.0.1]"}, {host: "[64:ff9b::7f00:1]"}, {host: "[64:ff9b::10.0.0.1]"}, {host: "[64:ff9b:1::127.0.0.1]"},
	{host: "[64:ff9b:1:7f00:0:100::]"}, {host: "[64:ff9b:1:7f:0:1::]"}, {host: "[64:ff9b:1:0:7f:0:100:0]"},
	{host: "[2002:7f00:1::]"}, {host: "[2002:7f00:1::7f00:1]"}, {host: "[2002:a00:1::1]"},
	{host: "[2001::7f00:1]"}, {host: "[2001:0:7f00:1::80ff:fffe]"}, {host: "[2001:0:4136:e378:8000:63bf:80ff:fffe]"},
	{host: "[fe80::5efe:127.0.0.1]"}, {host: "[2606:4700::5efe:127.0.0.1]"}, {host: "[2606:4700::200:5efe:127.0.0.1]"}, {host: "[2606:4700::200:5efe:a00:1]"},

	// Zones.
	{host: "[::1%25lo]"}, {host: "[fe80::1%25lo]"}, {host: "[fe80::1%25eth0]"}, {host: "[fe80::1%eth0]"}, {host: "[ff02::1%25lo]"},
	{host: "[::ffff:127.0.0.1%25lo]"}, {host: "[2606:4700::1111%25lo]", means: "::1"},

	// Decimal, octal, hexadecimal, short, with too many zeros, with a final dot.
	{host: "2130706433"}, {host: "017700000001"}, {host: "0x7f000001"}, {host: "0X7F000001"}, {host: "0x7F.0x0.0x0.0x1"}, {host: "0177.0.0.1"},
	{host: "0177.0.0.01"}, {host: "0x7f.1"}, {host: "0x7f.0.0.1"}, {host: "127.1"}, {host: "127.0.1"}, {host: "127.0.0.1."}, {host: "127.0.0.01"},
	{host: "127.000.000.001"}, {host: "0127.0.0.1"}, {host: "127.0.0.0x1"}, {host: "0"}, {host: "00"}, {host: "0x0"}, {host: "0.0"}, {host: "4294967295"},
	{host: "2130706433."}, {host: "00000000000000000000177.0.0.1"}, {host: "127.0.0.257"}, {host: "383.0.0.1"}, {host: "6425673729"},
	{host: "127.0.0.1.2"}, {host: "[::1]."}, {host: "[7f00:1]"}, {host: "[127.0.0.1]"}, {host: "[0x7f.1]"}, {host: "[::127.1]"},

	// Characters that IDNA maps to digits, dots and letters, or drops.
	{host: "①②⑦.⓪.⓪.①"}, {host: "127。0。0。1"}, {host: "127．0．0．1"}, {host: "127｡0｡0｡1"}, {host: "１２７.０.０.１"}, {host: "𝟏𝟐𝟕.𝟎.𝟎.𝟏"},
	{host: "𝟭𝟮𝟳．𝟬．𝟬．𝟭"}, {host: "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ"}, {host: "ｌｏｃａｌｈｏｓｔ"}, {host: "localhoſt"}, {host: "127.0.0.1\u00ad"}, {host: "①②⑦.1"},
	{host: "loc\u200balhost"}, {host: "localhost\u3002"}, {host: "０ｘ７ｆ.１"}, {host: "⁰.⁰.⁰.⁰"}, {host: "\u202e1.0.0.721"}, {host: "１２７。１"},

	// Names that lead here.
	{host: "1.0.0.127.in-addr.arpa", late: true}, {host: "127.0.0.1.nip.example", late: true}, {host: "7f000001.nip.example", late: true},
	{host: "rebind.example", late: true}, {host: "a.b.c.d.example", late: true}, {host: "a.b.c.d.example.", late: true},
	{host: "xn--bcher-kva.example", late: true}, {host: "bücher.example", late: true}, {host: "BÜCHER.example", late: true},
	{host: "1.example", late: true}, {host: "0x7f.example", late: true}, {host: "intranet", late: true}, {host: "under_score.example"},
	{host: "-a.example"}, {host: "*.example"}, {host: "xn--a.example"},

	// Escapes and oddities of URLs.
	{host: "%31%32%37.0.0.1"}, {host: "127.0.0.1%00.example"}, {host: "127.0.0.1%2e"}, {host: "127%2e0%2e0%2e1"}, {host: "%6c%6f%63alhost"},
	{host: "%E2%91%A0②⑦.⓪.⓪.①"}, {host: "user@127.0.0.1"}, {host: "user:secret@127.0.0.1"}, {host: "8.8.8.8@127.0.0.1"}, {host: "8.8.8.8:80@127.0.0.1"},
	{host: "127.0.0.1@"}, {host: "8.8.8.8%40127.0.0.1"}, {host: `8.8.8.8\@127.0.0.1`}, {host: `127.0.0.1\`}, {host: `\\127.0.0.1`}, {host: "/127.0.0.1"},
	{host: "127.0.0.1\t"}, {host: "127.0.0.1\n"}, {host: " 127.0.0.1"}, {host: "127.0.0.1\x00"}, {host: "127.0.0.1\x7f"}, {host: "127.0.0.1\xff"},
	{host: "127.0.0.1,8.8.8.8"}, {host: "127.0.0.1;8.8.8.8"}, {host: "[::1"}, {host: "::1]"}, {host: "::1"}, {host: ""}, {host: "127..0.0.1"}, {host: ".127.0.0.1"},
	{host: "[[::1]]"}, {host: "[::1]127.0.0.1"}, {host: "127.0.0.1:80"}, {host: "[::1]:80"}, {host: "10.0.0.1#@127.0.0.1"}, {host: "10.0.0.1?@127.0.0.1"},
}

// The name server answers n.name.example with the address of the n-th spelling, n.rebind.example with a public one
// until it has been asked, and every other name with this machine.
func TestPolicy_NoSpellingReachesThisMachine(t *testing.T) {
	for _, proxied := range []bool{false, true} {
		name := "directly"
		if proxied {
			name = "through a proxy"
		}
		t.Run(name, func(t *testing.T) { testNoSpellingReaches(t, proxied) })
	}
}

const public = "93.184.216.34"

func testNoSpellingReaches(t *testing.T, proxied bool) {
	trap := newTrap(t, "")
	var mu sync.Mutex
	asked := make(map[string]bool)
	resolver := newResolver(t, func(name string) []netip.Addr {
		mu.Lock()
		defer mu.Unlock()
		var n int
		switch first, rest, _ := strings.Cut(name, "."); {
		case rest == "name.example.", rest == "rebind.example." && asked[name]:
			_, _ = fmt.Sscan(first, &n)
			return []netip.Addr{corpus[n].address()}
		case rest == "rebind.example.":
			return []netip.Addr{netip.MustParseAddr(public)}
		}
		for _, s := range corpus {
			if strings.EqualFold(strings.TrimSuffix(s.host, ".")+".", name) {
				return []netip.Addr{s.address()}
			}
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
	})
	const good = "127.0.0.77"
	target := fmt.Sprintf(":%d/", trap.port)
	redirects := serve(t, good, 0, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscanf(r.URL.Path, "/%d", &n)
		w.Header().Set("Location", "http://"+corpus[n].host+target)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})})
	o := Options{
		Allow:    []string{good},
		Ports:    []uint16{80, 443, trap.port}, // so that only the address can be the reason
		Resolver: resolver,
	}
	var proxy *connectProxy
	if proxied {
		proxy = newConnectProxy(t)
		o.Proxy = "http://" + proxy.addr
	}
	p := mustPolicy(t, o)
	client := p.Client(TransportOptions{})
	defer client.CloseIdleConnections()
	followed := *client
	followed.CheckRedirect = nil // as if somebody had changed it

	if len(corpus) < 200 {
		t.Fatalf("only %d spellings", len(corpus))
	}
	atCreation, atDial := 0, 0
	mustFail := func(t *testing.T, way string, blocked bool, resp *http.Response, err error) {
		t.Helper()
		var refused *BlockedError
		switch {
		case err == nil:
			t.Errorf("%s: status %d", way, resp.StatusCode)
		case errors.As(err, &refused):
			atDial++
		case blocked:
			t.Errorf("%s: %v, want that the dial is refused", way, err)
		}
	}
	for i, s := range corpus {
		t.Run(s.host, func(t *testing.T) {
			// At creation, and as a URL that some other hand has stored.
			_, err := p.CheckURL("http://" + s.host + target)
			if (err == nil) != s.late {
				t.Errorf("creation: %v, want that it is left to the dial: %t", err, s.late)
			}
			if err != nil {
				atCreation++
			}
			resp, err := get(t, client, "http://"+s.host+target)
			mustFail(t, "literal", s.late, resp, err)
			// As the dialer understands it.
			if c, err := p.DialContext(t.Context(), "tcp", s.host+strings.TrimSuffix(target, "/")); err == nil {
				_ = c.Close()
				t.Error("dialled")
			}
			// By a name, at once and the second time.
			url := fmt.Sprintf("http://%d.name.example%s", i, target)
			if _, err := p.CheckURL(url); err != nil {
				t.Errorf("name: %v", err)
			}
			resp, err = get(t, client, url)
			mustFail(t, "name", true, resp, err)
			name := fmt.Sprintf("%d.rebind.example", i)
			if addrs, err := resolver.LookupNetIP(t.Context(), "ip4", name); err != nil || addrs[0].String() != public {
				t.Errorf("the first answer is %v, %v", addrs, err)
			}
			mu.Lock()
			asked[name+"."] = true
			mu.Unlock()
			resp, err = get(t, client, "http://"+name+target)
			mustFail(t, "rebinding", true, resp, err)
			// By a redirect.
			from := fmt.Sprintf("http://%s/%d", redirects, i)
			if resp, err := get(t, client, from); err == nil && resp.StatusCode != http.StatusTemporaryRedirect {
				t.Errorf("redirect: status %d, want the redirect itself", resp.StatusCode)
			} else if err != nil && s.late {
				t.Errorf("redirect: %v", err) // those of the others cannot be parsed
			}
			resp, err = get(t, &followed, from)
			mustFail(t, "redirect", s.late, resp, err)
		})
	}
	trap.mustBeEmpty(t)
	if proxied {
		proxy.mustHaveBeenAskedFor(t, redirects)
	}
	t.Logf("%d spellings in 4 ways: %d refused at creation, %d left to the dial; %d dials refused", len(corpus), atCreation, len(corpus)-atCreation, atDial)
}
