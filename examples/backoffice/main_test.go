package backoffice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/examples/backoffice"
	"github.com/outbox-relay/relay/internal/migrate/migratetest"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m, pgtest.NoLeaks()) }

const (
	acme, acmeToken   = "acme", "token-of-acme"
	other, otherToken = "globex", "token-of-globex"
	providerSecret    = "shared-with-the-provider"
)

var errForced = errors.New("forced")

// shop is a backoffice on a database of its own.
type shop struct {
	t       *testing.T
	pool    *pgxpool.Pool
	handler http.Handler
}

func newShop(t *testing.T) *shop { return newShopWith(t, backoffice.Options{}) }

func newShopWith(t *testing.T, o backoffice.Options) *shop {
	t.Helper()
	pool := openDatabase(t)
	o.Pool = pool
	o.Tokens = map[string]string{acmeToken: acme, otherToken: other}
	o.ProviderSecret = providerSecret
	return &shop{t: t, pool: pool, handler: backoffice.New(o).Handler()}
}

// openDatabase makes a database with the outbox and the example's tables.
func openDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	url := migratetest.NewDatabase(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := backoffice.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return pool
}

// answer is a response, read.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// text is a member of the body that must be a string.
func (a answer) text(t *testing.T, name string) string {
	t.Helper()
	s, ok := a.body[name].(string)
	if !ok {
		t.Fatalf("%s is not a string in %v", name, a.body)
	}
	return s
}

// header pairs for send.
func bearer(token string) []string { return []string{"Authorization", "Bearer " + token} }

// send runs one request against the handler. It is safe in any goroutine.
func (s *shop) send(method, path, body string, headers ...string) answer {
	r := httptest.NewRequestWithContext(context.Background(), method, path, bytes.NewReader([]byte(body)))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	a := answer{status: w.Code, header: w.Header()}
	if err := json.Unmarshal(w.Body.Bytes(), &a.body); err != nil {
		s.t.Errorf("%s %s answered %d with %q: %v", method, path, w.Code, w.Body, err)
	}
	return a
}

// as sends for acme.
func (s *shop) as(method, path, body string) answer {
	return s.send(method, path, body, bearer(acmeToken)...)
}

// must sends for acme and expects the status.
func (s *shop) must(status int, method, path, body string) answer {
	s.t.Helper()
	a := s.as(method, path, body)
	if a.status != status {
		s.t.Fatalf("%s %s %s answered %d %v, want %d", method, path, body, a.status, a.body, status)
	}
	return a
}

// callback sends what the provider would.
func (s *shop) callback(body string) answer {
	return s.send("POST", "/api/v1/payments/callback", body,
		backoffice.SignatureHeader, backoffice.SignCallback(providerSecret, []byte(body)))
}

// event is a row of the outbox.
type event struct {
	TenantID      string `db:"tenant_id"`
	AggregateType string `db:"aggregate_type"`
	AggregateID   string `db:"aggregate_id"`
	EventType     string `db:"event_type"`
	Payload       string `db:"payload"`
}

// events are the committed outbox rows, in the order of their transactions, which here follow one another. Each must
// be what the relay takes.
func (s *shop) events() []event {
	s.t.Helper()
	rows, err := s.pool.Query(s.t.Context(), `
		SELECT tenant_id, aggregate_type, aggregate_id, event_type, payload::text AS payload
		FROM outbox.events ORDER BY xid`)
	if err != nil {
		s.t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[event])
	if err != nil {
		s.t.Fatal(err)
	}
	catalog, err := outbox.NewCatalog()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range found {
		if err := catalog.Validate(e.EventType, []byte(e.Payload)); err != nil {
			s.t.Errorf("%s %s: %v", e.EventType, e.Payload, err)
		}
	}
	return found
}

// wantEvents fails unless the outbox holds events of these types, in this order.
func (s *shop) wantEvents(types ...string) []event {
	s.t.Helper()
	found := s.events()
	got := make([]string, len(found))
	for i, e := range found {
		got[i] = e.EventType
	}
	if fmt.Sprint(got) != fmt.Sprint(types) {
		s.t.Fatalf("outbox holds %v, want %v", got, types)
	}
	return found
}

// count is the number that a query yields.
func (s *shop) count(sql string, args ...any) int {
	s.t.Helper()
	var n int
	if err := s.pool.QueryRow(s.t.Context(), sql, args...).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// sameJSON fails unless both texts hold the same JSON, number by number in their own digits.
func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	normal := func(text string) string {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if g, w := normal(got), normal(want); g != w {
		t.Fatalf("got  %s\nwant %s", g, w)
	}
}
