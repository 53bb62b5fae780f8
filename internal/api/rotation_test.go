package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
)

// accepts tells whether the published verifier takes what a signer signs, with one secret.
func accepts(t *testing.T, key string, signer *signature.Signer) bool {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(key)
	if err != nil {
		t.Fatal(err)
	}
	h := make(http.Header)
	body := []byte(`{"a":1}`)
	signer.Headers(h, "0199a1c2-7f00-7000-8000-000000000001", time.Now().Unix(), body)
	sent := make(http.Header)
	for name, values := range h {
		sent.Set(name, values[0])
	}
	return wh.Verify(body, sent) == nil
}

func TestRotate_GoesThroughItsPhases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys, err := secret.GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	text, err := keys.Text()
	if err != nil {
		t.Fatal(err)
	}
	if w.keys, err = secret.NewKeyring(text); err != nil {
		t.Fatal(err)
	}
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	path := "/subscriptions/" + c.ID.String() + "/rotate-secret"
	step := func(body any, status int) (r Rotated) {
		t.Helper()
		a := w.call("POST", path, acme, body)
		if a.Status != status {
			t.Fatalf("%v: status %d, %s", body, a.Status, a.Text)
		}
		if status < 300 {
			a.into(t, &r)
		}
		return r
	}
	signer := func() *signature.Signer {
		t.Helper()
		sub, err := deliver.Subscriptions{DB: w.db, Keys: w.keys}.Get(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		s, err := sub.Signer(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, action := range []string{"promote", "expire", "unstage", "probe"} {
		step(`{"action":"`+action+`"}`, http.StatusConflict)
	}
	staged := step(nil, http.StatusOK)
	if staged.NextStagedAt == nil || !strings.HasPrefix(staged.NextSecret, "whsec_") || staged.NextSecret == c.Secret {
		t.Errorf("%+v", staged)
	}
	if s := signer(); !accepts(t, c.Secret, s) || !accepts(t, staged.NextSecret, s) {
		t.Error("staged: not both secrets verify")
	}
	step(`{}`, http.StatusConflict) // staged already

	var taken string // the secret that the endpoint takes
	w.mu.Lock()
	w.post = func(_ *deliver.Subscription, s *signature.Signer) (deliver.Outcome, error) {
		if accepts(t, taken, s) {
			return deliver.Outcome{StatusCode: 200}, nil
		}
		return deliver.Outcome{StatusCode: 401, Reason: deliver.ReasonHTTP4xx}, nil
	}
	w.mu.Unlock()
	taken = c.Secret
	if r := step(`{"action":"probe","promote":true}`, http.StatusOK); r.Probe.Success || r.NextStagedAt == nil || r.PreviousUntil != nil {
		t.Errorf("an endpoint that has the old secret: %+v", r)
	}
	taken = staged.NextSecret
	r := step(`{"action":"probe","promote":true,"keep_seconds":60}`, http.StatusOK)
	if !r.Probe.Success || r.NextStagedAt != nil || r.PreviousUntil == nil || time.Until(*r.PreviousUntil) > time.Minute {
		t.Errorf("an endpoint that has the new secret: %+v", r)
	}
	if s := signer(); !accepts(t, c.Secret, s) || !accepts(t, staged.NextSecret, s) {
		t.Error("promoted: not both secrets verify")
	}
	step(`{"action":"stage"}`, http.StatusConflict) // the old one still signs
	if r := step(`{"action":"expire"}`, http.StatusOK); r.PreviousUntil != nil {
		t.Errorf("expired: %+v", r)
	}
	if s := signer(); accepts(t, c.Secret, s) || !accepts(t, staged.NextSecret, s) {
		t.Error("expired: not the new secret alone verifies")
	}
	second := step(`{"action":"stage","secret":"a secret of our own, long enough"}`, http.StatusOK)
	if second.NextSecret != "a secret of our own, long enough" {
		t.Errorf("%+v", second)
	}
	step(`{"action":"unstage"}`, http.StatusOK)

	var stored string
	if err := w.db.QueryRow(t.Context(), "SELECT secret FROM relay.subscriptions").Scan(&stored); err != nil || !strings.HasPrefix(stored, "sealed:") {
		t.Errorf("stored: %.10s, %v", stored, err)
	}
	changes := w.call("GET", "/changes", acme, nil)
	for _, action := range []string{"secret.stage", "secret.promote", "secret.expire", "secret.unstage"} {
		if !strings.Contains(changes.Text, action) {
			t.Errorf("%s is not noted", action)
		}
	}
	for _, key := range []string{c.Secret, staged.NextSecret, "of our own", "sealed:"} {
		for what, text := range map[string]string{"changes": changes.Text, "log": w.logs.String(),
			"subscription": w.call("GET", "/subscriptions/"+c.ID.String(), acme, nil).Text, "list": w.call("GET", "/subscriptions", acme, nil).Text} {
			if strings.Contains(text, key) {
				t.Errorf("%s shows a secret", what)
			}
		}
	}
	if a := w.call("POST", path, acme, `{"secret":"whsec_CANARY!"}`); a.Status != 422 || strings.Contains(a.Text, "CANARY") || a.problem(t).Errors[0].Pointer != "/secret" {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
}

func TestRoutes_SayThatASecretDoesNotOpenAndNotWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	c := w.subscribe(acme)
	if _, err := w.db.Exec(t.Context(), "UPDATE relay.subscriptions SET secret = 'sealed:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'"); err != nil {
		t.Fatal(err)
	}
	path := "/subscriptions/" + c.ID.String()
	for _, call := range [][2]string{{"test", ""}, {"rotate-secret", `{}`}} {
		var body any
		if call[1] != "" {
			body = call[1]
		}
		a := w.call("POST", path+"/"+call[0], acme, body)
		if a.Status != http.StatusConflict || strings.Contains(a.Text, "key") || strings.Contains(a.Text, "sealed:") {
			t.Errorf("%s: status %d, %s", call[0], a.Status, a.Text)
		}
	}
	if a := w.call("GET", path, acme, nil); a.Status != 200 {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if !strings.Contains(w.logs.String(), "does not open") {
		t.Errorf("the log does not say why:\n%s", w.logs)
	}
}
