package config

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/postgres"
)

// longestName is NAMEDATALEN - 1 of PostgreSQL, in bytes.
const longestName = 63

const (
	slotPattern  = `^[a-z0-9_]{1,63}$`
	namePattern  = `^[\p{L}_][\p{L}\p{N}_$]*$`
	tablePattern = `^[\p{L}_][\p{L}\p{N}_$]*\.[\p{L}_][\p{L}\p{N}_$]*$`
)

var (
	slotRegexp = regexp.MustCompile(slotPattern)
	nameRegexp = regexp.MustCompile(namePattern)
	notInSlot  = regexp.MustCompile(`[^a-z0-9_]+`)
	hostRegexp = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)
)

// slotName is the name of a replication slot, by the rule of PostgreSQL.
func slotName() kind[string] {
	return words("a slot name: 1 to 63 of a-z, 0-9 and _", map[string]any{"pattern": slotPattern},
		func(s string) *mismatch {
			if slotRegexp.MatchString(s) {
				return nil
			}
			near := notInSlot.ReplaceAllString(strings.ToLower(s), "_")
			if !slotRegexp.MatchString(near) {
				near = ""
			}
			return &mismatch{nearest: near}
		})
}

func isName(s string) bool { return len(s) <= longestName && nameRegexp.MatchString(s) }

// identifier is the name of a publication or column, as it stands in the catalog: it is always quoted
// when it is used, so upper case stays upper case.
func identifier(of string) kind[string] {
	expected := of + ": letters, digits, _ and $, no digit first, at most 63 bytes"
	return words(expected, map[string]any{"pattern": namePattern}, func(s string) *mismatch {
		if isName(s) {
			return nil
		}
		if plain := strings.Trim(s, `"`); isName(plain) {
			return &mismatch{nearest: plain}
		}
		return &mismatch{}
	})
}

// tableName is the name of a table with its schema, each as identifier reads it.
func tableName() kind[string] {
	expected := "a table with its schema, such as outbox.events, spelled as in the database and without quotes"
	return words(expected, map[string]any{"pattern": tablePattern}, func(s string) *mismatch {
		schema, table, ok := strings.Cut(s, ".")
		if ok && isName(schema) && isName(table) {
			return nil
		}
		schema, table = strings.Trim(schema, `"`), strings.Trim(table, `"`)
		switch {
		case ok && isName(schema) && isName(table):
			return &mismatch{nearest: schema + "." + table}
		case !ok && isName(s):
			return &mismatch{nearest: "public." + s}
		}
		return &mismatch{}
	})
}

// listenAddress is host:port, host being empty, an address or a name. Port 0 lets the system choose.
func listenAddress() kind[string] {
	expected := "host:port, such as 127.0.0.1:8000, or :8000 for all interfaces"
	return words(expected, map[string]any{"pattern": `:[0-9]{1,5}$`}, func(s string) *mismatch {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return &mismatch{nearest: nearestListen(s)}
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return &mismatch{expected: expected + "; a port is a number from 0 to 65535"}
		}
		if host == "" || isHost(host) {
			return nil
		}
		if _, err := netip.ParseAddr(host); err != nil {
			return &mismatch{}
		}
		return nil
	})
}

// nearestListen guesses what was meant by a port alone, an address alone and a URL.
func nearestListen(s string) string {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil && n > 0 {
		return "127.0.0.1:" + s
	}
	if u, err := url.Parse(s); err == nil && u.Host != "" && u.Port() != "" {
		return u.Host
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(s, "8000")
	}
	return ""
}

// isHost says whether s is a host name and not a misspelled IPv4 address.
func isHost(s string) bool {
	if len(s) > 253 || !hostRegexp.MatchString(s) {
		return false
	}
	last := s[strings.LastIndexByte(s, '.')+1:]
	return strings.Trim(last, "0123456789") != ""
}

// target is a CIDR, an address or a host name.
func target() kind[Target] {
	return kind[Target]{
		expected: "a CIDR (10.0.0.0/8), an address or a host name",
		parse:    parseTarget,
		text:     Target.String,
		plain:    func(t Target) any { return t.String() },
		schema:   map[string]any{"type": "string", "minLength": 1},
	}
}

// network is a target that is no host name.
func network() kind[Target] {
	k := target()
	k.expected = "an address or a CIDR, such as 10.0.0.0/8"
	parse := k.parse
	k.parse = func(s string) (Target, *mismatch) {
		t, m := parse(s)
		if m == nil && t.Host != "" {
			return Target{}, &mismatch{}
		}
		return t, m
	}
	return k
}

func parseTarget(s string) (Target, *mismatch) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return Target{}, &mismatch{nearest: addr.WithZone("").String()}
		}
		addr = addr.Unmap()
		return Target{Prefix: netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	if prefix, err := netip.ParsePrefix(s); err == nil {
		if prefix != prefix.Masked() {
			return Target{}, &mismatch{
				expected: "a CIDR without bits behind the prefix",
				nearest:  prefix.Masked().String(),
			}
		}
		// Addresses are compared after unmapping, so a mapped range has to be the IPv4 range that it means.
		if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		return Target{Prefix: prefix}, nil
	}
	host := strings.ToLower(strings.TrimSuffix(s, "."))
	if isHost(host) {
		return Target{Host: host}, nil
	}
	near := ""
	if u, err := url.Parse(s); err == nil && isHost(strings.ToLower(u.Hostname())) {
		near = u.Hostname()
	} else if h, _, err := net.SplitHostPort(s); err == nil && isHost(strings.ToLower(h)) {
		near = h
	}
	return Target{}, &mismatch{nearest: near}
}

// filePath is any path; what it names is looked at by its user.
func filePath() kind[string] {
	return words("the path of a file", map[string]any{"minLength": 1}, func(s string) *mismatch {
		if s == "" || strings.ContainsRune(s, 0) {
			return &mismatch{}
		}
		return nil
	})
}

// proxyURL is the URL of a proxy, as egress takes it.
func proxyURL() kind[string] {
	return words("the URL of a proxy: http://proxy.example:3128, with user:password@ before the host where it asks for them",
		map[string]any{"minLength": 1}, func(s string) *mismatch {
			if _, err := egress.ParseProxy(s); err != nil {
				return &mismatch{got: "one that " + err.Error()}
			}
			return nil
		})
}

// headerEntry names headers that tenants may set, as egress takes them.
func headerEntry() kind[string] {
	return words("the name of a header (apikey), or the beginning of names with a star (CF-Access-*)", map[string]any{"minLength": 1}, func(s string) *mismatch {
		if err := egress.CheckHeaderEntry(s); err != nil {
			return &mismatch{got: strconv.Quote(s) + ", which " + err.Error()}
		}
		return nil
	})
}

// connString is what pgx takes. Its own errors quote the text, which holds a password that cannot always
// be told apart when the text does not parse, so they are translated and never passed on.
func httpsURL() kind[string] {
	return words("a URL that begins with https://", map[string]any{"format": "uri"}, func(s string) *mismatch {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
			return &mismatch{}
		}
		return nil
	})
}

// longestText bounds names that other systems give, such as issuers and claims, in bytes.
const longestText = 1000

func text(expected string) kind[string] {
	return words(expected, map[string]any{"minLength": 1, "maxLength": longestText}, func(s string) *mismatch {
		if s == "" || len(s) > longestText || strings.ContainsRune(s, 0) {
			return &mismatch{}
		}
		return nil
	})
}

func connString() kind[string] {
	expected := "a PostgreSQL connection: postgres://user:password@host:5432/database or key=value pairs" // #nosec G101 -- an example
	k := words(expected, map[string]any{"minLength": 1}, func(s string) *mismatch {
		scheme, _, isURL := strings.Cut(s, "://")
		isURL = isURL && !strings.ContainsAny(scheme, "= \t")
		if isURL && scheme != "postgres" && scheme != "postgresql" {
			// pgx would take such a URL for key=value pairs, and accept some.
			return &mismatch{got: "a URL of another scheme", nearest: "postgres://"}
		}
		cfg, err := postgres.ParseConfig(s)
		if err != nil {
			return &mismatch{got: connFault(err)}
		}
		if unknown, use := postgres.Check(s); unknown != "" {
			return &mismatch{got: postgres.Describe(unknown, use)}
		}
		if isURL && (!plainHosts(cfg) || secondAt(s)) {
			return &mismatch{got: "an @ or another special character where the host or the database is; in a password, @ is written %40, : %3A, / %2F, # %23, ? %3F and % %25"}
		}
		return nil
	})
	return k
}

// plainHosts reports whether every host is a name, an address or a folder: what an unescaped @ leaves of a password is not.
func plainHosts(cfg *pgx.ConnConfig) bool {
	plain := func(host string) bool {
		_, err := netip.ParseAddr(host)
		return err == nil || strings.HasPrefix(host, "/") || !strings.ContainsAny(host, "@:/#?% \t")
	}
	for _, f := range cfg.Fallbacks {
		if !plain(f.Host) {
			return false
		}
	}
	return plain(cfg.Host)
}

// secondAt reports whether a URL has an @ behind the one that ends the password, and before its parameters.
func secondAt(s string) bool {
	_, rest, found := strings.Cut(s, "@")
	rest, _, _ = strings.Cut(rest, "?")
	return found && strings.Contains(rest, "@")
}

// connFaults are parts of what pgx says, and what they mean; none holds anything of the connection string.
var connFaults = []struct{ part, got string }{
	{"sslmode is invalid", "an unknown sslmode"},
	{"invalid port", "a port that is not a number from 1 to 65535"},
	{"invalid connect_timeout", "a connect_timeout that is not a number of seconds"},
	{"forbidden NUL", "a NUL byte"},
	{"unable to read CA file", "an sslrootcert that can't be read"},
	{"unable to add CA", "an sslrootcert without a certificate"},
	{`"sslcert" and "sslkey"`, "only one of sslcert and sslkey"},
	{"unable to read sslkey", "an sslkey that can't be read"},
	{"decrypt key", "an sslkey that sslpassword doesn't open"},
	{"unable to read cert", "an sslcert that can't be read"},
	{"unable to load cert", "an sslcert and an sslkey that don't belong together"},
	{"read service file", "a service, but no service file that can be read"},
	{"unable to find service", "a service that the service file doesn't have"},
	{"target_session_attrs", "an unknown target_session_attrs"},
	{`missing "="`, "neither a URL nor key=value pairs"},
	{"unterminated quoted string", "a quote without its end"},
}

func connFault(err error) string {
	const unknown = "text that doesn't parse as one"
	parse, ok := errors.AsType[*pgconn.ParseConfigError](err)
	if !ok {
		return unknown
	}
	// The text itself could hold one of the parts: look only at what follows it.
	text := parse.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i:]
	}
	for _, f := range connFaults {
		if strings.Contains(text, f.part) {
			return f.got
		}
	}
	return unknown
}
