package webhook

import (
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
	"github.com/outbox-relay/relay/internal/signature"
)

// What the published SDK of CloudEvents sees in a request is the event, with every digit of its data, and the signature is of
// the same bytes.
func TestAttempt_SendsACloudEventThatThePublishedSDKTakes(t *testing.T) {
	t.Parallel()
	event := outbox.Event{ID: uuid.MustParse("0199a1c2-7f00-7000-8000-000000000001"), TenantID: "acme & söhne", AggregateType: "payment",
		AggregateID: `inv "1"`, Type: "payment.received", CreatedAt: time.Date(2026, 1, 31, 15, 4, 5, 123456000, time.UTC),
		Payload: []byte(`{"amount": 1500.00, "big":123456789012345678901234567890.10,"name":"Žofie <b> 🦊"}`)}
	flight := &deliver.Flight{EventID: event.ID, TenantID: event.TenantID, Type: event.Type, AggregateType: event.AggregateType,
		AggregateID: event.AggregateID, Body: event.Body()}
	sub := &deliver.Subscription{Format: deliver.FormatCloudEvents}
	body, err := sub.BodyFor(flight)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(body), `,"data":`+string(event.Payload)+"}") {
		t.Errorf("the data are not as they were written: %s", body)
	}
	if again, err := sub.BodyFor(flight); err != nil || string(again) != string(body) {
		t.Errorf("another attempt sends other bytes: %v", err)
	}
	type request struct {
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
	}
	got := make(chan request, 1)
	url := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || signature.Verify([]string{testSecret}, r.Header, b, time.Now(), signature.Tolerance) != nil {
			w.WriteHeader(http.StatusUnauthorized)
		}
		h := make(map[string]string)
		for name := range r.Header {
			h[strings.ToLower(name)] = r.Header.Get(name)
		}
		got <- request{h, string(b)}
	})
	r := mustRequest(t, url)
	signer, err := signature.NewSigner(testSecret)
	if err != nil {
		t.Fatal(err)
	}
	r.Signer, r.EventID, r.EventType, r.Body, r.ContentType = signer, event.ID.String(), event.Type, body, sub.ContentType()
	if out := mustPoster(t, 5*time.Second).Attempt(t.Context(), r); !out.Success() {
		t.Fatalf("%+v", out)
	}
	sent := <-got
	input, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("../../../test/verifiers")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "cloudevent.mjs")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(string(input))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v (make ensure-test-tools installs what is needed)\n%s", err, out)
	}
	var seen struct {
		ID, Source, Type, Time, Subject, Datacontenttype, Partitionkey, Tenantid, Aggregatetype string
		Data                                                                                    struct{ Name string }
	}
	if err := json.Unmarshal(out, &seen); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if seen.ID != event.ID.String() || seen.ID != sent.Headers["webhook-id"] || seen.Type != event.Type || seen.Source != "/tenants/acme%20&%20s%C3%B6hne" ||
		seen.Subject != event.AggregateID || seen.Partitionkey != event.AggregateID || seen.Tenantid != event.TenantID || seen.Aggregatetype != "payment" ||
		seen.Datacontenttype != "application/json" || !strings.HasPrefix(seen.Time, "2026-01-31T15:04:05.123") || seen.Data.Name != "Žofie <b> 🦊" {
		t.Errorf("the SDK sees %s", out)
	}
}
