package api

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/sqlfile"
	"github.com/outbox-relay/relay/internal/token"
)

// Prefix is where all paths of tenants begin.
const Prefix = "/api/v1/tenant/webhooks"

// DB is what the API needs of its pool.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Limits bound what callers may do. The zero value of a field takes the bound away.
type Limits struct {
	TokenRate        float64       // calls a second with one token; twice as many at once
	AddressRate      float64       // and from one address
	MaxSubscriptions int           // of one tenant
	MaxReplay        int           // rows of one replay
	MaxTimeout       time.Duration // that a subscription may have as its own
	HeadersAllow     []string      // entries of egress.headers_allow
	WriteRate        float64       // changes a second of one tenant; twice as many at once

	// TrustedProxies say in X-Forwarded-For where a call comes from.
	TrustedProxies []netip.Prefix
}

// Options are what New needs. All fields are required.
type Options struct {
	DB       DB // a pool of the API's own
	Tokens   *token.Checker
	Registry prometheus.Registerer
	Log      *slog.Logger
	Limits   func() Limits                  // asked at each call, for it may be reloaded
	Catalog  func() *outbox.Catalog         // and this
	CheckURL func(tenant, url string) error // says what is wrong with a URL, for people
	Keys     func() *secret.Keyring         // seals the secrets of subscriptions; nil: they stay as they are
	// Post sends a test event to a subscription's endpoint. Its error is of the subscription, not of the endpoint.
	Post func(ctx context.Context, s *deliver.Subscription, signer *signature.Signer) (deliver.Outcome, error)
	// CountReplay looks for the retained rows that a replay would send.
	CountReplay func(ctx context.Context, s *deliver.Subscription, events []string, from, to time.Time) (deliver.ReplayFound, error)
	// Latest returns the events of a tenant that were written last, newest first, up to a number.
	Latest func(ctx context.Context, tenant string, number int) ([]outbox.Event, error)
	// Bodies returns the bodies of deliveries, by their ids, as far as the outbox retains what they were made of.
	Bodies func(ctx context.Context, of []deliver.Record) (map[uuid.UUID][]byte, error)
	// Breaker tells whether an endpoint is given up for a while; not ok: this relay does not send.
	Breaker func(subscription uuid.UUID) (b deliver.BreakerState, ok bool)
	// Complete tells whether every delivery is on record when it has ended.
	Complete func() bool
	// Oldest is the time before which nothing is retained.
	Oldest func() time.Time
	// ReplayRate is how many rows a second a replay begins.
	ReplayRate func() int
}

// server is what the handlers share.
type server struct {
	Options
	took    *prometheus.HistogramVec
	cursors cursors
	calls   *gauge   // calls at once
	byToken *limiter // calls, by token
	byAddr  *limiter // calls, by address
	guesses *limiter // refused tokens, by address
	tests   *limiter // test events, by tenant
	writes  *limiter // changes, by tenant
	// ofTenant are the calls at once of each tenant: one alone must not keep the others waiting.
	ofTenant *tenantGauges
	counting chan struct{} // holds what looks through the outbox
}

// queryFiles holds every statement that this package runs.
//
//go:embed queries/*.sql
var queryFiles embed.FS

var query = sqlfile.Reader(queryFiles)

var (
	sqlCursorKey     = query("cursor_key")
	sqlSubscriptions = query("subscriptions")
	sqlLock          = query("lock_subscription")
	sqlLockTenant    = query("lock_tenant")
	sqlQuota         = query("quota")
	sqlMade          = query("made")
	sqlRemember      = query("remember")
	sqlForget        = query("forget")
	sqlChange        = query("change")
	sqlNoted         = query("noted")
	sqlChanges       = query("changes")
	sqlForgetChanges = query("forget_changes")
	sqlEraseChanges  = query("erase_changes")
	sqlEraseKeys     = query("erase_keys")
	sqlEraseCount    = query("erase_count")
	sqlEraseNote     = query("erase_note")
	sqlReplays       = query("replays")
	sqlReplayID      = query("replay_id")
	sqlReplaying     = query("replaying")
	sqlStatistics    = query("statistics")
	sqlBacklog       = query("backlog")
	sqlBookmark      = query("bookmark")
)

// apiVersion is that of the paths. The relay's own is nobody's business who has no token.
const apiVersion = "1"

const introduction = `Webhook subscriptions of a tenant, and their deliveries.

Every call needs an ` + "`Authorization: Bearer TOKEN`" + ` header. What belongs to another tenant is answered as if it did not exist.
Lists have ` + "`items`" + ` and ` + "`next_cursor`" + `, which is null on the last page. Times are RFC 3339 in UTC.
Errors are ` + "`application/problem+json`" + ` (RFC 9457). A call that is refused with 429 or 503 says in ` + "`Retry-After`" + ` when to try again.`

// API serves all paths under /api/, /openapi.json and /docs.
type API struct {
	http.Handler
	server *server
	// built makes the routes and their document at the first call: a relay whose tenants never call has no use for
	// the memory that they take.
	built func() *built
}

// built are the routes with what describes them.
type built struct {
	mux      *http.ServeMux
	document *huma.OpenAPI
}

// New returns the API. It starts nothing.
func New(o Options) *API {
	s := &server{Options: o, calls: newGauge(maxCalls),
		byToken: newLimiter(), byAddr: newLimiter(), guesses: newLimiter(), tests: newLimiter(),
		writes: newLimiter(), ofTenant: newTenantGauges(), counting: make(chan struct{}, 1),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "relay_api_request_duration_seconds",
			Help: "Time that calls of the API took, by operation and status.", Buckets: []float64{.001, .005, .02, .1, .5, 2, 10}},
			[]string{"operation", "code"})}
	o.Registry.MustRegister(s.took)
	a := &API{server: s, built: sync.OnceValue(s.build)}
	a.Handler = s.around(s.calls, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.built().mux.ServeHTTP(w, r)
	}))
	return a
}

func (s *server) build() *built {
	mux := http.NewServeMux()
	api := humago.New(mux, s.config())
	s.subscriptionRoutes(api)
	s.rotationRoutes(api)
	s.deliveryRoutes(api)
	s.pullRoutes(api)
	s.replayRoutes(api)
	s.catalogRoutes(api)
	s.changeRoutes(api)
	document := sync.OnceValues(func() ([]byte, error) { return writeDocument(api.OpenAPI()) })
	mux.HandleFunc("GET /openapi.json", s.page(document, "application/openapi+json;version=3.1", ""))
	page := sync.OnceValues(func() ([]byte, error) { return renderPage(api.OpenAPI()) })
	mux.HandleFunc("GET /docs", s.page(page, "text/html; charset=utf-8", pageCSP))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"documentation": "/docs", "openapi": "/openapi.json"}`+"\n")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.unknown(w, r, mux) })
	return &built{mux, api.OpenAPI()}
}

// page serves what is made once, at the first call.
func (s *server) page(content func() ([]byte, error), contentType, policy string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, err := content()
		if err != nil {
			s.refuse(w, r, s.internal(r.Context(), "write "+r.URL.Path, err))
			return
		}
		w.Header().Set("Content-Type", contentType)
		if policy != "" {
			w.Header().Set("Content-Security-Policy", policy)
		}
		_, _ = w.Write(text)
	}
}

func writeDocument(d *huma.OpenAPI) ([]byte, error) {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the OpenAPI document: %w", err)
	}
	return append(text, '\n'), nil
}

// Document returns the OpenAPI document, which /openapi.json serves.
func Document() ([]byte, error) {
	b := New(Options{Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)}).built()
	return writeDocument(b.document)
}

func (s *server) config() huma.Config {
	c := huma.DefaultConfig("relay", apiVersion)
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", "" // served below, without the pages of other hosts
	c.CreateHooks = nil                                   // no $schema in bodies
	c.RejectUnknownQueryParameters = true
	c.Formats = map[string]huma.Format{"application/json": {Marshal: marshal, Unmarshal: unmarshal},
		"json": {Marshal: marshal, Unmarshal: unmarshal}}
	c.Info.Description = introduction
	c.Info.Contact = &huma.Contact{Name: "relay", URL: "https://github.com/outbox-relay/relay"}
	c.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	c.Servers = []*huma.Server{{URL: "/", Description: "This relay"}}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer",
		Description: "A token that `relay token create` made."}}
	c.Tags = []*huma.Tag{
		{Name: "subscriptions", Description: "What is sent where."},
		{Name: "deliveries", Description: "One event to one subscription, and what came of it."},
		{Name: "replays", Description: "Retained events that are sent again, or for the first time to a new subscription."},
		{Name: "events", Description: "The types of events, with their schemas."},
		{Name: "changes", Description: "Who changed what."},
	}
	c.Transformers = []huma.Transformer{func(ctx huma.Context, _ string, v any) (any, error) {
		if p, ok := v.(*Problem); ok {
			named := *p
			named.RequestID = requestID(ctx.Context())
			return &named, nil
		}
		return v, nil
	}}
	return c
}

func marshal(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// callTime bounds the work of one call, waiting for a connection included.
const callTime = 15 * time.Second

// register adds an operation. need is the role that its callers have at least.
func register[I, O any](s *server, api huma.API, op huma.Operation, need token.Role, h func(context.Context, *caller, *I) (*O, error)) {
	op.Path = Prefix + op.Path
	op.Security = []map[string][]string{{"token": {}}}
	op.MaxBodyBytes = maxBody
	op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	if need == token.RoleTenantWrite {
		op.Errors = append(op.Errors, http.StatusForbidden)
	}
	op.Middlewares = append(op.Middlewares, func(ctx huma.Context, next func(huma.Context)) {
		began := time.Now()
		s.authenticate(api, ctx, need, next)
		s.took.WithLabelValues(op.OperationID, strconv.Itoa(ctx.Status())).Observe(time.Since(began).Seconds())
	})
	op.Metadata = map[string]any{"role": need}
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		c, ok := ctx.Value(callerKey{}).(*caller)
		if !ok {
			return nil, s.internal(ctx, op.OperationID, errors.New("no caller"))
		}
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		// Its turn at the database: the pool is small, and is everybody's.
		select {
		case c.turns <- struct{}{}:
			defer func() { <-c.turns }()
		case <-ctx.Done():
			return nil, s.internal(ctx, op.OperationID, ctx.Err())
		}
		out, err := h(ctx, c, in)
		var p *Problem
		if err != nil && !errors.As(err, &p) {
			err = s.internal(ctx, op.OperationID, err)
		}
		return out, err
	})
}

// passing tells whether an error is of the connection or of the time, so that a later call may fare better.
func passing(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// Connection exceptions, out of resources, an operator's intervention, a lock that was not to be had.
		switch pg.Code[:2] {
		case "08", "53", "57":
			return true
		}
		return pg.Code == "55P03" || pg.Code == "40001" || pg.Code == "40P01"
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF)
}
