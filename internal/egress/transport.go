package egress

import (
	"cmp"
	"crypto/tls"
	"net/http"
	"slices"
	"time"
	"weak"
)

// maxResponseHeader is the most bytes of headers that an answer may have, informational ones included. A
// Got1xxResponse trace hook would lift it, so do not use one.
const maxResponseHeader = 32 << 10

// TransportOptions size the connection pool of a Transport. Zero means the default.
type TransportOptions struct {
	MaxIdleConns        int // over all hosts; default 1024
	MaxIdleConnsPerHost int // default 8; net/http's own is 2, a new handshake for most requests of a busy host
	MaxConnsPerHost     int // busy and idle; default no limit

	// In place of those of the Policy, for who bounds each exchange by itself.
	HeaderTimeout, Timeout time.Duration
}

// Transport returns a transport that dials under the policy. It uses no proxy but Options.Proxy, whatever the
// environment says; it asks for no compression and inflates nothing; it speaks TLS 1.2 or newer; and it aborts answers with
// more than 32 KiB of headers. It speaks HTTP/1.1 only: the shared connections of HTTP/2 widen what a hostile
// server can do, and could not be retired between requests. Make one and share it.
//
// Prefer Client: it moves requests of every size away from an outlived connection, a bare Transport only those
// that fit its write buffer of 4 KiB. The others get an error before anything of them is written.
func (p *Policy) Transport(o TransportOptions) *http.Transport {
	return p.transport(p.rules.Load(), o.withDefaults())
}

func (o TransportOptions) withDefaults() TransportOptions {
	if o.MaxIdleConns == 0 {
		o.MaxIdleConns = 1024
	}
	if o.MaxIdleConnsPerHost == 0 {
		o.MaxIdleConnsPerHost = 8
	}
	return o
}

// transport makes a Transport with the settings of one state of the policy.
func (p *Policy) transport(r *rules, o TransportOptions) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	t := &http.Transport{
		DialContext: p.DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			RootCAs:            r.RootCAs,
			ClientSessionCache: tls.NewLRUClientSessionCache(o.MaxIdleConns),
		},
		TLSHandshakeTimeout:    r.TLSTimeout,
		ResponseHeaderTimeout:  cmp.Or(o.HeaderTimeout, r.HeaderTimeout),
		MaxResponseHeaderBytes: maxResponseHeader,
		DisableCompression:     true,
		MaxIdleConns:           o.MaxIdleConns,
		MaxIdleConnsPerHost:    o.MaxIdleConnsPerHost,
		MaxConnsPerHost:        o.MaxConnsPerHost,
		IdleConnTimeout:        90 * time.Second,
		Protocols:              protocols,
	}
	p.mu.Lock()
	if len(p.transports) >= p.sweepAt { // so that making many does not look at all of them each time
		p.transports = slices.DeleteFunc(p.transports, func(w weak.Pointer[http.Transport]) bool { return w.Value() == nil })
		p.sweepAt = 2*len(p.transports) + 16
	}
	p.transports = append(p.transports, weak.Make(t))
	p.mu.Unlock()
	return t
}
