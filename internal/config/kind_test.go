package config

import (
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseSize_TakesBinaryUnitsOnly(t *testing.T) {
	for text, want := range map[string]Size{
		"0B": 0, "1B": 1, "64KiB": 64 * KiB, "256MiB": 256 * MiB, "2 GiB": 2 * GiB, "3TiB": 3 * TiB, "8388607TiB": 8388607 * TiB,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "B", "1", "1kb", "1KB", "1.5MiB", "-1MiB", "+1B", "1_0B", "8388608TiB", "9223372036854775808B"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: got %d, want it refused", text, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("64KiB")
	f.Add("9223372036854775807B")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if err != nil {
			return
		}
		if again, err := ParseSize(n.String()); n < 0 || err != nil || again != n {
			t.Errorf("%q: %d, then %s, then %d, %v", text, n, n, again, err)
		}
	})
}

func TestDuration_NeedsAUnitAndGuessesWhatWasMeant(t *testing.T) {
	k := duration(0, math.MaxInt64)
	for text, want := range map[string]time.Duration{
		"250ms": 250 * time.Millisecond, "72h": 72 * time.Hour, "1h30m": 90 * time.Minute, "0s": 0, "1.5s": 1500 * time.Millisecond,
		"2d": 48 * time.Hour, "2w": 336 * time.Hour,
	} {
		if got, m := k.parse(text); m != nil || got != want {
			t.Errorf("%s: got %s, %+v", text, got, m)
		}
	}
	for text, near := range map[string]string{
		"0": "0s", "15": "15s", "1.5": "1.5s", "2 days": "48h", "2 weeks": "336h", "90 d": "2160h", "": "", "x": "", "-1": "", "1e300": "",
		"nan": "", "1y": "", "-1s": "",
	} {
		if got, m := k.parse(text); m == nil || m.nearest != near {
			t.Errorf("%q: got %s, %+v, want it refused with %q", text, got, m, near)
		}
	}
}

func TestTarget_IsAPrefixOrAHost(t *testing.T) {
	for text, want := range map[string]Target{
		"10.0.0.0/8":           {Prefix: netip.MustParsePrefix("10.0.0.0/8")},
		"192.0.2.7":            {Prefix: netip.MustParsePrefix("192.0.2.7/32")},
		"fd00::/8":             {Prefix: netip.MustParsePrefix("fd00::/8")},
		"::ffff:10.0.0.0/104":  {Prefix: netip.MustParsePrefix("10.0.0.0/8")},
		"::ffff:10.0.0.1":      {Prefix: netip.MustParsePrefix("10.0.0.1/32")},
		"Hooks.Example.COM.":   {Host: "hooks.example.com"},
		"localhost":            {Host: "localhost"},
		"my_service.namespace": {Host: "my_service.namespace"},
	} {
		if got, m := parseTarget(text); m != nil || got != want {
			t.Errorf("%s: got %+v, %+v", text, got, m)
		}
	}
	for text, near := range map[string]string{
		"10.0.0.1/8": "10.0.0.0/8", "https://h.example:8443/x": "h.example", "h.example:443": "h.example", "10.0.0.256": "",
		"10.0.0.0/33": "", "fe80::1%eth0": "fe80::1", "": "", ".": "", "a..b": "", "-a": "", "*.example.com": "",
		strings.Repeat("a.", 130): "",
	} {
		if got, m := parseTarget(text); m == nil || m.nearest != near {
			t.Errorf("%q: got %+v, %+v, want it refused with %q", text, got, m, near)
		}
	}
	targets := []Target{{Host: "h"}, {Prefix: netip.MustParsePrefix("::1/128")}}
	if got := Strings(targets); !slices.Equal(got, []string{"h", "::1/128"}) {
		t.Errorf("got %v", got)
	}
}

func TestListenAddress_IsHostAndPort(t *testing.T) {
	k := listenAddress()
	for _, text := range []string{"127.0.0.1:8000", ":8000", "[::1]:0", "localhost:1", "relay.internal:65535"} {
		if _, m := k.parse(text); m != nil {
			t.Errorf("%s: refused: %+v", text, m)
		}
	}
	for text, near := range map[string]string{
		"8000": "127.0.0.1:8000", "127.0.0.1": "127.0.0.1:8000", "http://127.0.0.1:80/": "127.0.0.1:80", "h:http": "", "h:-1": "",
		"h:080": "", "h:65536": "", "a b:80": "", "1.2.3.400:80": "", "": "",
	} {
		if _, m := k.parse(text); m == nil || m.nearest != near {
			t.Errorf("%q: got %+v, want it refused with %q", text, m, near)
		}
	}
}

func TestTableName_HasASchemaAndNoQuotes(t *testing.T) {
	k := tableName()
	for _, text := range []string{"outbox.events", "public.OutboxMessages", "_a.b$1", "größe.täble"} {
		if _, m := k.parse(text); m != nil {
			t.Errorf("%s: refused: %+v", text, m)
		}
	}
	for text, near := range map[string]string{
		"events": "public.events", `"a"."B"`: "a.B", "a.b.c": "", "a.": "", ".b": "", "a.b;drop": "", "": "",
		"a." + strings.Repeat("b", 64): "",
	} {
		if _, m := k.parse(text); m == nil || m.nearest != near {
			t.Errorf("%q: got %+v, want it refused with %q", text, m, near)
		}
	}
	if got := (Outbox{Table: "a.B"}).Identifier().Sanitize(); got != `"a"."B"` {
		t.Errorf("got %s", got)
	}
}

func TestConnString_NeverShowsThePassword(t *testing.T) {
	k := connString()
	for _, text := range []string{
		"postgres://u:hunter2@h/d", "postgresql://h1,h2/d?target_session_attrs=read-write", "host=h dbname=d",
		"host=/var/run/postgresql user=u", "postgres:///d?host=/tmp",
		"postgres://u:p%40ss@[::1]:5432/d", "postgres://u@h1:1,h2:2/d", "postgres://u:hunter#2@h/d",
	} {
		if _, m := k.parse(text); m != nil {
			t.Errorf("%s: refused: %+v", text, m)
		}
	}
	for _, text := range []string{
		"hunter2", "mysql://u:hunter2@h/d?a=b", "postgres://u:hunter2@h:x/d", "postgres://u:hunter2@h/d?sslmode=hunter2",
		"host=h password='hunter2", "host=h port=hunter2", "host=h connect_timeout=hunter2", "postgres://u:%zzhunter2@h/d",
		"postgres://u:hunter2@[::1/d", "host=h password=hunter2 sslrootcert=/no/such/hunter2", "service=hunter2 servicefile=/no/such",
		"postgres://u:x@hunter2@h/d", "postgres://u:x/@hunter2@h:5432/d", "postgres://u:x@hunter2#1@h/d", "postgres://u:x@hunter2/b@h:1/d",
	} {
		_, m := k.parse(text)
		if m == nil {
			t.Errorf("%s: accepted", text)
			continue
		}
		if m.got == "" || strings.Contains(m.got+m.expected+m.nearest, "hunter2") {
			t.Errorf("%s: got %+v", text, m)
		}
	}
}
