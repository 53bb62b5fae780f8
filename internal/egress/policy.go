package egress

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"weak"
)

// keepAlive is how often TCP asks whether the other side is still there.
const keepAlive = 30 * time.Second

// Options are the settings of a Policy. The zero value lets public addresses through on ports 80 and 443.
type Options struct {
	// Allow and Deny hold IP addresses, CIDRs and host names (exact, without a port). Deny wins over Allow.
	// A host name in Allow lets through every address that it resolves to, whoever answers for it; in Deny it
	// refuses the name, while another name for the same address still passes.
	Allow, Deny []string
	// RequireHTTPS makes CheckURL refuse plain http, for allowed hosts too.
	RequireHTTPS bool
	// HTTPTenants may have plain http where others may not; CheckURLOf looks at them.
	HTTPTenants []string
	// Ports that may be dialled where Allow does not apply. Default: 80, 443.
	Ports []uint16

	ConnectTimeout time.Duration // of name resolution and TCP together; default 3 s
	TLSTimeout     time.Duration // of the TLS handshake; default 5 s
	HeaderTimeout  time.Duration // from the end of the request to the answer's headers; default 10 s
	Timeout        time.Duration // of a whole exchange through Client, body included; default 15 s
	MaxConnAge     time.Duration // after which a connection takes no further request; default 5 min

	// RootCAs are trusted in place of the system's. Nil: the system's.
	RootCAs *x509.CertPool
	// CAFile names a file of certificates (PEM) that are trusted besides RootCAs; "" for none. New and Reload
	// read it.
	CAFile string
	// Proxy is the URL of a proxy, as ParseProxy reads it, through which everything goes; "" for none. It may
	// hold a password.
	Proxy string
	// Own are the addresses (host:port) that are never dialled, whatever Allow says: those that this process
	// listens on, and its database's. Without a host, or with 0.0.0.0 or ::, it is every address of this machine.
	// On this machine the port alone counts, because what listens on one of its addresses often does on all.
	Own []string
	// Resolver resolves names. Nil: net.DefaultResolver.
	Resolver *net.Resolver
}

// withDefaults fills what is not set and refuses what makes no sense.
func (o Options) withDefaults() (Options, error) {
	for _, d := range []struct {
		name  string
		value *time.Duration
		unset time.Duration
	}{
		{"connect timeout", &o.ConnectTimeout, 3 * time.Second},
		{"TLS timeout", &o.TLSTimeout, 5 * time.Second},
		{"header timeout", &o.HeaderTimeout, 10 * time.Second},
		{"timeout", &o.Timeout, 15 * time.Second},
		{"connection age", &o.MaxConnAge, 5 * time.Minute},
	} {
		switch {
		case *d.value < 0:
			return o, fmt.Errorf("%s: %s is negative", d.name, *d.value)
		case *d.value == 0:
			*d.value = d.unset
		}
	}
	if len(o.Ports) == 0 {
		o.Ports = []uint16{80, 443}
	}
	if slices.Contains(o.Ports, 0) {
		return o, fmt.Errorf("ports: 0 is not a port")
	}
	o.Ports = slices.Clone(o.Ports)
	return o, nil
}

// Policy decides which addresses may be dialled. It is safe for concurrent use.
type Policy struct {
	rules atomic.Pointer[rules]

	mu         sync.Mutex
	transports []weak.Pointer[http.Transport] // those that were made, and that somebody may still use
	sweepAt    int                            // how many of them make it worth a look which are gone
}

// New returns a Policy. It refuses entries that are neither address, CIDR nor host name.
func New(o Options) (*Policy, error) {
	r, err := newRules(o)
	if err != nil {
		return nil, err
	}
	p := &Policy{}
	p.rules.Store(r)
	return p, nil
}

func newRules(o Options) (*rules, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("read egress %w", err)
	}
	r := &rules{Options: o}
	if r.allow, err = parseEntries(o.Allow); err != nil {
		return nil, fmt.Errorf("read egress.allow %w", err)
	}
	if r.deny, err = parseEntries(o.Deny); err != nil {
		return nil, fmt.Errorf("read egress.deny %w", err)
	}
	if o.Proxy != "" {
		if r.proxy, err = ParseProxy(o.Proxy); err != nil {
			return nil, fmt.Errorf("read egress.proxy: it %w", err)
		}
		o.Own = append(slices.Clone(o.Own), proxyAddress(r.proxy))
	}
	if r.own, err = parseOwn(o.Own); err != nil {
		return nil, err
	}
	if o.CAFile != "" {
		if r.RootCAs, err = withCAFile(o.RootCAs, o.CAFile); err != nil {
			return nil, fmt.Errorf("read egress.ca_file: %w", err)
		}
	}
	return r, nil
}

// largestCAFile bounds what is read from a file of certificates, which could be a device.
const largestCAFile = 4 << 20

// withCAFile returns the roots, the system's when nil, and the certificates of a file besides.
func withCAFile(roots *x509.CertPool, path string) (*x509.CertPool, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, largestCAFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > largestCAFile {
		return nil, fmt.Errorf("%s is larger than 4 MiB", path)
	}
	if roots == nil {
		if roots, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("the system's certificates: %w", err)
		}
	} else {
		roots = roots.Clone()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	return roots, nil
}

// Reload checks the options completely and then puts them in the place of the old ones in one step; after an
// error the old ones stay. Idle connections are closed; a busy one finishes its exchange and takes no other.
// Transports keep TLSTimeout, HeaderTimeout, RootCAs and CAFile, Clients keep Timeout, from when they were made; Identities
// take in everything.
func (p *Policy) Reload(o Options) error {
	r, err := newRules(o)
	if err != nil {
		return err
	}
	p.rules.Store(r)
	p.mu.Lock()
	transports := slices.Clone(p.transports)
	p.mu.Unlock()
	for _, w := range transports {
		if t := w.Value(); t != nil {
			t.CloseIdleConnections()
		}
	}
	return nil
}

// DialContext connects to an address ("host:port") if policy lets through what the host resolves to. When it
// does not, the error is a *net.OpError around a *BlockedError. With a proxy it connects through that; when
// that is not possible, the error is a *ProxyError.
func (p *Policy) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	r := p.rules.Load()
	wrapped := &conn{policy: p, dialledUnder: r, closed: make(chan struct{})}
	var err error
	if r.proxy != nil {
		wrapped.Conn, wrapped.remote, err = r.dialThroughProxy(ctx, network, address)
	} else {
		wrapped.Conn, err = r.dialer(splitHost(address)).DialContext(ctx, network, address)
	}
	if err != nil {
		return nil, err
	}
	wrapped.dialledAt = time.Now()
	return wrapped, nil
}

// dialer connects to what a host resolves to, as far as the rules let it.
func (r *rules) dialer(host string) *net.Dialer {
	return &net.Dialer{
		Timeout:   r.ConnectTimeout,
		KeepAlive: keepAlive,
		Resolver:  r.Resolver,
		ControlContext: func(ctx context.Context, network, address string, _ syscall.RawConn) error {
			return r.check(ctx, host, network, address)
		},
	}
}
