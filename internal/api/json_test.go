package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestUnmarshal_TakesOneValueWithinTheBounds(t *testing.T) {
	t.Parallel()
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	for text, ok := range map[string]bool{
		`{}`: true, `[]`: true, `"x"`: true, `{"a":{"b":[1,2,{"c":null}]},"d":1}`: true, ` {"a":1} `: true,
		`{"a":{"x":1},"b":{"x":1}}`: true, nested(maxDepth): true, list(maxItems): true, `{"a":1,"A":2}`: true,
		``: false, ` `: false, `{`: false, `{"a"`: false, `{"a":}`: false, `{"a":1,}`: false, `[1,]`: false, `{"a":1}{`: false,
		`{"a":1} {"a":1}`: false, `{"a":1,"a":2}`: false, `{"a":{"x":1,"x":1}}`: false, "{\"a\":\"\xff\"}": false, `{1:2}`: false, `nul`: false,
		nested(maxDepth + 1): false, list(maxItems + 1): false, `{"a":1}]`: false, `]`: false, `{"a":1 "b":2}`: false,
	} {
		var v any
		if err := unmarshal([]byte(text), &v); (err == nil) != ok {
			t.Errorf("%.40s: %v", text, err)
		}
	}
}

// What the check lets through, the decoder takes, and what the decoder does not take, it does not let through.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{"url":"https://h.example.com","events":["*"]}`, `[[[]]]`, `{"a":1,"a":2}`, `"\ud800"`, `1e999`, `{"a":{"b":[null,true]}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		err := checkJSON(data)
		if err == nil && !json.Valid(data) {
			t.Errorf("%q is let through and is not JSON", data)
		}
		if err == nil {
			// Numbers that no float holds are the decoder's to refuse.
			_ = unmarshal(data, &v)
		}
	})
}

func TestCursor_IsGoodForItsScopeAlone(t *testing.T) {
	t.Parallel()
	key, last := []byte("key"), uuid.New()
	c := sign(key, "acme\x00deliveries", last)
	if got, err := verify(key, "acme\x00deliveries", c); err != nil || got != last {
		t.Errorf("%v, %v", got, err)
	}
	for name, f := range map[string]func() (uuid.UUID, error){
		"scope": func() (uuid.UUID, error) { return verify(key, "globex\x00deliveries", c) },
		"key":   func() (uuid.UUID, error) { return verify([]byte("kez"), "acme\x00deliveries", c) },
		"text":  func() (uuid.UUID, error) { return verify(key, "acme\x00deliveries", c+"=") },
	} {
		if _, err := f(); err == nil {
			t.Errorf("another %s is taken", name)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := []byte("key")
	f.Add(sign(key, "scope", uuid.Max))
	f.Add("")
	f.Add("AAAA")
	f.Fuzz(func(t *testing.T, cursor string) {
		if last, err := verify(key, "scope", cursor); err == nil && sign(key, "scope", last) != cursor {
			t.Errorf("%q is taken for the place %s", cursor, last)
		}
	})
}

// The server gives addresses only, but what it gives must never stop a call.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:1", "x", "", "[::ffff:1.2.3.4]:9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, remote string) {
		got := address(remote)
		at, err := netip.ParseAddrPort(remote)
		if err != nil {
			return
		}
		// The same caller, whatever the port and the spelling.
		if again := address(netip.AddrPortFrom(at.Addr(), 1).String()); again != got {
			t.Errorf("%q: %s, with another port %s", remote, got, again)
		}
	})
}

func TestAddress_CountsAnIPv6NetworkAsOneCaller(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{"192.0.2.7:1234": "192.0.2.7", "[::ffff:192.0.2.7]:1": "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64", "[2001:db8:1:2::9]:80": "2001:db8:1:2::/64", "[fe80::1%eth0]:80": "fe80::/64"} {
		if got := address(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
	if s := fmt.Sprint(address("garbage")); s != "garbage" {
		t.Error(s)
	}
}
