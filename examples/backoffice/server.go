package backoffice

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sort"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// DefaultCheckoutURL is where links point when Options.CheckoutURL is empty. The page is the payment provider's.
const DefaultCheckoutURL = "https://checkout.example.com/pay"

// Options are the settings of a Server.
type Options struct {
	// Pool is the database, with the tables of Migrate and the outbox in it. Required.
	Pool *pgxpool.Pool
	// Tokens maps each bearer token to its tenant. Without tokens every tenant route answers 401.
	Tokens map[string]string
	// ProviderSecret is the key that the payment provider signs its callbacks with. While it is empty every callback
	// answers 401: an empty key would be anybody's key.
	ProviderSecret string
	// CheckoutURL is put before a link's id to make its url. Default: DefaultCheckoutURL.
	CheckoutURL string
	// Log receives what callers are not told: the causes behind status 500. Default: slog.Default().
	Log *slog.Logger
	// FailAfterOutbox, if set, is called in the transaction after each outbox insert; its error rolls the transaction
	// back and answers 500. It is there to show that the business row goes with the event; see DemoFaults.
	FailAfterOutbox func(r *http.Request) error
}

// Server answers the routes of the example. It starts no goroutines and is safe for concurrent use.
type Server struct {
	pool     *pgxpool.Pool
	tenants  map[[sha256.Size]byte]string
	secret   []byte
	checkout string
	log      *slog.Logger
	fault    func(r *http.Request) error
	mux      *http.ServeMux
}

// New makes a Server. The tables must be there before the first request, see Migrate.
func New(o Options) *Server {
	s := &Server{
		pool:     o.Pool,
		tenants:  make(map[[sha256.Size]byte]string, len(o.Tokens)),
		secret:   []byte(o.ProviderSecret),
		checkout: strings.TrimSuffix(o.CheckoutURL, "/"),
		log:      o.Log,
		fault:    o.FailAfterOutbox,
		mux:      http.NewServeMux(),
	}
	for token, tenant := range o.Tokens {
		if token != "" && tenant != "" {
			s.tenants[sha256.Sum256([]byte(token))] = tenant
		}
	}
	if s.checkout == "" {
		s.checkout = DefaultCheckoutURL
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.route()
	return s
}

// Handler answers all routes.
func (s *Server) Handler() http.Handler { return s.mux }

// route fills the mux. A path that exists answers 405 to other methods, everything else 404, both as problem+json.
func (s *Server) route() {
	routes := []struct {
		method, path string
		handler      http.Handler
	}{
		{"POST", "/api/v1/tenant/payments/links", s.tenantOnly(s.createLink)},
		{"GET", "/api/v1/tenant/payments/links/{id}", s.tenantOnly(s.showLink)},
		{"POST", "/api/v1/payments/callback", s.answer(s.settlePayment)},
		{"POST", "/api/v1/tenant/crm/leads", s.tenantOnly(s.createLead)},
		{"GET", "/api/v1/tenant/crm/leads/{id}", s.tenantOnly(s.showLead)},
		{"PUT", "/api/v1/tenant/crm/leads/{id}", s.tenantOnly(s.updateLead)},
		{"POST", "/api/v1/tenant/sales_orders", s.tenantOnly(s.createOrder)},
		{"GET", "/api/v1/tenant/sales_orders/{id}", s.tenantOnly(s.showOrder)},
		{"POST", "/api/v1/tenant/sales_orders/{id}/confirm", s.tenantOnly(s.confirmOrder)},
		{"PUT", "/api/v1/tenant/sales_orders/{id}/cancel", s.tenantOnly(s.cancelOrder)},
		{"POST", "/api/v1/tenant/sales_orders/{id}/deliver", s.tenantOnly(s.deliverOrder)},
	}
	methods := make(map[string][]string)
	for _, route := range routes {
		s.mux.Handle(route.method+" "+route.path, route.handler)
		methods[route.path] = append(methods[route.path], route.method)
	}
	for path, allowed := range methods {
		sort.Strings(allowed)
		allow := strings.Join(allowed, ", ")
		s.mux.Handle(path, s.answer(func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Allow", allow)
			return &problem{status: http.StatusMethodNotAllowed, detail: "this path answers " + allow}
		}))
	}
	s.mux.Handle("/", s.answer(func(http.ResponseWriter, *http.Request) error {
		return &problem{status: http.StatusNotFound, detail: "there is no such path"}
	}))
}

// answer turns the error of h into problem+json. What is not a problem is logged and answered as a bare 500.
func (s *Server) answer(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		var p *problem
		if !errors.As(err, &p) {
			p = &problem{status: http.StatusInternalServerError, detail: "nothing was changed; try again"}
			// A caller that went away is no fault of ours.
			if !errors.Is(r.Context().Err(), context.Canceled) {
				s.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "cause", err)
			}
		}
		p.write(w)
	})
}

// tenantOnly calls h with the tenant whose bearer token the request carries.
func (s *Server) tenantOnly(h func(w http.ResponseWriter, r *http.Request, tenant string) error) http.Handler {
	return s.answer(func(w http.ResponseWriter, r *http.Request) error {
		tenant, ok := s.tenant(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			return &problem{status: http.StatusUnauthorized, detail: "the bearer token is missing or unknown"}
		}
		return h(w, r, tenant)
	})
}

// tenant looks the token up by its hash, so that the time it takes says nothing about the tokens there are.
func (s *Server) tenant(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	tenant, ok := s.tenants[sha256.Sum256([]byte(strings.TrimSpace(token)))]
	return tenant, ok
}

// FaultHeader and FaultAfterOutbox are the request header, and its value, that DemoFaults answers to.
const (
	FaultHeader      = "X-Demo-Fail"
	FaultAfterOutbox = "after-outbox"
)

// DemoFaults is an Options.FailAfterOutbox that fails the requests that ask for it in their FaultHeader.
func DemoFaults(r *http.Request) error {
	if r.Header.Get(FaultHeader) != FaultAfterOutbox {
		return nil
	}
	return &problem{
		status: http.StatusInternalServerError,
		detail: fmt.Sprintf("%s: %s, as asked; business row and outbox row are rolled back", FaultHeader, FaultAfterOutbox),
	}
}
