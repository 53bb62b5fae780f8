package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
)

// Details are for tenants: a closed set of sentences, into which only bounded words of the endpoint's own go, and those of an endpoint
// with a public address alone. One that egress.allow opens in an inside network says nothing of it there.

// keptCause is how much of an error is kept for operators.
const keptCause = 300

// cause is an error as operators see it in the history.
func cause(err error) string {
	text := err.Error()
	if len(text) > keptCause {
		text = text[:keptCause]
	}
	return text
}

// dnsDetail says what became of the question for the endpoint's address.
func dnsDetail(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return "the host name does not exist, or has no address"
	case err.IsTimeout:
		return "no name server answered in time for the host name"
	}
	return "the name server had no answer for the host name"
}

// keptLocation is how much is told of where a redirect leads.
const keptLocation = 200

// redirectTo says where an answer to a request leads: scheme, host and path, without what may be secret.
func redirectTo(from *url.URL, location string, public bool) string {
	to, err := from.Parse(location)
	switch {
	case location == "":
		return ", without a Location"
	case err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https":
		return ", to what is no http or https URL"
	case !public && to.Hostname() != from.Hostname():
		return " to another host"
	}
	text := to.Scheme + "://" + to.Host + to.EscapedPath()
	if len(text) > keptLocation {
		text = text[:keptLocation] + "..."
	}
	return " to " + text
}

// isTLS reports whether an error is of the secure connection, told by its type.
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
	return alerted || errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &verify) ||
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

// Alerts of TLS. Before TLS 1.3 a handshake failure says that there was no client certificate, among other things.
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
	alertProtocolVersion        = 70
	alertInappropriateFallback  = 86
	alertUnrecognizedName       = 112
	alertCertificateRequired    = 116
)

const (
	oldProtocol = "the endpoint offers no version of TLS that is taken: TLS 1.2 or newer is needed"
	noHandshake = "the endpoint ended the handshake: no version or cipher of TLS that both sides take, or a refusal"
)

// tlsDetail says why there was no secure connection: what is wrong with the endpoint's certificate, with its protocol, or with the
// client certificate.
func tlsDetail(err error, identified, public bool) string {
	var (
		unfit     *egress.CertificateError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		authority x509.UnknownAuthorityError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &unfit):
		return "the endpoint takes no client certificates of this kind"
	case errors.As(err, &invalid):
		return invalidDetail(invalid, time.Now())
	case errors.As(err, &host):
		return "the endpoint's certificate is for " + namesOf(host.Certificate, public) + ", not for the host of the URL"
	case errors.As(err, &authority):
		if c := authority.Cert; c != nil && slices.Equal(c.RawIssuer, c.RawSubject) {
			return "the endpoint's certificate is signed by itself, or by an authority that is not trusted"
		}
		return "the endpoint's certificate is of an authority that is not trusted, or the endpoint does not send the certificates that lead to one"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return "the endpoint does not speak TLS on this port"
	}
	alert, alerted := alertOf(err)
	switch {
	case alert == alertProtocolVersion, alert == alertInappropriateFallback:
		return oldProtocol
	case alert == alertUnrecognizedName:
		return "the endpoint does not know the host name of the URL"
	case alerted && identified:
		return identifiedDetail(alert)
	case alert == alertHandshakeFailure:
		return "the endpoint ended the handshake; it may ask for a client certificate, and the subscription has none"
	case alert == alertBadCertificate, alert == alertCertificateRequired:
		return "the endpoint asks for a client certificate, and the subscription has none"
	case alerted:
		return noHandshake
	}
	return "no secure connection could be made"
}

// identifiedDetail says what an alert has against the client certificate.
func identifiedDetail(alert uint8) string {
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
	return noHandshake
}

// invalidDetail says what is wrong with the endpoint's certificate, or with one that leads to its authority.
func invalidDetail(err x509.CertificateInvalidError, now time.Time) string {
	which := "the endpoint's certificate"
	if err.Cert != nil && err.Cert.IsCA {
		which = "a certificate that leads to the endpoint's authority"
	}
	switch {
	case err.Reason == x509.Expired && err.Cert != nil && now.Before(err.Cert.NotBefore):
		return which + " is not valid before " + err.Cert.NotBefore.UTC().Format(time.RFC3339)
	case err.Reason == x509.Expired && err.Cert != nil:
		return which + " expired at " + err.Cert.NotAfter.UTC().Format(time.RFC3339)
	case err.Reason == x509.IncompatibleUsage:
		return which + " is not one for servers"
	}
	return which + " does not hold: it breaks a rule of those that lead to its authority"
}

// Bounds of what is told of a certificate's names.
const (
	toldNames = 3
	toldName  = 100
)

// namesOf tells the names that a certificate is for.
func namesOf(c *x509.Certificate, public bool) string {
	if c == nil || !public {
		return "other names"
	}
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no host name"
	}
	more := ""
	if n := len(names) - toldNames; n > 0 {
		names, more = names[:toldNames], fmt.Sprintf(" and %d more", n)
	}
	for i, name := range names {
		if len(name) > toldName {
			names[i] = name[:toldName] + "..."
		}
	}
	return strings.Join(names, ", ") + more
}

// shaken is what became of a handshake that failed with an error that has no type, or without any word of the other side.
func shaken(err error) (reason deliver.Reason, detail string) {
	// crypto/tls has no type for a server that chooses an old version by itself, instead of refusing with an alert.
	if strings.HasPrefix(err.Error(), "tls: server selected unsupported protocol version") {
		return deliver.ReasonTLS, oldProtocol
	}
	return deliver.ReasonTLS, "the handshake of TLS failed"
}
