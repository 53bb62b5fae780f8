package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxTargets is how many addresses of one host are tried through a proxy, one after the other.
const maxTargets = 4

// ProxyError says that a connection through Options.Proxy could not be made. It may name internal addresses:
// show it to operators.
type ProxyError struct {
	// Endpoint says that the proxy works, and did not come through to the receiver. Else it is the proxy's own
	// fault, or that of its settings.
	Endpoint bool
	Status   int   // what the proxy answered to CONNECT; 0 when it was not asked or did not answer
	Err      error // nil when there is a Status
}

func (e *ProxyError) Error() string {
	switch {
	case e.Status == http.StatusProxyAuthRequired:
		return "egress proxy does not accept the credentials in egress.proxy"
	case e.Err == nil:
		return fmt.Sprintf("egress proxy answered %d to CONNECT", e.Status)
	}
	return "egress proxy: " + e.Err.Error()
}

// Unwrap returns what went wrong between us and the proxy.
func (e *ProxyError) Unwrap() error { return e.Err }

// ParseProxy reads the URL of a proxy: http or https, a host, a port when it is not the scheme's own, and
// perhaps a user and a password. Its errors complete a sentence about the URL and repeat nothing of it.
func ParseProxy(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("cannot be parsed as a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("must begin with http:// or https:// (a proxy that knows CONNECT; SOCKS is not spoken)")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("has no host")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("has more than a host and a port")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("has a port that is not a number from 1 to 65535")
		}
	}
	return u, nil
}

// proxyAddress is what is dialled for a proxy.
func proxyAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dialThroughProxy connects to an address through the proxy, and returns the connection and the receiver's
// address.
//
// The name of the receiver is resolved and every address checked here, and the proxy is asked for one of the
// addresses that passed, never for the name: it would resolve the name once more, and could get another answer
// than the one that was checked. The price is that a proxy with rules about host names sees addresses only. The
// receiver still sees its name, in TLS and in the Host header, which are made above this connection. Plain http
// goes through CONNECT too, for the same reason: in the other form of a proxy's request, the proxy resolves.
//
// The proxy itself may have any address: the operator named it.
func (r *rules) dialThroughProxy(ctx context.Context, network, address string) (net.Conn, net.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, r.ConnectTimeout)
	defer cancel()
	targets, err := r.resolve(ctx, network, address)
	if err != nil {
		return nil, nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	for _, target := range targets[:min(len(targets), maxTargets)] {
		var c net.Conn
		if c, err = r.connect(ctx, target.String()); err == nil {
			return c, net.TCPAddrFromAddrPort(target), nil
		}
		var fault *ProxyError
		if !errors.As(err, &fault) || !fault.Endpoint || ctx.Err() != nil {
			break
		}
	}
	return nil, nil, err
}

// resolve returns the addresses of a host that policy lets through, or why the first of the others is refused.
func (r *rules) resolve(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &BlockedError{Addr: address, Rule: RuleUnparsable}
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return nil, &BlockedError{Host: host, Addr: address, Rule: RuleUnparsable}
	}
	addrs := make([]netip.Addr, 1)
	if addrs[0], err = netip.ParseAddr(host); err != nil {
		if addrs, err = r.resolver().LookupNetIP(ctx, "ip", host); err != nil {
			return nil, err
		}
	}
	var passed []netip.AddrPort
	for _, a := range addrs {
		family := "tcp6"
		if a.Unmap().Is4() {
			family = "tcp4"
		}
		if network != "tcp" && network != family {
			continue
		}
		if blocked := r.check(ctx, host, family, netip.AddrPortFrom(a, uint16(port)).String()); blocked == nil {
			passed = append(passed, netip.AddrPortFrom(a.Unmap(), uint16(port)))
		} else if err == nil {
			err = blocked
		}
	}
	switch {
	case len(passed) > 0:
		return passed, nil
	case err == nil:
		return nil, &net.DNSError{Err: "no suitable address", Name: host, IsNotFound: true}
	}
	return nil, err
}

// connect asks the proxy for a connection to an address.
func (r *rules) connect(ctx context.Context, target string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: keepAlive, Resolver: r.Resolver}
	c, err := d.DialContext(ctx, "tcp", proxyAddress(r.proxy))
	if err != nil {
		return nil, &ProxyError{Err: err}
	}
	// Reading and writing know deadlines, not contexts.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	through, err := r.ask(ctx, c, target)
	if !stop() && err == nil {
		err = &ProxyError{Endpoint: true, Err: ctx.Err()}
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return through, nil
}

// ask speaks with the proxy on a new connection, until that leads to the target.
func (r *rules) ask(ctx context.Context, c net.Conn, target string) (net.Conn, error) {
	if r.proxy.Scheme == "https" {
		shaken := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.RootCAs, ServerName: r.proxy.Hostname()})
		limited, cancel := context.WithTimeout(ctx, r.TLSTimeout)
		defer cancel()
		if err := shaken.HandshakeContext(limited); err != nil {
			return nil, &ProxyError{Err: err}
		}
		c = shaken
	}
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", target, target)
	if u := r.proxy.User; u != nil {
		password, _ := u.Password()
		_, _ = fmt.Fprintf(&b, "Proxy-Authorization: Basic %s\r\n",
			base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	if _, err := io.WriteString(c, b.String()+"\r\n"); err != nil {
		return nil, &ProxyError{Err: err}
	}
	in := bufio.NewReader(io.LimitReader(c, maxResponseHeader))
	resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	switch {
	case err != nil && ctx.Err() != nil:
		// It took the request, and waits, probably for the receiver.
		return nil, &ProxyError{Endpoint: true, Err: fmt.Errorf("no answer to CONNECT within %s", r.ConnectTimeout)}
	case err != nil:
		return nil, &ProxyError{Err: fmt.Errorf("read the answer to CONNECT: %w", err)}
	case resp.StatusCode == http.StatusBadGateway, resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusGatewayTimeout:
		return nil, &ProxyError{Endpoint: true, Status: resp.StatusCode}
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, &ProxyError{Status: resp.StatusCode}
	case in.Buffered() > 0:
		// No receiver speaks before it is spoken to; this would be taken for its answer.
		return nil, &ProxyError{Err: errors.New("it sent more than its answer to CONNECT")}
	}
	return c, nil
}
