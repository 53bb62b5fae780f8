package egress

import (
	"cmp"
	"container/list"
	"crypto/tls"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// CertificateError says that a receiver asked for a client certificate, and that the one at hand is of a kind that it does
// not take: of another sort of key, for example. Nothing was sent then.
type CertificateError struct{ Err error }

func (e *CertificateError) Error() string {
	return "client certificate is of no use here: " + e.Err.Error()
}

// Unwrap returns what does not fit.
func (e *CertificateError) Unwrap() error { return e.Err }

// Identities makes identities, and bounds what all of them keep open together. It is safe for concurrent use.
type Identities struct {
	policy *Policy

	mu   sync.Mutex
	opts TransportOptions
	open *list.List // of *Identity, those that may have idle connections, used last in front
}

// Identities returns what makes identities under the policy. Of the options, MaxIdleConnsPerHost is for each identity, and
// MaxIdleConns for all of them: of those that were used longest ago idle connections are closed before there are more.
func (p *Policy) Identities(o TransportOptions) *Identities {
	return &Identities{policy: p, opts: o.withDefaults(), open: list.New()}
}

// Resize sets other options. What they say of each identity holds from the next Reload of the policy on.
func (s *Identities) Resize(o TransportOptions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts = o.withDefaults()
}

// New returns an identity that shows a certificate to receivers that ask for one. It opens nothing yet. The certificate must
// not change any more.
func (s *Identities) New(c *tls.Certificate) *Identity { return &Identity{all: s, certificate: c} }

// Identity sends requests with a client certificate, over connections of its own: none of them is ever used by another
// identity or without one, and it uses none of others'. It is an http.RoundTripper like that of Client, under the same policy,
// and takes in a Reload with its next request, also the settings that a Transport keeps. Close it when it is needed no more.
// It is safe for concurrent use.
type Identity struct {
	all         *Identities
	certificate *tls.Certificate
	place       *list.Element // in all.open, nil: not there; guarded by all.mu
	gone        bool          // does not come into all.open any more; guarded by all.mu

	mu     sync.Mutex
	closed bool
	now    *pool // nil before the first request
}

// pool holds an identity's connections under one state of the policy.
type pool struct {
	mover
	under   *rules
	retired atomic.Bool // whoever has it already may still begin a request; nobody else does
}

// RoundTrip implements http.RoundTripper. The answer's body must be closed, as ever.
func (i *Identity) RoundTrip(req *http.Request) (*http.Response, error) {
	p := i.pool()
	i.all.used(i)
	resp, err := p.RoundTrip(req)
	if err != nil {
		p.leave()
		return nil, err
	}
	resp.Body = &lastBody{resp.Body, p}
	return resp, nil
}

// RoundTripFresh is RoundTrip on a connection of its own, which ends with the exchange.
func (i *Identity) RoundTripFresh(req *http.Request) (*http.Response, error) {
	return i.pool().RoundTripFresh(req)
}

// Close closes the identity's connections, busy ones when their exchange has ended. A request that comes later all the same,
// because it was on its way, is still sent, on a connection that ends with it.
func (i *Identity) Close() {
	i.all.forget(i)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	if i.now != nil {
		i.now.retire()
	}
}

// pool returns the connections of the policy as it is now.
func (i *Identity) pool() *pool {
	i.mu.Lock()
	defer i.mu.Unlock()
	under := i.all.policy.rules.Load() // under the lock, so that no earlier state comes back
	if i.now != nil && i.now.under == under {
		return i.now
	}
	if i.now != nil {
		i.now.retire()
	}
	o := i.all.options()
	o.MaxIdleConns = o.MaxIdleConnsPerHost
	t := i.all.policy.transport(under, o)
	t.TLSClientConfig.GetClientCertificate = i.show
	i.now = &pool{mover: mover{Transport: t, timeout: cmp.Or(o.Timeout, under.Timeout)}, under: under}
	i.now.retired.Store(i.closed)
	return i.now
}

// show gives the certificate to a receiver that asks for one, whichever authorities it names: it knows best whom it trusts,
// and says so. Left to itself, TLS shows none where the names do not match, and the receiver's complaint misleads.
func (i *Identity) show(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	whoever := *asked
	whoever.AcceptableCAs = nil
	if err := whoever.SupportsCertificate(i.certificate); err != nil {
		return nil, &CertificateError{err}
	}
	return i.certificate, nil
}

func (p *pool) retire() {
	p.retired.Store(true)
	p.CloseIdleConnections()
}

// leave ends an exchange. A request that begins makes a transport keep connections again, so a retired pool is told anew.
func (p *pool) leave() {
	if p.retired.Load() {
		p.CloseIdleConnections()
	}
}

// lastBody tells the pool that its exchange has ended.
type lastBody struct {
	io.ReadCloser
	pool *pool
}

// Close closes the body.
func (b *lastBody) Close() error {
	defer b.pool.leave()
	return b.ReadCloser.Close()
}

func (s *Identities) options() TransportOptions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opts
}

// used notes that an identity is about to have a connection, and closes the idle ones of those that were used longest ago, as
// far as there would be too many.
func (s *Identities) used(i *Identity) {
	var over []*Identity
	s.mu.Lock()
	switch {
	case i.gone: // its connections end with their exchange
	case i.place != nil:
		s.open.MoveToFront(i.place)
	default:
		i.place = s.open.PushFront(i)
	}
	for most := max(1, s.opts.MaxIdleConns/s.opts.MaxIdleConnsPerHost); s.open.Len() > most; {
		last := s.open.Remove(s.open.Back()).(*Identity)
		last.place = nil
		over = append(over, last)
	}
	s.mu.Unlock()
	for _, o := range over {
		o.mu.Lock()
		now := o.now
		o.mu.Unlock()
		if now != nil {
			now.CloseIdleConnections()
		}
	}
}

func (s *Identities) forget(i *Identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i.gone = true
	if i.place != nil {
		s.open.Remove(i.place)
		i.place = nil
	}
}
