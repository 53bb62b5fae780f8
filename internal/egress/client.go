package egress

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// maxMoves is how often one request is moved to another connection because the one at hand was outlived. Each
// move takes a connection out of the pool, so it only has to be more than a host usually has idle.
const maxMoves = 16

// Client returns a client over a new Transport. It does not follow redirects: the 3xx answer is the result.
// Its bodies are not limited; read them through an io.LimitReader.
//
// Give requests a GetBody (http.NewRequest does so for the readers of bytes and strings): it lets the client
// move a request away from a connection that was outlived before the request was written.
func (p *Policy) Client(o TransportOptions) *http.Client {
	return &http.Client{
		Transport:     &mover{Transport: p.Transport(o), timeout: cmp.Or(o.Timeout, p.rules.Load().Timeout)},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// mover sends a request again that met an outlived connection, and bounds the whole exchange. http.Transport
// does the first by itself only for requests that fit its write buffer; http.Client would do the second with a
// goroutine for each request, because it does not know this type.
type mover struct {
	*http.Transport
	timeout time.Duration

	once  sync.Once
	fresh *http.Transport // keeps no connection; made when it is needed first
}

// RoundTripFresh is RoundTrip on a connection of its own, which ends with the exchange: where one that was kept has broken, others
// of the same age may have too.
func (m *mover) RoundTripFresh(req *http.Request) (*http.Response, error) {
	m.once.Do(func() {
		m.fresh = m.Clone()
		m.fresh.DisableKeepAlives = true
	})
	ctx, cancel := context.WithTimeout(req.Context(), m.timeout)
	resp, err := m.fresh.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, cancel}
	return resp, nil
}

func (m *mover) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), m.timeout)
	resp, err := m.Transport.RoundTrip(req.WithContext(ctx))
	for moves := 0; moves < maxMoves && errors.Is(err, errStale); moves++ {
		again := req.WithContext(ctx)
		if req.Body != nil && req.Body != http.NoBody {
			if req.GetBody == nil {
				break
			}
			body, bodyErr := req.GetBody()
			if bodyErr != nil {
				break
			}
			again.Body = body
		}
		resp, err = m.Transport.RoundTrip(again)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &boundedBody{resp.Body, cancel}
	return resp, nil
}

// boundedBody ends the timer of its exchange when it is closed.
type boundedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close closes the body and ends the exchange.
func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
