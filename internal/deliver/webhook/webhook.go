// Package webhook posts one attempt and classifies the answer.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/faultpoint"
)

// maxAnswer is how much of an answer is read, so that its connection can be used
// again; a longer one costs its connection.
const maxAnswer = 64 << 10

// keptAnswer is how much of a failure's answer goes into the delivery's history.
const keptAnswer = 512

// Poster is the Sink that speaks HTTP. It is safe for concurrent use.
type Poster struct {
	// Transport must dial under the egress policy and follow nothing by itself, and so must the Identity of a Request, which
	// goes before it.
	Transport http.RoundTripper
	// Timeout bounds an attempt from its start to the last byte that is read.
	Timeout time.Duration
	// HeaderTimeout bounds the time from the end of the request to the headers of the answer; 0: nothing does but Timeout.
	HeaderTimeout time.Duration
	// UserAgent is sent with each request.
	UserAgent string
	// Log gets the whole errors of attempts that failed, at debug; nil: nobody does.
	Log *slog.Logger
}

// freshTripper sends a request on a connection of its own.
type freshTripper interface {
	RoundTripFresh(req *http.Request) (*http.Response, error)
}

// tell logs the whole error of an attempt, which may name what is none of the tenant's business.
func (p *Poster) tell(r *deliver.Request, out deliver.Outcome, err error) {
	if p.Log == nil || out.Aborted {
		return
	}
	p.Log.Debug("attempt failed", "event_id", r.EventID, "host", r.URL.Host, "address", out.Address, "reason", string(out.Reason), "error", err)
}

var (
	jsonContent = []string{"application/json"}
	anything    = []string{"*/*"} // of an answer's body nothing is used
)

// Attempt implements deliver.Sink. A 2xx answer is success, whatever happens to
// its body afterwards: the receiver has said yes. Redirects are not followed.
func (p *Poster) Attempt(ctx context.Context, r *deliver.Request) deliver.Outcome {
	limit, headers := cmp.Or(r.Timeout, p.Timeout), p.HeaderTimeout
	if r.Timeout > 0 {
		headers = 0
	}
	stopped := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := &trace{headers: headers, giveUp: cancel}
	started := time.Now()
	header := make(http.Header, 11+len(r.Header))
	for name, values := range r.Header { // ours, below, go before theirs
		header[name] = values
	}
	signed := r.Body
	if faultpoint.Planted(faultpoint.SignReencoded) {
		signed = reencode(signed)
	}
	r.Signer.Headers(header, r.EventID, started.Unix(), signed)
	header["Content-Type"] = jsonContent
	if r.ContentType != "" {
		header["Content-Type"] = []string{r.ContentType}
	}
	header["Accept"] = anything
	header["User-Agent"] = []string{p.UserAgent}
	header["X-Event-Type"] = []string{r.EventType}
	header["Relay-Attempt"] = []string{strconv.Itoa(r.Attempt)}
	if r.Subscription != "" {
		header["Relay-Subscription"] = []string{r.Subscription}
	}
	if r.Sequence > 0 {
		header["Relay-Sequence"] = []string{strconv.FormatInt(r.Sequence, 10)}
	}
	req := (&http.Request{
		Method: http.MethodPost, URL: r.URL, Host: r.URL.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body:          io.NopCloser(bytes.NewReader(r.Body)),
		ContentLength: int64(len(r.Body)),
		// Lets the transport take another connection when the kept-alive one
		// was closed before a byte went out, and us when it broke later.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil },
	}).WithContext(httptrace.WithClientTrace(ctx, t.hooks()))

	via := p.Transport
	if r.Identity != nil {
		via = r.Identity
	}
	resp, err := via.RoundTrip(req)
	late := t.stopWaiting()
	resent := false
	if fresh, ok := via.(freshTripper); ok && err != nil && !late && ctx.Err() == nil && t.brokeUnanswered(err) {
		t = &trace{headers: headers, giveUp: cancel}
		again := req.WithContext(httptrace.WithClientTrace(ctx, t.hooks()))
		again.Body = io.NopCloser(bytes.NewReader(r.Body))
		resp, err = fresh.RoundTripFresh(again)
		late, resent = t.stopWaiting(), true
	}
	if err == nil && t.isStray() {
		_ = resp.Body.Close()
		err = errStray
	}
	if err != nil {
		if said := t.lastWord(err); said != nil {
			err = said
		}
		out := p.failed(stopped, ctx, limit, t, err, time.Since(started), r.Identity != nil)
		if !out.Aborted && late || out.Reason == deliver.ReasonTimeout && t.asked() && ctx.Err() == nil {
			// net/http has an error of its own for headers that are late, which has no type either.
			out.Reason, out.Detail = deliver.ReasonTimeout, "the headers of an answer did not come in time"
		}
		if out.Reason == deliver.ReasonOther && t.silent() {
			// net/http has an error of its own for a server that hangs up before it is asked, which has no type.
			out.Reason, out.Detail = deliver.ReasonConnect, brokeOff
		}
		t.fill(&out)
		out.Resent, out.Cause = resent, cause(err)
		p.tell(r, out, err)
		return out
	}
	out := Classify(resp.StatusCode)
	out.Resent = resent
	if out.Reason == deliver.ReasonRedirect {
		location := resp.Header.Get("Location")
		out.Detail += redirectTo(r.URL, location, t.public())
		out.Cause = "Location:" + redirectTo(r.URL, location, true)
	}
	// The body of a 101 is the connection itself, and no deadline holds for it.
	if resp.StatusCode != http.StatusSwitchingProtocols {
		if !out.Success() {
			out.Answer = firstBytes(resp.Body)
		}
		_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer)
	}
	_ = resp.Body.Close()
	out.Duration = time.Since(started)
	t.fill(&out)
	if !out.Success() {
		out.RetryAfter = ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return out
}

// brokeOff is the detail of a connection that was made and ended without an answer.
const brokeOff = "the connection broke before an answer came"

// firstBytes reads the begin of an answer. What broke off counts as far as it came.
func firstBytes(body io.Reader) string {
	b := make([]byte, keptAnswer)
	n, _ := io.ReadFull(body, b) // at its end there is less
	return string(b[:n])
}

// Classify turns a status code into an Outcome.
func Classify(status int) deliver.Outcome {
	out := deliver.Outcome{StatusCode: status}
	switch {
	case status >= 200 && status <= 299:
		return out
	case status >= 300 && status <= 399:
		out.Reason = deliver.ReasonRedirect
	case status == http.StatusRequestTimeout:
		out.Reason = deliver.ReasonHTTP408
	case status == http.StatusTooManyRequests:
		out.Reason = deliver.ReasonHTTP429
	case status >= 400 && status <= 499:
		out.Reason = deliver.ReasonHTTP4xx
	case status >= 500 && status <= 599:
		out.Reason = deliver.ReasonHTTP5xx
	default:
		out.Reason = deliver.ReasonOther
	}
	out.Gone = status == http.StatusGone
	out.Detail = "HTTP " + strconv.Itoa(status)
	if text := http.StatusText(status); text != "" {
		out.Detail += " " + text
	}
	return out
}

// errStray is that of an answer that is to no request.
var errStray = errors.New("the answer was there before its request")

// failed classifies by type, never by the text of an error. identified tells whether there was a client certificate to show.
func (p *Poster) failed(stopped, ctx context.Context, limit time.Duration, t *trace, err error, took time.Duration, identified bool) deliver.Outcome {
	out := deliver.Outcome{Duration: took}
	var (
		proxy   *egress.ProxyError
		blocked *egress.BlockedError
		dns     *net.DNSError
		op      *net.OpError
		netErr  net.Error
	)
	switch {
	case errors.Is(stopped.Err(), context.Canceled):
		out.Aborted = true
	case errors.As(err, &proxy): // before what it wraps, which is about the way to the proxy
		out.Reason, out.OurFault = deliver.ReasonConnect, !proxy.Endpoint
		out.Detail = proxyDetail(proxy)
	case errors.As(err, &blocked):
		out.Reason, out.Detail = deliver.ReasonBlocked, "the address is not allowed"
		out.Address = blocked.Addr
	case errors.As(err, &dns):
		out.Reason, out.Detail = deliver.ReasonDNS, dnsDetail(dns)
	case errors.Is(stopped.Err(), context.DeadlineExceeded): // a test's, whose caller waits
		out.Reason, out.Detail = deliver.ReasonTimeout, fmt.Sprintf("no answer within %s, and the test waits no longer", took.Round(100*time.Millisecond))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		out.Reason, out.Detail = deliver.ReasonTimeout, fmt.Sprintf("no answer within %s", limit)
	case isTLS(err):
		out.Reason, out.Detail = deliver.ReasonTLS, tlsDetail(err, identified, t.public())
	case errors.As(err, &op) && op.Op == "dial":
		out.Reason, out.Detail = deliver.ReasonConnect, "no connection could be made"
	case errors.As(err, &netErr) && netErr.Timeout():
		out.Reason, out.Detail = deliver.ReasonTimeout, "the endpoint was too slow"
		if t.handshook() != nil {
			out.Detail = "the handshake of TLS took too long"
		}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &op):
		out.Reason, out.Detail = deliver.ReasonConnect, brokeOff
		if t.handshook() != nil {
			out.Detail = "the connection broke during the handshake of TLS"
		}
	case t.handshook() != nil:
		out.Reason, out.Detail = shaken(err)
	default:
		out.Reason, out.Detail = deliver.ReasonOther, "no valid HTTP answer came"
	}
	return out
}

// proxyDetail says whose fault it was, and what an operator has to look at.
func proxyDetail(e *egress.ProxyError) string {
	switch {
	case e.Endpoint && e.Status != 0:
		return fmt.Sprintf("the egress proxy could not connect to the endpoint (it answered %d)", e.Status)
	case e.Endpoint:
		return "the egress proxy made no connection to the endpoint in time"
	case e.Status == http.StatusProxyAuthRequired:
		return "the egress proxy does not accept the relay's credentials"
	case e.Status != 0:
		return fmt.Sprintf("the egress proxy refused the connection (it answered %d)", e.Status)
	}
	return "the egress proxy could not be used"
}

// ParseRetryAfter reads a Retry-After value: seconds, which some send with a
// fraction, or an HTTP date. What it cannot read, the past and nonsense count
// as 0; the caller bounds large values.
//
// Source: RFC 9110, section 10.2.3.
func ParseRetryAfter(v string, now time.Time) time.Duration {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0
	}
	const most = 365 * 24 * time.Hour
	if secs, err := strconv.ParseFloat(v, 64); err == nil {
		switch {
		case !(secs > 0): // also NaN
			return 0
		case secs > most.Seconds():
			return most
		}
		return time.Duration(secs * float64(time.Second))
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), most)
}
