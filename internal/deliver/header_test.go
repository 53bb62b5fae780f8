package deliver

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/secret"
)

func TestNewHeaders_TakesWhatAReceiverMayWant(t *testing.T) {
	t.Parallel()
	made, err := NewHeaders([]Header{{"x-api-key", "abc 123~"}, {"Authorization", "Bearer t0ken"}, {"X-Shop", "1"}})
	if err != nil {
		t.Fatal(err)
	}
	s := &Subscription{Headers: made}
	h, err := s.Header()
	if err != nil || len(h) != 3 || h.Get("X-Api-Key") != "abc 123~" || h.Get("Authorization") != "Bearer t0ken" {
		t.Errorf("%v, %v", h, err)
	}
	if got := fmt.Sprint(s.HeaderNames()); got != "[X-Api-Key Authorization X-Shop]" {
		t.Error(got)
	}
	if none, err := NewHeaders(nil); err != nil || !none.IsZero() {
		t.Errorf("none: %v", err)
	}
	if h, err := (&Subscription{}).Header(); h != nil || err != nil {
		t.Errorf("none: %v, %v", h, err)
	}
}

func TestNewHeaders_RefusesWhatWouldChangeTheRequestOrSpeakForUs(t *testing.T) {
	t.Parallel()
	var bad []Header
	for _, name := range []string{"", "Host", "Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Upgrade", "Expect", "webhook-id", "Webhook-Signature", "webhook-timestamp",
		"X-Signature", "x-signature", "X-Signature-2", "X-Event-Type", "X-Event-Id", "X-Tenant-Id", "Relay-Attempt", "X-Relay-Attempt", "User-Agent", "Accept-Encoding",
		"Idempotency-Key", "Cookie", "Via", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "X-HTTP-Method-Override", "X-Original-URL",
		"X-Rewrite-URL", "Date", "Traceparent", "X-", "X-\r\nHost", "X-A:B", "X A", "X-é", "X-" + strings.Repeat("a", 80), "X-A\x00"} {
		bad = append(bad, Header{name, "v"})
	}
	for _, value := range []string{"", " v", "v ", "a\r\nX-B: c", "a\nb", "a\x00b", "é", "a\tb", "\x7f", strings.Repeat("v", 2049)} {
		bad = append(bad, Header{"X-A", value})
	}
	for _, h := range bad {
		var wrong *HeaderError
		if _, err := NewHeaders([]Header{{"X-Good", "v"}, h}); !errors.As(err, &wrong) || wrong.Index != 1 {
			t.Errorf("%.40q: %.40q: %v", h.Name, h.Value, err)
		} else if len(h.Value) > 3 && strings.Contains(err.Error(), h.Value) {
			t.Errorf("%v repeats the value", err)
		}
	}
	if _, err := NewHeaders([]Header{{"X-A", "1"}, {"x-a", "2"}}); err == nil {
		t.Error("the same name twice")
	}
	many := make([]Header, 21)
	for i := range many {
		many[i] = Header{fmt.Sprintf("X-%d", i), "v"}
	}
	if _, err := NewHeaders(many); err == nil {
		t.Error("21 of them")
	}
}

// Rows may be written by other hands than ours.
func TestHeader_IsCheckedWhenItIsRead(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"x", "{}", `[["Host","evil"]]`, `[["X-A","a\r\nHost: evil"]]`, `[["x-a","1"]]`, `[["X-A"]]`, `[["X-A",""]]`} {
		if h, err := (&Subscription{Headers: secret.New(text)}).Header(); err == nil {
			t.Errorf("%s: %v", text, h)
		}
	}
	d := NewDirectory(anyURL, nil, nil)
	headers := `[["Host","evil"]]`
	ep := d.put(&Subscription{ID: uuid.New(), TenantID: "acme", URL: "https://a.test", Events: []string{"*"}, stored: newStored(testSecret, nil, nil, &headers, nil)})
	if fault := ep.spec.Load().fault; fault == "" {
		t.Error("an attempt would be made")
	}
}

func FuzzNewHeaders(f *testing.F) {
	f.Add("X-A", "v")
	f.Add("Authorization", "Bearer x")
	f.Add("Host", "a\r\nb")
	f.Fuzz(func(t *testing.T, name, value string) {
		made, err := NewHeaders([]Header{{name, value}})
		if err != nil {
			return
		}
		h, err := (&Subscription{Headers: made}).Header()
		if err != nil || len(h) != 1 || strings.ContainsAny(fmt.Sprint(h), "\r\n\x00") || !strings.EqualFold((&Subscription{Headers: made}).HeaderNames()[0], name) {
			t.Errorf("%q: %q became %v, %v", name, value, h, err)
		}
	})
}

func TestSubscriptions_SealHeadersLikeSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old, err := secret.GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	keys := keyring(t, old)
	headers, err := NewHeaders([]Header{{"X-Api-Key", "CANARY-of-a-header"}})
	if err != nil {
		t.Fatal(err)
	}
	sub := NewSubscription("acme", "https://a.test", []string{"*"}, testSecret)
	sub.Headers = headers
	store := Subscriptions{DB: w.pool, Keys: keys}
	if err := store.Add(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	row := func() (text string) {
		t.Helper()
		if err := w.pool.QueryRow(t.Context(), "SELECT s::text FROM relay.subscriptions s WHERE id = $1", sub.ID).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	if text := row(); strings.Contains(text, "CANARY") || strings.Count(text, "sealed:") != 2 {
		t.Errorf("the row is %s", text)
	}
	got, err := store.Get(t.Context(), sub.ID)
	if err != nil || got.Headers != headers {
		t.Errorf("%v, %v", got.HeaderNames(), err)
	}
	// What is sealed as a header is no secret, and the other way round.
	if _, err := w.pool.Exec(t.Context(), "UPDATE relay.subscriptions SET headers = secret WHERE id = $1", sub.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := store.Get(t.Context(), sub.ID); err != nil || got.Locked == nil {
		t.Errorf("a secret is taken for headers: %v", err)
	}
	if err := store.SetHeaders(t.Context(), sub.ID, headers); err != nil {
		t.Fatal(err)
	}
	// Without a key they stand as they are, and are sealed afterwards.
	plain := Subscriptions{DB: w.pool}
	other := NewSubscription("acme", "https://b.test", []string{"*"}, testSecret)
	other.Headers = headers
	if err := plain.Add(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	report, err := store.Seal(t.Context())
	if err != nil || report.Sealed != 1 || report.Already != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	var left int
	if err := w.pool.QueryRow(t.Context(), "SELECT count(*) FROM relay.subscriptions s WHERE s::text LIKE '%CANARY%'").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d rows have a header as it is, %v", left, err)
	}
}

func TestNewHeaders_TakesWhatTheOperatorAllowsBesides(t *testing.T) {
	t.Parallel()
	allow := []string{"CF-Access-*", "Ocp-Apim-Subscription-Key", "apikey", "X-Webhook-Secret"}
	list := []Header{{"CF-Access-Client-Id", "a"}, {"Ocp-Apim-Subscription-Key", "b"}, {"apikey", "c"}, {"X-Webhook-Secret", "d"}}
	made, err := NewHeaders(list, allow...)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := (&Subscription{Headers: made}).Header(); err != nil || len(h) != 4 || h.Get("apikey") != "c" {
		t.Errorf("%v, %v", h, err)
	}
	for _, h := range list {
		if _, err := NewHeaders([]Header{h}); err == nil || !strings.Contains(err.Error(), "the operator of the relay may allow others") || strings.Contains(err.Error(), "egress.") {
			t.Errorf("%s without an entry: %v", h.Name, err)
		}
	}
	if _, err := NewHeaders([]Header{{"Nothing", "v"}}, allow...); err == nil || !strings.Contains(err.Error(), "Tenant-Id, CF-Access-*, Ocp-Apim-Subscription-Key, apikey") {
		t.Errorf("what may be set is told as %v", err)
	}
	for _, name := range []string{"Host", "Content-Type", "webhook-id", "X-Signature"} {
		if _, err := NewHeaders([]Header{{name, "v"}}, "Host", "Content-*", "webhook-*", "X-*"); err == nil {
			t.Errorf("%s can be set", name)
		}
	}
}
