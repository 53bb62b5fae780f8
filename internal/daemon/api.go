package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/api"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/egress"
	"github.com/outbox-relay/relay/internal/ops"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/postgres"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
)

// newAPIPool returns the pool of the tenants' API, apart from the relay's own: however many call, recording has its
// connections, and no statement of theirs runs for long.
func newAPIPool(c *Settings, connections int) (*pgxpool.Pool, error) {
	return openPool(c, postgres.Options{Application: "relay-api", Connections: connections, Settings: map[string]string{
		"statement_timeout": apiStatement.String(), "idle_in_transaction_session_timeout": "30s", "lock_timeout": "5s",
		"plan_cache_mode": "force_custom_plan", // a plan for all tenants is a bad one for most
	}})
}

// apiStatement bounds each statement of the API.
const apiStatement = 10 * time.Second

// newServer opens what the relay listens on.
func (d *Daemon) newServer() (*ops.Server, error) {
	c := d.cfg()
	tenants := api.New(api.Options{
		DB: d.apiPool, Tokens: d.tokens(), Registry: d.registry, Log: d.log,
		Limits: func() api.Limits {
			c := d.cfg().API
			proxies := make([]netip.Prefix, len(c.TrustedProxies))
			for i, t := range c.TrustedProxies {
				proxies[i] = t.Prefix
			}
			return api.Limits{TrustedProxies: proxies, WriteRate: float64(c.WriteRate), TokenRate: float64(c.TokenRate), AddressRate: float64(c.AddressRate), MaxSubscriptions: c.MaxSubscriptions, MaxReplay: c.MaxReplay, MaxTimeout: d.cfg().Deliver.MaxTimeout, HeadersAllow: d.cfg().Egress.HeadersAllow}
		},
		Catalog: d.catalog.Load,
		CheckURL: func(tenant, url string) error {
			_, err := d.policy.CheckURLOf(tenant, url)
			return forTenants(err)
		},
		Keys: d.keys.Load,
		Post: func(ctx context.Context, s *deliver.Subscription, signer *signature.Signer) (deliver.Outcome, error) {
			return PostTest(ctx, d.policy, d.sink(), s, signer, d.cfg().Deliver.MaxTimeout)
		},
		CountReplay: func(ctx context.Context, s *deliver.Subscription, events []string, from, to time.Time) (deliver.ReplayFound, error) {
			return d.retained().Count(ctx, s, events, from, to)
		},
		Latest: func(ctx context.Context, tenant string, number int) ([]outbox.Event, error) {
			return d.retained().Latest(ctx, tenant, number)
		},
		Bodies: func(ctx context.Context, of []deliver.Record) (map[uuid.UUID][]byte, error) {
			return d.retained().Bodies(ctx, of)
		},
		// Partitions are dropped when all of them is old, and at the next maintenance.
		Oldest: func() time.Time {
			return time.Now().Add(-d.cfg().Outbox.Retention - 2*d.cfg().Outbox.PartitionInterval)
		},
		Breaker: func(subscription uuid.UUID) (deliver.BreakerState, bool) {
			l := d.current.Load()
			if l == nil {
				return deliver.BreakerState{}, false
			}
			return l.dispatcher.Breaker(l.dir.Get(subscription)), true
		},
		Complete:   func() bool { return deliver.LogPolicy(d.cfg().Deliver.Log) == deliver.LogAll },
		ReplayRate: func() int { return d.cfg().Replay.Rate },
	})
	secured, err := serverTLS(c.HTTP.TLSCert, c.HTTP.TLSKey)
	if err != nil {
		return nil, err
	}
	return ops.NewServer(ops.Options{Listen: c.HTTP.Listen, OpsListen: c.HTTP.OpsListen, TLS: secured, API: tenants,
		Guard: tenants.ForOperators, Gatherer: d.registry, Log: d.log, Ready: d.ready, Status: func() any { return d.Status() }})
}

// retained reads the outbox for the API, under its bounds.
func (d *Daemon) retained() Retained {
	return Retained{d.cfg(), d.catalog.Load(), d.apiPool, apiStatement}
}

// tokens returns what tells whose a token is.
func (d *Daemon) tokens() *token.Checker {
	checker, j := token.NewChecker(d.tokenPool), d.cfg().Auth.JWT
	if j.Secret == "" && j.JWKSURL == "" && j.JWKSPath == "" {
		return checker
	}
	return checker.WithJWT(token.JWTOptions{Secret: secret.New(j.Secret), Keys: cmp.Or(j.JWKSURL, j.JWKSPath), Issuer: j.Issuer, Audience: j.Audience,
		TenantClaim: j.TenantClaim, WriteScope: j.WriteScope, Client: d.policy.Client(egress.TransportOptions{MaxIdleConns: 1, MaxIdleConnsPerHost: 1})})
}

// PostTest posts a signed event of type relay.test to a subscription's endpoint, on the way that deliveries take, and with its
// client certificate, on a connection that ends with it. Its error is of the subscription, and is for its tenant to read; what
// the endpoint did is in the outcome.
func PostTest(ctx context.Context, policy *egress.Policy, sink deliver.Sink, s *deliver.Subscription, signer *signature.Signer,
	most time.Duration) (deliver.Outcome, error) {
	u, err := policy.CheckURLOf(s.TenantID, s.URL)
	if err != nil {
		return deliver.Outcome{}, err
	}
	header, err := s.Header()
	if err != nil {
		return deliver.Outcome{}, err
	}
	pair, err := s.ClientPair()
	if err != nil {
		return deliver.Outcome{}, err
	}
	id := uuid.Must(uuid.NewV7())
	payload, err := json.Marshal(map[string]string{"message": "a test event: it says nothing of your business"})
	if err != nil {
		return deliver.Outcome{}, err
	}
	event := outbox.Event{ID: id, TenantID: s.TenantID, Type: "relay.test", CreatedAt: time.Now(), Payload: payload}
	body, err := s.BodyFor(&deliver.Flight{EventID: id, TenantID: s.TenantID, Type: event.Type, Body: event.Body()})
	if err != nil {
		return deliver.Outcome{}, err
	}
	r := &deliver.Request{URL: u, Signer: signer, Header: header, EventID: id.String(),
		EventType: event.Type, Body: body, ContentType: s.ContentType(), Attempt: 1, Timeout: s.OwnTimeout(most), Subscription: s.ID.String()}
	if pair != nil {
		as := policy.Identities(egress.TransportOptions{MaxIdleConns: 1, MaxIdleConnsPerHost: 1, HeaderTimeout: most + time.Second, Timeout: most + time.Second}).New(pair)
		defer as.Close()
		r.Identity = as
	}
	return sink.Attempt(ctx, r), nil
}

// forTenants leaves out of an error what only an operator can do, and what it says of inner networks.
func forTenants(err error) error {
	if _, blocked := errors.AsType[*egress.BlockedError](err); blocked {
		return errors.New("webhooks are not sent to this address or port; the operator of the relay decides which are allowed")
	}
	return err
}

// certLook is how often a handshake looks whether the certificate's files have changed.
const certLook = 5 * time.Second

// certificate is a certificate that is read again when its files change. One that cannot be read leaves the old one in use.
type certificate struct {
	cert, key string
	every     time.Duration // how often it looks

	mu       sync.Mutex
	loaded   *tls.Certificate
	modified [2]time.Time
	looked   time.Time
}

// serverTLS returns what a listener speaks TLS with; nil when neither file is given.
func serverTLS(cert, key string) (*tls.Config, error) {
	if cert == "" {
		return nil, nil
	}
	c := &certificate{cert: cert, key: key, every: certLook}
	if _, err := c.get(nil); err != nil {
		return nil, fmt.Errorf("http.tls_cert: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{"http/1.1"}}, nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.loaded != nil && now.Sub(c.looked) < c.every {
		return c.loaded, nil
	}
	c.looked = now
	var modified [2]time.Time
	for i, path := range []string{c.cert, c.key} {
		if info, err := os.Stat(path); err == nil {
			modified[i] = info.ModTime()
		}
	}
	if c.loaded != nil && modified == c.modified {
		return c.loaded, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	switch {
	case err == nil:
		c.loaded, c.modified = &pair, modified
	case c.loaded == nil:
		return nil, err
	}
	return c.loaded, nil
}
