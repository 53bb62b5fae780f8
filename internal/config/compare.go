package config

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/outbox-relay/relay/internal/postgres"
)

// relation is a rule between two settings, told at the one that was set by hand.
type relation struct {
	small, large string
	holds        func(*Config) bool
	word         string // "less than" or "at most", of small towards large
}

var relations = []relation{
	{"deliver.handover_after", "deliver.timeout", func(c *Config) bool {
		return c.Deliver.HandoverAfter < c.Deliver.Timeout
	}, "less than"},
	{"deliver.timeout", "deliver.max_timeout", func(c *Config) bool {
		return c.Deliver.Timeout <= c.Deliver.MaxTimeout
	}, "at most"},
	{"deliver.connect_timeout", "deliver.timeout", func(c *Config) bool {
		return c.Deliver.ConnectTimeout <= c.Deliver.Timeout
	}, "at most"},
	// Its default says nothing of a timeout that was made shorter.
	{"deliver.header_timeout", "deliver.timeout", func(c *Config) bool {
		return c.Deliver.HeaderTimeout <= c.Deliver.Timeout || c.Origin("deliver.header_timeout").Source == SourceDefault
	}, "at most"},
	{"deliver.breaker.first_probe", "deliver.breaker.max_probe", func(c *Config) bool {
		return c.Deliver.Breaker.FirstProbe <= c.Deliver.Breaker.MaxProbe
	}, "at most"},
	{"deliver.disable_warning", "deliver.disable_after", func(c *Config) bool {
		return c.Deliver.DisableAfter == 0 || c.Deliver.DisableWarning < c.Deliver.DisableAfter
	}, "less than"},
	{"cdc.status_interval", "cdc.silence_timeout", func(c *Config) bool {
		return c.CDC.StatusInterval < c.CDC.SilenceTimeout
	}, "less than"},
	{"outbox.partition_interval", "outbox.retention", func(c *Config) bool {
		return c.Outbox.PartitionInterval <= c.Outbox.Retention
	}, "at most"},
	// An event that never fits into the window would be parked each time it is taken up.
	{"outbox.max_payload", "deliver.window.bytes", func(c *Config) bool {
		return c.Outbox.MaxPayload <= c.Deliver.Window.Bytes
	}, "at most"},
}

// compare checks the rules between settings, as far as the settings themselves are without fault.
func (l *loader) compare() {
	c := l.config
	for _, r := range relations {
		if l.bad[r.small] || l.bad[r.large] || r.holds(c) {
			continue
		}
		small, large := settingOf[r.small].texts(c)[0], settingOf[r.large].texts(c)[0]
		if at := c.origins[r.small]; at.Source != SourceDefault {
			l.fault(at, r.small, small, r.word+" "+r.large+" ("+large+")", "")
			continue
		}
		word := map[string]string{"less than": "more than ", "at most": "at least "}[r.word]
		l.fault(c.origins[r.large], r.large, large, word+r.small+" ("+small+")", "")
	}
	if h := c.HTTP; h.OpsListen != "" && h.OpsListen == h.Listen && !l.bad["http.listen"] && !l.bad["http.ops_listen"] {
		l.fault(c.origins["http.ops_listen"], "http.ops_listen", h.OpsListen, "another address than http.listen", "")
	}
	l.pairs()
	for key, url := range map[string]string{keyDatabaseURL: c.Database.URL, keyReplicationURL: c.Database.ReplicationURL} {
		if url != "" && !l.bad[key] && !c.Database.AllowPlaintext && inTheClear(url) {
			l.fault(c.origins[key], key, "sslmode=disable to another machine", "sslmode=verify-full, or database.allow_plaintext: true", "")
		}
	}
}

// pairs checks the keys of which one makes no sense without, or with, another.
func (l *loader) pairs() {
	c := l.config
	if h := c.HTTP; h.TLSCert != "" && h.TLSKey == "" {
		l.fault(c.origins["http.tls_cert"], "http.tls_cert", "a certificate without its key", "http.tls_key too", "")
	} else if h.TLSKey != "" && h.TLSCert == "" {
		l.fault(c.origins["http.tls_key"], "http.tls_key", "a key without its certificate", "http.tls_cert too", "")
	}
	first := ""
	for _, s := range []struct{ key, value string }{{"auth.jwt.secret", c.Auth.JWT.Secret}, {"auth.jwt.jwks_url", c.Auth.JWT.JWKSURL},
		{"auth.jwt.jwks_path", c.Auth.JWT.JWKSPath}} {
		switch {
		case s.value == "":
		case first == "":
			first = s.key
		default:
			l.fault(c.origins[s.key], s.key, "a second source of keys", "either this or "+first, "")
		}
	}
}

// inTheClear tells whether a connection leaves this machine and never speaks TLS.
func inTheClear(url string) bool {
	c, err := postgres.ParseConfig(url)
	if err != nil || c.TLSConfig != nil {
		return false
	}
	hosts := []string{c.Host}
	for _, f := range c.Fallbacks {
		if f.TLSConfig != nil {
			return false // sslmode=allow
		}
		hosts = append(hosts, f.Host)
	}
	return slices.ContainsFunc(hosts, func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return !strings.HasPrefix(host, "/") && !strings.HasPrefix(host, "@") && host != "localhost" && (err != nil || !ip.IsLoopback())
	})
}
