// Package webhook posts one attempt and classifies the answer.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"reflect"
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
}

var jsonContent = []string{"application/json"}

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
	t := trace{headers: headers, giveUp: cancel}
	ctx = httptrace.WithClientTrace(ctx, t.hooks())
	started := time.Now()
	header := make(http.Header, 9+len(r.Header))
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
	header["User-Agent"] = []string{p.UserAgent}
	header["X-Event-Type"] = []string{r.EventType}
	header["Relay-Attempt"] = []string{strconv.Itoa(r.Attempt)}
	if r.Sequence > 0 {
		header["Relay-Sequence"] = []string{strconv.FormatInt(r.Sequence, 10)}
	}
	req := (&http.Request{
		Method: http.MethodPost, URL: r.URL, Host: r.URL.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body:          io.NopCloser(bytes.NewReader(r.Body)),
		ContentLength: int64(len(r.Body)),
		// Lets the transport take another connection when the kept-alive one
		// was closed before a byte went out. It never repeats a POST otherwise.
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.Body)), nil },
	}).WithContext(ctx)

	via := p.Transport
	if r.Identity != nil {
		via = r.Identity
	}
	resp, err := via.RoundTrip(req)
	late := t.stopWaiting()
	if err == nil && t.isStray() {
		_ = resp.Body.Close()
		err = errStray
	}
	if err != nil {
		if said := t.lastWord(err); said != nil {
			err = said
		}
		out := p.failed(stopped, ctx, limit, err, time.Since(started), r.Identity != nil)
		if !out.Aborted && late || out.Reason == deliver.ReasonTimeout && t.asked() && ctx.Err() == nil {
			// net/http has an error of its own for headers that are late, which has no type either.
			out.Reason, out.Detail = deliver.ReasonTimeout, "the headers of an answer did not come in time"
		}
		if out.Reason == deliver.ReasonOther && t.silent() {
			// net/http has an error of its own for a server that hangs up before it is asked, which has no type.
			out.Reason, out.Detail = deliver.ReasonConnect, brokeOff
		}
		t.fill(&out)
		return out
	}
	out := Classify(resp.StatusCode)
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
func (p *Poster) failed(stopped, ctx context.Context, limit time.Duration, err error, took time.Duration, identified bool) deliver.Outcome {
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
		out.Reason, out.Detail = deliver.ReasonDNS, "the host name could not be resolved"
	case errors.Is(stopped.Err(), context.DeadlineExceeded): // a test's, whose caller waits
		out.Reason, out.Detail = deliver.ReasonTimeout, fmt.Sprintf("no answer within %s, and the test waits no longer", took.Round(100*time.Millisecond))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		out.Reason, out.Detail = deliver.ReasonTimeout, fmt.Sprintf("no answer within %s", limit)
	case isTLS(err):
		out.Reason, out.Detail = deliver.ReasonTLS, tlsDetail(err, identified)
	case errors.As(err, &op) && op.Op == "dial":
		out.Reason, out.Detail = deliver.ReasonConnect, "no connection could be made"
	case errors.As(err, &netErr) && netErr.Timeout():
		out.Reason, out.Detail = deliver.ReasonTimeout, "the endpoint was too slow"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &op):
		out.Reason, out.Detail = deliver.ReasonConnect, brokeOff
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

func isTLS(err error) bool {
	var (
		record    tls.RecordHeaderError
		alert     tls.AlertError
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		unfit     *egress.CertificateError
	)
	_, alerted := alertOf(err)
	return alerted || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &verify) ||
		errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &unfit)
}

// alertOf returns the alert with which the other side ended a connection. It may come when the request is out: in TLS 1.3 a
// server looks at the client's certificate after the client believes that the connection stands.
func alertOf(err error) (alert uint8, ok bool) {
	var op *net.OpError
	// Only crypto/tls gives this operation, and its type of alerts is not exported.
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, false
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		alert = uint8(v.Uint()) // #nosec G115 -- its kind says that it is one
	}
	return alert, true
}

// Alerts about a certificate. Before TLS 1.3 a handshake failure says that there was none, among other things.
//
// Source: RFC 8446, section 6.2.
const (
	alertHandshakeFailure       = 40
	alertBadCertificate         = 42
	alertUnsupportedCertificate = 43
	alertCertificateRevoked     = 44
	alertCertificateExpired     = 45
	alertCertificateUnknown     = 46
	alertUnknownCA              = 48
	alertAccessDenied           = 49
	alertCertificateRequired    = 116
)

// tlsDetail says why there was no secure connection, and what of it is the client certificate's.
func tlsDetail(err error, identified bool) string {
	const other = "no secure connection could be made"
	var unfit *egress.CertificateError
	if errors.As(err, &unfit) {
		return "the endpoint takes no client certificates of this kind"
	}
	alert, _ := alertOf(err)
	if !identified {
		switch alert {
		case alertHandshakeFailure:
			return "the endpoint ended the handshake; it may ask for a client certificate, and the subscription has none"
		case alertBadCertificate, alertCertificateRequired:
			return "the endpoint asks for a client certificate, and the subscription has none"
		}
		return other
	}
	switch alert {
	case alertBadCertificate, alertCertificateUnknown, alertAccessDenied:
		return "the endpoint does not accept the client certificate"
	case alertUnsupportedCertificate:
		return "the endpoint takes no client certificates of this kind"
	case alertCertificateRevoked:
		return "the endpoint says that the client certificate is revoked"
	case alertCertificateExpired:
		return "the endpoint says that the client certificate has expired"
	case alertUnknownCA:
		return "the endpoint does not know the authority of the client certificate"
	case alertCertificateRequired:
		return "the endpoint asks for another client certificate"
	}
	return other
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
