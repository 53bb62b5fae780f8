package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/token"
)

// How many calls are worked on at once.
const (
	maxCalls     = 256
	maxOperators = 16
	maxOfTenant  = 16 // of one tenant
	maxTurns     = 2  // of one tenant at the database
)

type (
	requestIDKey struct{}
	callerKey    struct{}
	addressKey   struct{}
)

// from is where the call comes from, as far as callers are told apart by it.
func from(ctx context.Context) string {
	a, _ := ctx.Value(addressKey{}).(string)
	return a
}

// requestID names the call in the log; "" outside of one.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// around is what every call goes through before it is known what it wants.
func (s *server) around(calls *gauge, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !plainID(id) {
			id = uuid.NewString()
		}
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		h := w.Header()
		h.Set("X-Request-Id", id)
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler { //nolint:errorlint // the server compares it like this
				panic(p)
			}
			if p != nil {
				s.Log.Error("API call panicked", "request_id", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				s.refuse(w, r, newProblem(http.StatusInternalServerError, "The request id finds the reason in the relay's log."))
			}
		}()
		if !calls.enter() {
			h.Set("Retry-After", "1")
			s.refuse(w, r, newProblem(http.StatusServiceUnavailable, "Too many calls are being worked on. Try again in a moment."))
			return
		}
		defer calls.leave()
		r = r.WithContext(context.WithValue(r.Context(), addressKey{}, s.origin(r)))
		if wait, ok := s.byAddr.take(from(r.Context()), s.Limits().AddressRate); !ok {
			s.tooMany(w, r, wait, "Too many calls from this address.")
			return
		}
		if p := readable(r.URL.RawQuery); p != nil {
			s.refuse(w, r, p)
			return
		}
		if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
			h.Set("Accept-Encoding", "identity")
			s.refuse(w, r, newProblem(http.StatusUnsupportedMediaType, "Send the body as it is, without Content-Encoding."))
			return
		}
		// Media types are case-insensitive (RFC 9110, section 8.3.1); what reads the body is not.
		if media, parameters, found := strings.Cut(r.Header.Get("Content-Type"), ";"); media != "" {
			media = strings.ToLower(media)
			if found {
				media += ";" + parameters
			}
			r.Header.Set("Content-Type", media)
		}
		next.ServeHTTP(w, r)
	})
}

// readable tells what is wrong with a query that is no text: PostgreSQL has no NUL and nothing but UTF-8.
func readable(query string) *Problem {
	values, err := url.ParseQuery(query)
	if err != nil {
		return newProblem(http.StatusBadRequest, "The query is not encoded as one.")
	}
	for name, list := range values {
		for _, text := range append(list, name) {
			if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
				return newProblem(http.StatusBadRequest, "The query has bytes that are no text.")
			}
		}
	}
	return nil
}

// plainID tells whether a caller's request id may be repeated in headers and logs.
func plainID(id string) bool {
	return id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_' || r == '.')
	})
}

// address is what callers are told apart by: an IPv4 address, or the network of /64 that one IPv6 host has for itself.
func address(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// origin is where a call comes from: who connected, or, when that is a proxy that is trusted, whom the proxy says it is for.
// Of X-Forwarded-For the entries that trusted proxies added are believed, from the last one on, and nothing before them.
func (s *server) origin(r *http.Request) string {
	trusted := s.Limits().TrustedProxies
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || len(trusted) == 0 {
		return address(r.RemoteAddr)
	}
	at, err := netip.ParseAddr(host)
	if err != nil {
		return address(r.RemoteAddr)
	}
	entries := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(entries) - 1; i >= 0 && within(trusted, at); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(entries[i]))
		if err != nil {
			break
		}
		at = next
	}
	return address(net.JoinHostPort(at.String(), "0"))
}

func within(list []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// refuse answers with a problem outside of any operation.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, p *Problem) {
	named := *p
	named.RequestID = requestID(r.Context())
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(&named)
}

func (s *server) tooMany(w http.ResponseWriter, r *http.Request, wait time.Duration, detail string) {
	w.Header().Set("Retry-After", retryAfter(wait))
	s.refuse(w, r, newProblem(http.StatusTooManyRequests, detail))
}

// retryAfter rounds up to whole seconds, for the header has no others.
func retryAfter(wait time.Duration) string {
	return strconv.FormatInt(max(1, int64((wait+time.Second-1)/time.Second)), 10)
}

// unknown answers what no operation does: with the methods that the path has, if it has any.
func (s *server) unknown(w http.ResponseWriter, r *http.Request, mux *http.ServeMux) {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := mux.Handler(other); pattern != "" && pattern != "/" {
			allow = append(allow, method)
		}
	}
	if len(allow) == 0 {
		s.refuse(w, r, newProblem(http.StatusNotFound, "No operation has this path. /docs lists them."))
		return
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	s.refuse(w, r, newProblem(http.StatusMethodNotAllowed, ""))
}

// caller is who makes a call.
type caller struct {
	token   *token.Token
	tenant  string
	address string
	turns   chan struct{} // of the tenant's calls at the database; full: they wait
}

// actor names the caller in the log of changes.
func (c *caller) actor() string { return c.token.Bearer() }

// authenticate lets an operation be called by those who may.
func (s *server) authenticate(api huma.API, ctx huma.Context, need token.Role, next func(huma.Context)) {
	at := from(ctx.Context())
	t, p := s.identify(ctx.Context(), ctx.Header("Authorization"), at, ctx.SetHeader)
	if p == nil {
		p = allowed(t, need)
	}
	if p == nil {
		p = s.countCall(ctx, t, need)
	}
	if p == nil {
		// Before the body is read, which a caller may send slowly.
		calls := s.ofTenant.get(*t.TenantID)
		defer s.ofTenant.put(*t.TenantID)
		if calls.enter() {
			defer calls.leave()
			next(huma.WithValue(ctx, callerKey{}, &caller{token: t, tenant: *t.TenantID, address: at, turns: calls.turns}))
			return
		}
		ctx.SetHeader("Retry-After", "1")
		p = newProblem(http.StatusTooManyRequests, "Too many calls of this tenant are being worked on.")
	}
	_ = huma.WriteErr(api, ctx, p.Status, "", p)
}

// ForOperators lets through calls with an operator's token and refuses all others.
func (a *API) ForOperators(next http.Handler) http.Handler {
	// Tenants, however many, do not keep operators out.
	return a.server.around(newGauge(maxOperators), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, p := a.server.identify(r.Context(), r.Header.Get("Authorization"), from(r.Context()), w.Header().Set)
		if p == nil && t.Role != token.RoleOperator {
			p = newProblem(http.StatusForbidden, "This is for operators. relay token create --operator makes a token for it.")
		}
		if p != nil {
			a.server.refuse(w, r, p)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// guessRate is how many refused tokens a second an address may send, and twice as many at once. Beyond it its tokens are not
// looked at, but for those that are known to be good.
const guessRate = 5

// identify tells whose the call is.
func (s *server) identify(ctx context.Context, header, from string, setHeader func(name, value string)) (*token.Token, *Problem) {
	scheme, text, _ := strings.Cut(header, " ")
	text = strings.TrimSpace(text)
	if !strings.EqualFold(scheme, "Bearer") || text == "" {
		setHeader("WWW-Authenticate", `Bearer realm="relay"`)
		return nil, newProblem(http.StatusUnauthorized, "Send the header Authorization: Bearer TOKEN.")
	}
	if t, ok := s.Tokens.Known(text); ok {
		return t, nil
	}
	if wait, ok := s.guesses.look(from, guessRate); !ok && !s.Tokens.NoGuess(text) {
		setHeader("Retry-After", retryAfter(wait))
		return nil, newProblem(http.StatusTooManyRequests, "Too many calls with invalid tokens from this address.")
	}
	check, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	t, err := s.Tokens.Check(check, text)
	switch {
	case err == nil:
		return t, nil
	case refused(err):
		s.guesses.take(from, guessRate)
		setHeader("WWW-Authenticate", `Bearer realm="relay", error="invalid_token"`)
		return nil, newProblem(http.StatusUnauthorized, "The token is unknown, revoked or expired.")
	}
	if errors.Is(err, token.ErrKeys) {
		s.Log.Warn("JWTs cannot be verified", "request_id", requestID(ctx), "error", err)
		return nil, newProblem(http.StatusServiceUnavailable, "The identity provider's keys cannot be read now. Try again in a moment.")
	}
	return nil, s.internal(ctx, "check token", err)
}

// allowed tells what keeps a token from what needs a role.
func allowed(t *token.Token, need token.Role) *Problem {
	switch {
	case t.TenantID == nil:
		return newProblem(http.StatusForbidden, "An operator's token is of no tenant. Make one with relay token create --tenant.")
	case need == token.RoleTenantWrite && t.Role != token.RoleTenantWrite:
		return newProblem(http.StatusForbidden, "The token may look, and change nothing.")
	}
	return nil
}

// countCall holds a token to its rate, and says in the headers of draft-ietf-httpapi-ratelimit-headers what is left of it.
func (s *server) countCall(ctx huma.Context, t *token.Token, need token.Role) *Problem {
	if need == token.RoleTenantWrite {
		if wait, ok := s.writes.take(*t.TenantID, s.Limits().WriteRate); !ok {
			ctx.SetHeader("Retry-After", retryAfter(wait))
			return newProblem(http.StatusTooManyRequests, "Too many changes by this tenant.")
		}
	}
	rate := s.Limits().TokenRate
	if rate <= 0 {
		return nil
	}
	wait, ok := s.byToken.take(t.ID.String(), rate)
	quota, left, reset := s.byToken.state(t.ID.String(), rate)
	ctx.SetHeader("RateLimit-Policy", fmt.Sprintf(`"token";q=%d;w=%d`, quota, window(quota, rate)))
	ctx.SetHeader("RateLimit", fmt.Sprintf(`"token";r=%d;t=%d`, left, reset))
	if !ok {
		ctx.SetHeader("Retry-After", retryAfter(wait))
		return newProblem(http.StatusTooManyRequests, "Too many calls with this token.")
	}
	return nil
}
