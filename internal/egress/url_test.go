package egress

import (
	"context"
	"errors"
	"hash/fnv"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCheckURL_Accepts(t *testing.T) {
	for raw, want := range map[string]string{
		"https://receiver.example":                     "",
		"https://receiver.example/":                    "",
		"https://receiver.example:443/hooks?a=b&c=%20": "",
		"https://receiver.example:80/":                 "",
		"HTTPS://Receiver.EXAMPLE/Hooks":               "https://receiver.example/Hooks",
		"https://receiver.example:/x":                  "https://receiver.example/x",
		"https://receiver.example:0443/x":              "https://receiver.example:443/x",
		"https://receiver.example./x":                  "",
		"https://bücher.example/ä":                     "https://xn--bcher-kva.example/%C3%A4",
		"https://xn--bcher-kva.example/":               "",
		"https://BÜCHER。example":                       "https://xn--bcher-kva.example",
		"https://8.8.8.8/":                             "",
		"https://[2606:4700:4700::1111]/":              "",
		"https://[2606:4700:4700:0:0:0:0:1111]:443/":   "https://[2606:4700:4700::1111]:443/",
		"https://[::ffff:8.8.8.8]/":                    "https://8.8.8.8/",
		"https://receiver.example/a%00b%0d%0a":         "",
		"https://receiver.example/@a:b":                "",
		"https://receiver.example?next=http://[::1]/":  "",
		"https://1password.example/":                   "",
		"https://a.0xyz/":                              "",
	} {
		if want == "" {
			want = raw
		}
		got, err := mustPolicy(t, Options{RequireHTTPS: true}).CheckURL(raw)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %v, %v; want %s", raw, got, err, want)
		}
	}
}

func TestCheckURL_LetsNamedTenantsGoWithoutTLS(t *testing.T) {
	p := mustPolicy(t, Options{RequireHTTPS: true, HTTPTenants: []string{"legacy", "old"}})
	for _, c := range []struct {
		tenant, url string
		want        bool
	}{
		{"legacy", "http://receiver.example/", true}, {"old", "http://receiver.example/", true}, {"legacy", "https://receiver.example/", true},
		{"acme", "http://receiver.example/", false}, {"", "http://receiver.example/", false}, {"Legacy", "http://receiver.example/", false},
		{"legacy", "http://10.0.0.1/", false}, {"legacy", "http://receiver.example:22/", false}, {"legacy", "ftp://receiver.example/", false},
	} {
		if _, err := p.CheckURLOf(c.tenant, c.url); (err == nil) != c.want {
			t.Errorf("%s of %q: %v", c.url, c.tenant, err)
		}
	}
	if err := p.Reload(Options{RequireHTTPS: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.CheckURLOf("legacy", "http://receiver.example/"); err == nil {
		t.Error("a tenant that is named no more goes on without TLS")
	}
}

func TestCheckURL_RefusesWithAReason(t *testing.T) {
	long := "https://receiver.example/" + strings.Repeat("x", 2048)
	for raw, reason := range map[string]string{
		"":   "is empty",
		long: "longer than 2048 bytes",
		"https://receiver.example/" + strings.Repeat("ä", 600): "longer than 2048 bytes when encoded",
		"receiver.example/hooks":                               "must begin with https://",
		"//receiver.example/":                                  "must begin with https://",
		"ftp://receiver.example/":                              "must begin with https://",
		"file:///etc/passwd":                                   "must begin with https://",
		"gopher://receiver.example":                            "must begin with https://",
		"javascript:alert(1)":                                  "must begin with https://",
		"http://receiver.example/":                             "https is required",
		"https:receiver.example":                               "has no host",
		"https:///hooks":                                       "has no host",
		"https://:443/":                                        "has no host",
		"https://user@receiver.example/":                       "user names and passwords",
		"https://user:pw@receiver.example/":                    "user names and passwords",
		"https://@receiver.example/":                           "user names and passwords",
		"https://receiver.example/#":                           "fragment",
		"https://receiver.example/#a":                          "fragment",
		`https://receiver.example\@evil/`:                      "backslash",
		" https://receiver.example/":                           "U+0020",
		"https://receiver.example/a b":                         "U+0020",
		"https://receiver.example/\n":                          "U+000A",
		"https://receiver.example/\x7f":                        "U+007F",
		"https://receiver.example/\u0085":                      "U+0085",
		"https://receiver.example/\u202ex":                     "U+202E",
		"https://receiver.example/\u2066x":                     "U+2066",
		"https://rec\u200beiver.example/":                      "U+200B",
		"https://rec\u00adeiver.example/":                      "U+00AD",
		"https://receiver.example/\u2028":                      "U+2028",
		"https://receiver.example/\xff":                        "UTF-8",
		"https://receiver.example/?q=ä":                        "percent-encoded",
		"https://receiver%2eexample/":                          "percent sign",
		"https://%31%32%37.0.0.1/":                             "percent sign",
		"https://[fe80::1%25eth0]/":                            "percent sign",
		"https://[fe80::1%eth0]/":                              "percent sign",
		"https://receiver.example:0/":                          "port",
		"https://receiver.example:65536/":                      "port",
		"https://receiver.example:https/":                      "parsed",
		"https://[::1/":                                        "parsed",
		"https://[127.0.0.1]/":                                 "",
		"https://a..example/":                                  "empty",
		"https://.example/":                                    "",
		"https://./":                                           "empty",
		"https://under_score.example/":                         "underscore",
		"https://" + strings.Repeat("a", 64) + ".example/":     "63 characters",
		"https://" + strings.Repeat("a.", 127) + "example/":    "253 characters",
		"https://2130706433/":                                  "ends in a number",
		"https://0x7f000001/":                                  "ends in a number",
		"https://0X7F.1/":                                      "ends in a number",
		"https://a.0x/":                                        "ends in a number",
		"https://0177.0.0.1/":                                  "ends in a number",
		"https://127.1/":                                       "ends in a number",
		"https://8.8.8.8./":                                    "ends in a number",
		"https://8.8.8.08/":                                    "ends in a number",
		"https://８.8.8.8.8/":                                   "ends in a number",
		"https://example.123/":                                 "ends in a number",
	} {
		got, err := mustPolicy(t, Options{RequireHTTPS: true}).CheckURL(raw)
		if !errors.Is(err, ErrURL) || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: got %v, %v; want %q", raw, got, err, reason)
		}
		if err != nil && (strings.Contains(err.Error(), "pw") || strings.Contains(err.Error(), "receiver")) {
			t.Errorf("the error repeats the URL: %v", err)
		}
	}
}

func TestCheckURL_AppliesThePolicyToWhatItCanSee(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    Options
		raw  string
		want Rule
	}{
		{"loopback", Options{}, "https://127.0.0.1/", RuleAddress},
		{"enclosed digits", Options{}, "https://①②⑦.⓪.⓪.①/", RuleAddress},
		{"ideographic dots", Options{}, "https://127。0。0。1/", RuleAddress},
		{"mapped", Options{}, "https://[::ffff:7f00:1]/", RuleAddress},
		{"NAT64", Options{}, "https://[64:ff9b::7f00:1]/", RuleAddress},
		{"private", Options{}, "http://192.168.1.1/", RuleAddress},
		{"metadata", Options{}, "http://169.254.169.254/latest", RuleMetadata},
		{"metadata, mapped", Options{}, "http://[::ffff:169.254.169.254]/latest", RuleMetadata},
		{"localhost", Options{}, "http://localhost/", RuleAddress},
		{"localhost with a final dot", Options{}, "http://LocalHost./", RuleAddress},
		{"below localhost", Options{}, "http://a.localhost/", RuleAddress},
		{"other port", Options{}, "https://receiver.example:8443/", RulePort},
		{"other port of an address", Options{}, "https://8.8.8.8:8443/", RulePort},
		{"denied host", Options{Deny: []string{"receiver.example"}}, "https://RECEIVER.example./", RuleDeny},
		{"denied address", Options{Deny: []string{"8.8.8.0/24"}}, "https://8.8.8.8/", RuleDeny},
		{"denied and allowed", Options{Deny: []string{"10.0.0.1"}, Allow: []string{"10.0.0.0/8"}}, "https://10.0.0.1/", RuleDeny},

		{"http where it is not forbidden", Options{}, "http://receiver.example/", ""},
		{"listed port", Options{Ports: []uint16{8443}}, "https://receiver.example:8443/", ""},
		{"default port not listed", Options{Ports: []uint16{8443}}, "https://receiver.example/", RulePort},
		{"allowed loopback on any port", Options{Allow: []string{"127.0.0.1"}}, "http://127.0.0.1:9000/", ""},
		{"allowed loopback by name", Options{Allow: []string{"127.0.0.0/8"}}, "http://localhost:9000/", ""},
		{"allowed loopback in IPv6 by name", Options{Allow: []string{"::1"}}, "http://localhost:9000/", ""},
		{"allowed name of loopback", Options{Allow: []string{"localhost"}}, "http://localhost:9000/", ""},
		{"allowed host on any port", Options{Allow: []string{"receiver.internal"}}, "http://receiver.internal:9000/", ""},
		{"name that may lead to an allowed address", Options{Allow: []string{"10.0.0.0/8"}}, "http://receiver.internal:9000/", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := mustPolicy(t, tc.o).CheckURL(tc.raw)
			var blocked *BlockedError
			switch {
			case tc.want == "" && err == nil:
			case !errors.Is(err, ErrURL) || !errors.As(err, &blocked) || blocked.Rule != tc.want:
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	t.Run("allowed hosts need https too", func(t *testing.T) {
		p := mustPolicy(t, Options{RequireHTTPS: true, Allow: []string{"127.0.0.1", "receiver.internal"}})
		for _, raw := range []string{"http://127.0.0.1:9000/", "http://receiver.internal/"} {
			if _, err := p.CheckURL(raw); !errors.Is(err, ErrURL) {
				t.Errorf("%s: got %v", raw, err)
			}
		}
	})
}

// special are the ranges that no dial may reach, written down from the registries of IANA by hand: what the policy
// itself goes by comes from a library.
var special = func() (list []netip.Prefix) {
	for _, text := range strings.Fields(`0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
		192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
		168.63.129.16/32 2001::/23 2001:db8::/32 2002::/16 3fff::/20`) {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}()

// mustBePublic fails when an address is one of those, or wraps one as ISATAP does.
func mustBePublic(t *testing.T, what, address string) {
	t.Helper()
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Errorf("%s dials %q", what, address)
		return
	}
	a := target.Addr()
	if a.Zone() != "" { // which no prefix contains
		t.Errorf("%s dials %s", what, a)
	}
	a = a.Unmap()
	forms := []netip.Addr{a}
	if b := a.As16(); a.Is6() && b[8]&0xfc == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		forms = append(forms, netip.AddrFrom4([4]byte(b[12:])))
	}
	for _, form := range forms {
		if within(special, form) || form.Is6() && !netip.MustParsePrefix("2000::/3").Contains(form) {
			t.Errorf("%s dials %s", what, a)
		}
	}
	if p := target.Port(); p != 80 && p != 443 {
		t.Errorf("%s dials port %d", what, p)
	}
}

// fuzzAnswer makes an address of any kind from a name: public, special, or wrapping something.
func fuzzAnswer(name string) []netip.Addr {
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.ToLower(name)))
	n := h.Sum64()
	addrs := always("93.184.216.34", "2606:4700:4700::1111")("")
	if n%4 != 0 {
		addrs = append(addrs, corpus[n/4%uint64(len(corpus))].address())
	}
	if n%3 == 0 {
		addrs = addrs[len(addrs)-1:]
	}
	return addrs
}

// FuzzCheckURL asks of every text: whatever CheckURL says of it, and whatever its host resolves to, net/http dials no
// address that is not public, directly or through a proxy. And what CheckURL accepts leads net/http to the very host
// that was checked.
func FuzzCheckURL(f *testing.F) {
	for _, s := range corpus {
		f.Add("http://" + s.host + "/")
		f.Add("https://" + s.host + ":443/a?b=c")
	}
	for _, raw := range []string{
		"", "https://", "https://receiver.example/ä?x=%zz", "https://bücher.example:0443", "http:/\\127.0.0.1",
		"https://receiver.example:80:443/", "https://[::1]:80@receiver.example", "https://receiver.example/../..//",
		"https://a//b/./%2e%2e/;x", "https://receiver.example?", "https://[::ffff:8.8.8.8]:1", "http:////127.0.0.1",
	} {
		f.Add(raw)
	}
	p := mustPolicy(f, Options{Resolver: newResolver(f, fuzzAnswer), ConnectTimeout: 10 * time.Second})
	r := p.rules.Load()
	errStop := errors.New("nothing is dialled here")
	f.Fuzz(func(t *testing.T, raw string) {
		u, refused := p.CheckURL(raw)
		texts := []string{raw}
		if refused != nil {
			if u != nil || !errors.Is(refused, ErrURL) {
				t.Fatalf("got %v, %v", u, refused)
			}
		} else {
			texts = append(texts, u.String())
			again, err := p.CheckURL(u.String())
			if err != nil || again.String() != u.String() {
				t.Fatalf("%q became %q became %v, %v", raw, u, again, err)
			}
			if u.User != nil || u.Fragment != "" || len(u.String()) > maxURL || (u.Scheme != "https" && u.Scheme != "http") {
				t.Fatalf("%q became %q", raw, u)
			}
		}
		for _, text := range texts {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, text, strings.NewReader("x"))
			if err != nil {
				if refused == nil {
					t.Fatalf("%q: %v", text, err)
				}
				continue
			}
			asked := ""
			transport := p.Transport(TransportOptions{})
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				asked = address
				// As DialContext dials, up to the first packet.
				d := r.dialer(splitHost(address))
				decide := d.ControlContext
				d.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
					if err := decide(ctx, network, address, c); err != nil {
						return err
					}
					mustBePublic(t, strconv.Quote(text), address)
					return errStop
				}
				if c, err := d.DialContext(ctx, network, address); err == nil {
					_ = c.Close()
					t.Errorf("%q: connected", text)
				}
				// And as it asks a proxy.
				targets, err := r.resolve(ctx, network, address)
				if err != nil && len(targets) > 0 {
					t.Errorf("%q: %v and %v", text, targets, err)
				}
				for _, target := range targets {
					mustBePublic(t, strconv.Quote(text)+" through a proxy", target.String())
				}
				return nil, errStop
			}
			_, err = transport.RoundTrip(req)
			if refused != nil {
				continue
			}
			if !errors.Is(err, errStop) {
				t.Fatalf("%q: %v", text, err)
			}
			host, _, err := net.SplitHostPort(asked)
			if err != nil {
				t.Fatal(err)
			}
			if same, err := canonicalHost(host); err != nil || same != u.Hostname() {
				t.Fatalf("%q was checked as %s and dials %s", text, u.Hostname(), host)
			}
			if a, err := netip.ParseAddr(host); err == nil {
				mustBePublic(t, "creation of "+strconv.Quote(text), netip.AddrPortFrom(a, 443).String())
			}
			if strings.TrimSuffix(host, ".") == "localhost" {
				t.Fatalf("%q dials %s", text, host)
			}
		}
	})
}

func BenchmarkCheckURL(b *testing.B) {
	p := mustPolicy(b, Options{RequireHTTPS: true})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.CheckURL("https://receiver.example/hooks/orders?tenant=42"); err != nil {
			b.Fatal(err)
		}
	}
}

// Compose and Kubernetes give services names with underscores.
func TestCheckURL_TakesUnderscoresOfHostsThatAllowNames(t *testing.T) {
	t.Parallel()
	p, err := New(Options{Allow: []string{"my_service", "API_gateway.default.svc", "10.0.0.0/8"}})
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{"http://my_service:9000": "http://my_service:9000", "http://My_Service:9000/x": "http://my_service:9000/x",
		"https://api_gateway.default.svc./": "https://api_gateway.default.svc./"} {
		u, err := p.CheckURL(raw)
		if err != nil || u.String() != want {
			t.Errorf("%s: %v, %v", raw, u, err)
		}
		if rule := p.rules.Load().refuse(u.Hostname(), netip.MustParseAddrPort("192.168.7.7:9000")); rule != "" {
			t.Errorf("%s is not dialed: rule %s", raw, rule)
		}
	}
	for _, raw := range []string{"http://other_service/", "https://my_service.example/", "https://a_b.example.com/"} {
		var service *UnderscoreError
		if _, err := p.CheckURL(raw); !errors.As(err, &service) || strings.Contains(err.Error(), "egress.") {
			t.Errorf("%s: %v", raw, err)
		}
	}
	for _, raw := range []string{"http://_/", "http://-my_service/", "http://my__service-/", "http://my_service.7/"} {
		if u, err := p.CheckURL(raw); err == nil {
			t.Errorf("%s is taken as %s", raw, u)
		}
	}
}
