package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
	"github.com/outbox-relay/relay/test/output"
)

// world is an API over a database of its own.
type world struct {
	t    testing.TB
	db   *pgxpool.Pool
	api  *API
	base string
	logs *output.Buffer
	said *output.Buffer // all answers, without the secrets that are shown once

	outbox     map[uuid.UUID][]byte // bodies of events that are retained
	breakers   map[uuid.UUID]deliver.BreakerState
	incomplete bool                // not every delivery is on record
	retained   map[string][]string // payloads of payment.received, newest first, by tenant

	mu     sync.Mutex
	limits Limits
	http   bool // is allowed
	post   func(*deliver.Subscription, *signature.Signer) (deliver.Outcome, error)
	keys   *secret.Keyring
}

func newWorld(t testing.TB) *world {
	t.Helper()
	url := migratetest.NewDatabase(t)
	db, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	w := &world{t: t, db: db, logs: output.New(t, "the log"), said: output.New(t, "an answer"), limits: Limits{MaxSubscriptions: 100, MaxTimeout: 90 * time.Second}}
	catalog, err := outbox.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	w.api = New(Options{DB: db, Tokens: token.NewChecker(db), Registry: prometheus.NewRegistry(),
		Log: slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Limits: func() Limits {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.limits
		},
		Catalog: func() *outbox.Catalog { return catalog },
		CheckURL: func(_, url string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if !strings.HasPrefix(url, "https://") && !(w.http && strings.HasPrefix(url, "http://")) || strings.Contains(url, "localhost") {
				return errors.New("webhook URL: it must begin with https://, and lead to a public address")
			}
			return nil
		},
		Keys: func() *secret.Keyring {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.keys
		},
		Post: func(_ context.Context, s *deliver.Subscription, signer *signature.Signer) (deliver.Outcome, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.post == nil {
				return deliver.Outcome{StatusCode: 200, Duration: time.Millisecond}, nil
			}
			return w.post(s, signer)
		},
		CountReplay: func(context.Context, *deliver.Subscription, []string, time.Time, time.Time) (deliver.ReplayFound, error) {
			return deliver.ReplayFound{Events: []deliver.ReplayCount{{Event: "payment.received", Rows: 12}}, Rows: 12, Skipped: 1,
				Skips: []deliver.ReplaySkip{{EventID: "01a21045-e54f-72f6-866b-2636175a6f62", Reason: deliver.SkipSuppressed, Detail: "says nothing"}}}, nil
		},
		Latest: func(_ context.Context, tenant string, number int) ([]outbox.Event, error) {
			var list []outbox.Event
			for i, payload := range w.retained[tenant] {
				if i < number {
					list = append(list, outbox.Event{ID: idOf(time.Now(), byte(i)), TenantID: tenant, Type: "payment.received", AggregateType: "payment",
						AggregateID: "inv_1", CreatedAt: time.Now().Add(-time.Duration(i) * time.Minute), Payload: []byte(payload)})
				}
			}
			return list, nil
		},
		Bodies: func(_ context.Context, of []deliver.Record) (map[uuid.UUID][]byte, error) {
			out := make(map[uuid.UUID][]byte)
			for i := range of {
				if body, ok := w.outbox[of[i].EventID]; ok {
					out[of[i].ID] = body
				}
			}
			return out, nil
		},
		Breaker: func(id uuid.UUID) (deliver.BreakerState, bool) {
			b, ok := w.breakers[id]
			return b, ok
		},
		Complete:   func() bool { return !w.incomplete },
		Oldest:     func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) },
		ReplayRate: func() int { return 50 }})
	server := httptest.NewServer(w.api)
	t.Cleanup(server.Close)
	w.base = server.URL
	return w
}

func (w *world) limit(l Limits) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limits = l
}

// plain allows http.
func (w *world) plain(allowed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.http = allowed
}

func (w *world) token(role token.Role, tenant string) string {
	w.t.Helper()
	_, text, err := token.Store{DB: w.db}.Create(w.t.Context(), role, tenant, "", time.Time{})
	if err != nil {
		w.t.Fatal(err)
	}
	return output.Secret(w.t, text.Reveal())
}

// answer is what a call got.
type answer struct {
	Status int
	Header http.Header
	Text   string
}

// into decodes the body.
func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.Text), v); err != nil {
		t.Fatalf("%v in %.300s", err, a.Text)
	}
}

// problem decodes the body, and checks what all problems have.
func (a answer) problem(t testing.TB) Problem {
	t.Helper()
	var p Problem
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("Content-Type %q of status %d: %.300s", got, a.Status, a.Text)
	}
	a.into(t, &p)
	if p.Status != a.Status || p.Title == "" || p.RequestID == "" || p.RequestID != a.Header.Get("X-Request-Id") ||
		!strings.HasPrefix(p.Type, "/docs#") {
		t.Errorf("problem %+v of status %d, request id %s", p, a.Status, a.Header.Get("X-Request-Id"))
	}
	return p
}

type header [2]string

// call makes a call of a path below Prefix; body is text, or anything that becomes JSON, or nil.
func (w *world) call(method, path, bearer string, body any, headers ...header) answer {
	w.t.Helper()
	if !strings.HasPrefix(path, "//") {
		path = Prefix + path
	} else {
		path = path[1:]
	}
	var content io.Reader
	if body != nil {
		text, ok := body.(string)
		if !ok {
			b, err := json.Marshal(body)
			if err != nil {
				w.t.Fatal(err)
			}
			text = string(b)
		}
		w.given(text)
		content = strings.NewReader(text)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.base+path, content)
	if err != nil {
		w.t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		req.Header.Set(h[0], h[1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	shown := w.shownOnce(method, path, b)
	text := fmt.Sprintf("%d %v\n%s\n", resp.StatusCode, resp.Header, shown)
	_, _ = io.WriteString(w.said, text) // for what is known later
	output.Check(w.t, method+" "+path, text)
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// given makes the secrets known that a caller sends: what signs, the values of headers, and what is for Authorization.
func (w *world) given(body string) {
	w.t.Helper()
	var sent struct {
		Secret  any
		Headers any
		Auth    any
	}
	if json.Unmarshal([]byte(body), &sent) != nil {
		return // what is no object, or one of another kind, gives none
	}
	text := func(v any) {
		if s, ok := v.(string); ok {
			output.Secret(w.t, s)
		}
	}
	text(sent.Secret)
	if list, ok := sent.Headers.([]any); ok {
		for _, h := range list {
			if pair, ok := h.(map[string]any); ok {
				text(pair["value"])
			}
		}
	}
	if auth, ok := sent.Auth.(map[string]any); ok {
		text(auth["token"])
		text(auth["password"])
	}
}

// shownOnce takes out of an answer the secret that it makes, on the two routes that make one, and makes it known.
func (w *world) shownOnce(method, path string, body []byte) []byte {
	w.t.Helper()
	var fields map[string]json.RawMessage
	if method != http.MethodPost || path != Prefix+"/subscriptions" && !strings.HasSuffix(path, "/rotate-secret") || json.Unmarshal(body, &fields) != nil {
		return body
	}
	for _, name := range []string{"secret", "next_secret"} {
		var made string
		if json.Unmarshal(fields[name], &made) == nil {
			output.Secret(w.t, made)
			delete(fields, name)
		}
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		w.t.Fatal(err)
	}
	return rest
}

// subscribe makes a subscription through the API.
func (w *world) subscribe(bearer string) Created {
	w.t.Helper()
	a := w.call("POST", "/subscriptions", bearer, map[string]any{"url": "https://hooks.example.com/x", "event": "payment.received"})
	if a.Status != http.StatusCreated {
		w.t.Fatalf("status %d: %s", a.Status, a.Text)
	}
	var c Created
	a.into(w.t, &c)
	return c
}

// idOf is an id as deliveries have them, committed at t.
func idOf(t time.Time, n byte) uuid.UUID {
	id := uuid.UUID{6: 0x70, 8: 0x80, 15: n}
	ms := t.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// ended writes a delivery that has ended.
func (w *world) ended(tenant string, sub uuid.UUID, at time.Time, n byte, status, event, aggregate string) uuid.UUID {
	w.t.Helper()
	id := idOf(at, n)
	if _, err := w.db.Exec(w.t.Context(), `INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type,
		aggregate_type, aggregate_id, commit_lsn, row_index, status, attempts, last_status, duration_us, ended_at)
		VALUES ($1, $2, $3, $4, $5, $6, 'payment', $7, '0/100', $8, $9, 1, 200, 1500, $2)`,
		id, at, tenant, sub, uuid.New(), event, aggregate, int(n), status); err != nil {
		w.t.Fatal(err)
	}
	return id
}

// replaying writes a replay that runs.
func (w *world) replaying(tenant string, sub uuid.UUID) (id uuid.UUID) {
	w.t.Helper()
	if err := w.db.QueryRow(w.t.Context(), `INSERT INTO relay.replays (subscription_id, tenant_id, events, spec, from_at, to_at, rate, total)
		VALUES ($1, $2, '{}', '', now() - interval '1 day', now(), 100, 5) RETURNING public_id`, sub, tenant).Scan(&id); err != nil {
		w.t.Fatal(err)
	}
	return id
}

// parked writes a delivery that waits.
func (w *world) parked(tenant string, sub uuid.UUID, at time.Time, n byte) uuid.UUID {
	w.t.Helper()
	id, event := idOf(at, n), uuid.New()
	if _, err := w.db.Exec(w.t.Context(), `INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id,
		committed_at, body) VALUES ('0/200', $1, $2, 'payment.received', 'payment', 'inv_9', $3, '{"data":{"amount":1500.00}}')`, event, tenant, at); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.db.Exec(w.t.Context(), `INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, attempts,
		next_attempt_at, last_error, last_status, history, created_at) VALUES ($1, '0/200', $2, $3, $4, 1, 1, now() + interval '1 hour',
		'http_5xx: 503 Service Unavailable', 503, $5, $6)`, sub, int(n), event, id,
		`[{"n":1,"at":"2026-01-31T15:04:05Z","duration_ms":12,"phases_us":{"connect":300},"status":503,"reason":"http_5xx","detail":"503 Service Unavailable","answer":"INSIDE","address":"10.0.0.7:443"}]`,
		at); err != nil {
		w.t.Fatal(err)
	}
	return id
}
