package api

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/internal/token"
	"github.com/outbox-relay/relay/test/authority"
)

// given is a client certificate in a body.
func given(certificate, key string) map[string]any {
	return map[string]any{"client_certificate": map[string]string{"certificate": certificate, "key": key}}
}

// whole adds to a body what a subscription needs.
func whole(body map[string]any) map[string]any {
	body["url"], body["event"] = "https://h.example.com", "*"
	return body
}

func TestClientCertificate_IsKeptLikeASecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	set, err := secret.GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	text, err := set.Text()
	if err != nil {
		t.Fatal(err)
	}
	if w.keys, err = secret.NewKeyring(text); err != nil {
		t.Fatal(err)
	}
	acme, reader := w.token(token.RoleTenantWrite, "acme"), w.token(token.RoleTenantRead, "acme")
	root := authority.New(t, "root")
	certificate, key := root.Client(t, "ada")
	other, otherKey := root.Client(t, "bob")
	// What of a key may show up is any of its lines.
	var canaries []string
	for _, k := range []string{key, otherKey} {
		for line := range strings.Lines(k) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----END") {
				canaries = append(canaries, line)
			}
		}
	}
	silent := func(what, text string) {
		t.Helper()
		for _, c := range canaries {
			if strings.Contains(text, c) {
				t.Errorf("%s shows a key: %s", what, text)
			}
		}
	}
	answer := w.call("POST", "/subscriptions", acme, whole(given(certificate, key)))
	silent("the creation", answer.Text)
	var c Created
	if answer.into(t, &c); answer.Status != http.StatusCreated || c.ClientCertificate == nil || c.ClientCertificate.Subject != "CN=ada" ||
		len(c.ClientCertificate.Fingerprint) != 64 || c.ClientCertificate.State != "valid" || c.Warnings != nil {
		t.Fatalf("status %d, %s", answer.Status, answer.Text)
	}
	path := "/subscriptions/" + c.ID.String()
	pair := func() string {
		t.Helper()
		sub, err := deliver.Subscriptions{DB: w.db, Keys: w.keys}.Get(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		p, err := sub.ClientPair()
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			return "none"
		}
		return p.Leaf.Subject.CommonName
	}
	for _, step := range []struct {
		body any
		want string
	}{{`{"description":"x"}`, "ada"}, {given(other, otherKey), "bob"}, {`{"headers":[{"name":"X-A","value":"v"}]}`, "bob"}, {given("", ""), "none"},
		{given("", ""), "none"}, {given(certificate, key), "ada"}} {
		answer := w.call("PATCH", path, acme, step.body)
		silent("the change", answer.Text)
		if got := pair(); answer.Status != http.StatusOK || got != step.want {
			t.Errorf("%v: status %d, %s; it is %s's, want %s's", step.body, answer.Status, answer.Text, got, step.want)
		}
	}
	bare := w.subscribe(acme)
	if a := w.call("GET", "/subscriptions/"+bare.ID.String(), acme, nil); bare.ClientCertificate != nil || !strings.Contains(a.Text, `"client_certificate":null`) {
		t.Errorf("without one: %s", a.Text)
	}
	// Bodies that are refused, with a key in them, are neither repeated nor logged.
	for _, body := range []map[string]any{given(other, key), given(key, certificate), given("", key), given(certificate+key, key),
		{"client_certificate": map[string]string{"certificate": certificate, "key": key, "passphrase": key}}} {
		a := w.call("PATCH", path, acme, body)
		if silent("a refusal", a.Text); a.Status != http.StatusUnprocessableEntity {
			t.Errorf("status %d, %s", a.Status, a.Text)
		}
	}
	changes := w.call("GET", "/changes", reader, nil).Text
	for what, text := range map[string]string{"changes": changes, "log": w.logs.String(), "subscription": w.call("GET", path, reader, nil).Text,
		"list": w.call("GET", "/subscriptions", reader, nil).Text, "test": w.call("POST", path+"/test", acme, nil).Text} {
		silent(what, text)
	}
	if n := strings.Count(changes, c.ClientCertificate.Fingerprint); n < 3 {
		t.Errorf("the fingerprint is %d times in what was changed: %s", n, changes)
	}
	var rows string
	if err := w.db.QueryRow(t.Context(), "SELECT concat((SELECT string_agg(s::text, ' ') FROM relay.subscriptions s), (SELECT string_agg(c::text, ' ') FROM relay.changes c))").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	silent("the database", rows)
}

func TestClientCertificate_IsRefusedByField(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	root := authority.New(t, "root")
	certificate, key := root.Client(t, "ada")
	other, otherKey := root.Client(t, "bob")
	ended, endedKey := root.Issue(t, &x509.Certificate{NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Minute)})
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	path := "/subscriptions/" + w.subscribe(acme).ID.String()
	for name, c := range map[string]struct {
		body          map[string]any
		pointer, says string
	}{
		"not PEM":        {given("CANARY", key), "/client_certificate/certificate", "PEM"},
		"key not PEM":    {given(certificate, "CANARY"), "/client_certificate/key", "PEM"},
		"no key":         {given(certificate, ""), "/client_certificate/key", "PEM"},
		"another's key":  {given(certificate, otherKey), "/client_certificate/key", "not the key of the certificate"},
		"encrypted":      {given(certificate, authority.PEM("ENCRYPTED PRIVATE KEY", []byte("CANARY"))), "/client_certificate/key", "passphrase"},
		"weak":           {given(root.Sign(t, &x509.Certificate{}, weak.Public()), authority.Key(t, weak)), "/client_certificate/certificate", "1024 bits"},
		"ended":          {given(ended, endedKey), "/client_certificate/certificate", "ended at"},
		"two of them":    {given(certificate+other, key), "/client_certificate/certificate", "ertificate 2"},
		"too large":      {given(certificate+strings.Repeat("\n", 32<<10-len(certificate)), key), "/client_certificate/certificate", "32 KiB"},
		"much too large": {given(strings.Repeat("x", 33<<10), key), "/client_certificate/certificate", "32768"},
		"no field":       {map[string]any{"client_certificate": map[string]string{"certificate": certificate}}, "/client_certificate", "key"},
		"no object":      {map[string]any{"client_certificate": "CANARY"}, "/client_certificate", ""},
	} {
		for _, a := range []answer{w.call("PATCH", path, acme, c.body), w.call("POST", "/subscriptions", acme, whole(c.body))} {
			if delete(c.body, "url"); a.Status != http.StatusUnprocessableEntity || strings.Contains(a.Text, "CANARY") || strings.Contains(a.Text, "BEGIN") {
				t.Errorf("%s: status %d, %s", name, a.Status, a.Text)
				continue
			}
			if !slices.ContainsFunc(a.problem(t).Errors, func(f FieldError) bool {
				return strings.HasPrefix(f.Pointer, c.pointer) && strings.Contains(f.Detail+f.Pointer, c.says)
			}) {
				t.Errorf("%s: %s; want the field %s and %q", name, a.Text, c.pointer, c.says)
			}
		}
	}
	if a := w.call("POST", "/subscriptions", acme, whole(given("", ""))); a.Status != http.StatusUnprocessableEntity {
		t.Errorf("none of a new one: status %d, %s", a.Status, a.Text)
	}
}

func TestClientCertificate_WarnsOfWhatMayNotBeMeant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	acme := w.token(token.RoleTenantWrite, "acme")
	certificate, key := authority.New(t, "root").Issue(t, &x509.Certificate{NotAfter: time.Now().Add(10 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	a := w.call("POST", "/subscriptions", acme, whole(given(certificate, key)))
	var c Created
	if a.into(t, &c); a.Status != http.StatusCreated || len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0], "ends at") || !strings.Contains(c.Warnings[1], "clientAuth") ||
		c.ClientCertificate.State != "expiring" {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	// One that has ended since is seen to have.
	if s := viewCertificate(&deliver.Certificate{NotAfter: time.Now().Add(-time.Second)}).State; s != "expired" {
		t.Errorf("one that has ended is %s", s)
	}
}

// Without TLS it is never shown, and somebody would rely on it.
func TestClientCertificate_NeedsHTTPS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.plain(true)
	acme := w.token(token.RoleTenantWrite, "acme")
	certificate, key := authority.New(t, "root").Client(t, "ada")
	body := whole(given(certificate, key))
	body["url"] = "http://h.example.com"
	refused := func(a answer, pointer string) {
		t.Helper()
		if a.Status != http.StatusUnprocessableEntity || fmt.Sprint(a.problem(t).Errors[0].Pointer) != pointer || !strings.Contains(a.Text, "https") {
			t.Errorf("status %d, %s; want the field %s", a.Status, a.Text, pointer)
		}
	}
	refused(w.call("POST", "/subscriptions", acme, body), "/client_certificate")
	delete(body, "client_certificate")
	var c Created
	w.call("POST", "/subscriptions", acme, body).into(t, &c)
	path := "/subscriptions/" + c.ID.String()
	refused(w.call("PATCH", path, acme, given(certificate, key)), "/client_certificate")
	both := given(certificate, key)
	both["url"] = "https://h.example.com"
	if a := w.call("PATCH", path, acme, both); a.Status != http.StatusOK {
		t.Errorf("with an https URL at once: status %d, %s", a.Status, a.Text)
	}
	refused(w.call("PATCH", path, acme, `{"url":"http://h.example.com"}`), "/url")
	none := given("", "")
	none["url"] = "http://h.example.com"
	if a := w.call("PATCH", path, acme, none); a.Status != http.StatusOK {
		t.Errorf("taken away at once: status %d, %s", a.Status, a.Text)
	}
}

func TestClientCertificate_GoesWithTestEventsAndProbes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var seen []string
	w.post = func(s *deliver.Subscription, _ *signature.Signer) (deliver.Outcome, error) {
		pair, err := s.ClientPair()
		if err != nil {
			return deliver.Outcome{}, err
		}
		seen = append(seen, pair.Leaf.Subject.CommonName)
		return deliver.Outcome{StatusCode: 200}, nil
	}
	acme := w.token(token.RoleTenantWrite, "acme")
	certificate, key := authority.New(t, "root").Client(t, "ada")
	var c Created
	w.call("POST", "/subscriptions", acme, whole(given(certificate, key))).into(t, &c)
	path := "/subscriptions/" + c.ID.String()
	// A tenant sends one test event a second.
	post := func(path string, body any) answer {
		for {
			if a := w.call("POST", path, acme, body); a.Status != http.StatusTooManyRequests {
				return a
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	if a := post(path+"/test", nil); a.Status != http.StatusOK {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if a := w.call("POST", path+"/rotate-secret", acme, `{"action":"stage"}`); a.Status != http.StatusOK {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if a := post(path+"/rotate-secret", `{"action":"probe"}`); a.Status != http.StatusOK {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
	if fmt.Sprint(seen) != "[ada ada]" {
		t.Errorf("posted with the certificates of %v", seen)
	}
	// A row that other hands wrote sends nothing.
	if _, err := w.db.Exec(t.Context(), "UPDATE relay.subscriptions SET client_certificate = 'x' WHERE id = $1", c.ID); err != nil {
		t.Fatal(err)
	}
	if a := post(path+"/test", nil); a.Status != http.StatusConflict || len(seen) != 2 {
		t.Errorf("status %d, %s", a.Status, a.Text)
	}
}
