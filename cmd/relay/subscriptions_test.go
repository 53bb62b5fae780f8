package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/signature"
)

func TestSubscriptionsAdd_PrintsTheIDAloneAndAMadeSecretOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	r := s.relay("subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "payment.received",
		"--event", "sales_order.*").exits(0).complains("secret (shown this once): whsec_")
	id, err := uuid.Parse(strings.TrimSpace(r.out))
	if err != nil || r.out != id.String()+"\n" {
		t.Fatalf("stdout is %q, want an id alone", r.out)
	}
	made := strings.TrimSpace(strings.TrimPrefix(r.err, "secret (shown this once): "))
	if _, err := signature.NewSigner(made); err != nil {
		t.Error(err)
	}
	if got := s.text("SELECT secret FROM relay.subscriptions"); got != made {
		t.Errorf("stored is another secret than the one that was shown")
	}
	for _, args := range [][]string{{"list"}, {"list", "-o", "json"}, {"show", id.String()}, {"show", id.String(), "-o", "json"},
		{"disable", id.String(), "-o", "json"}, {"enable", id.String(), "-o", "json"}} {
		got := s.relay(append([]string{"subscriptions"}, args...)...).exits(0)
		if strings.Contains(got.out+got.err, made[6:]) {
			t.Errorf("relay %s shows the secret:\n%s", got.args, got.out)
		}
	}
}

func TestSubscriptionsAdd_PrintsTheObjectInJSON(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var got struct {
		deliver.Subscription
		Secret string `json:"secret"`
	}
	s.relay("subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "*", "--description", "the books",
		"--ordering", "none", "-o", "json").exits(0).quiet().decode(&got)
	if got.ID == uuid.Nil || got.TenantID != "acme" || got.Ordering != "none" || got.Description != "the books" || !got.Active ||
		!strings.HasPrefix(got.Secret, "whsec_") {
		t.Errorf("got %+v", got)
	}
}

func TestSubscriptionsAdd_TakesAGivenSecretAndIsSilentAboutIt(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	file := write(t, "secret", testSecret+"\n")
	for _, flags := range [][]string{{"--secret", testSecret}, {"--secret-file", file}} {
		s.relay(append([]string{"subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "*"}, flags...)...).
			exits(0).quiet()
		if got := s.text("SELECT secret FROM relay.subscriptions"); got != testSecret {
			t.Errorf("%v: stored is another secret", flags)
		}
		s.exec("DELETE FROM relay.subscriptions")
	}
	s.relay("subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "*", "--secret-file", file+".none").
		exits(exitFailed).complains("read secret")
}

func TestSubscriptionsAdd_WarnsOfAnEventThatNobodySends(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for pattern, want := range map[string]string{
		"payment.recieved":   "did you mean payment.received?",
		"Payment.received":   "did you mean payment.received?",
		"warehouse.exploded": "`relay events` lists the catalog",
		"warehouse.*":        "`relay events` lists the catalog",
	} {
		s.relay("subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", pattern, "--secret", testSecret).
			exits(0).complains("warning: no event type of the catalog matches", pattern, want)
	}
}

func TestSubscriptionsAdd_RefusesWhatTheEgressRuleRefuses(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, url := range []string{"https://10.0.0.1/x", "https://169.254.169.254/latest", "ftp://hooks.example.com", "https://me:pw@hooks.example.com/", "nonsense"} {
		s.relay("subscriptions", "add", "--tenant", "acme", "--url", url, "--event", "*").exits(exitUsage).complains("--url: ", "egress.allow")
	}
	s.relay("subscriptions", "add", "--tenant", "acme", "--url", "https://my_service:9000/", "--event", "*").exits(exitUsage).
		complains("--url: ", "underscore", "an entry my_service in egress.allow")
	if n := s.text("SELECT count(*)::text FROM relay.subscriptions"); n != "0" {
		t.Errorf("%s subscriptions were added", n)
	}
}

func TestSubscriptions_AreListedShownSwitchedAndRemoved(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a, b := s.subscribe("acme", "https://a.example/x"), s.subscribe("globex", "https://b.example/y")
	s.relay("subscriptions", "list").exits(0).quiet().says("ID", "TENANT", a, b, "acme", "globex", "active", "https://a.example/x")
	var list struct{ Items []deliver.Subscription }
	s.relay("subscriptions", "list", "--tenant", "globex", "-o", "json").exits(0).quiet().decode(&list)
	if len(list.Items) != 1 || list.Items[0].ID.String() != b {
		t.Errorf("of globex: %+v", list)
	}
	s.relay("subscriptions", "disable", a, "--reason", "moving house").exits(0).quiet().says("disabled " + a)
	s.relay("subscriptions", "show", a).exits(0).quiet().says("disabled", "moving house", "ordering")
	var one deliver.Subscription
	s.relay("subscriptions", "enable", a, "-o", "json").exits(0).quiet().decode(&one)
	if !one.Active || one.DisabledReason != nil {
		t.Errorf("after enable: %+v", one)
	}
	s.relay("subscriptions", "disable", a, "--reason", "moving house").exits(0)
	s.relay("subscriptions", "disable", a).exits(0).quiet().says("disabled already: "+a, "moving house")
	s.relay("subscriptions", "enable", a).exits(0).quiet().says("enabled " + a)
	s.exec("INSERT INTO relay.failing VALUES ($1, '2026-01-02T03:04:05Z', NULL)", a)
	s.relay("subscriptions", "list").exits(0).says("failing", "2026-01-02 03:04:05.000Z")
	s.relay("subscriptions", "show", a).exits(0).says("failing", "2026-01-02 03:04:05.000Z", "disabled after 2026-01-07 03:04:05.000Z")
	s.relay("subscriptions", "enable", a).exits(0).quiet().says("enabled "+a, "is forgotten")
	if r := s.relay("subscriptions", "list").exits(0); strings.Contains(r.out, "failing") {
		t.Errorf("it fails after it was enabled:\n%s", r.out)
	}
	s.relay("subscriptions", "remove", a).exits(exitUsage).complains("subscription "+a+" of acme to https://a.example/x is gone for good", "0 deliveries that wait", "add --yes")
	s.relay("subscriptions", "remove", a, "--dry-run").exits(0).quiet().says("is gone for good")
	if n := s.text("SELECT count(*)::text FROM relay.subscriptions"); n != "2" {
		t.Errorf("%s subscriptions are left without --yes, want 2", n)
	}
	s.relay("subscriptions", "remove", a, "--yes").exits(0).quiet().says("removed " + a)
	var removed struct {
		ID      string
		Removed bool
	}
	s.relay("subscriptions", "remove", b, "--yes", "-o", "json").exits(0).decode(&removed)
	if removed.ID != b || !removed.Removed {
		t.Errorf("got %+v", removed)
	}
	s.relay("subscriptions", "list", "-o", "json").exits(0).says(`"items": []`)
	for _, verb := range []string{"show", "remove", "enable", "disable", "test"} {
		s.relay("subscriptions", verb, a).exits(exitFailed).complains("subscription "+a, "not found")
	}
}

func TestSubscriptionsList_KeepsForeignTextFromTheTerminal(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.exec("INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES (E'a\\x1b[2J\\nb', 'https://a.example', '{*}', 's')")
	r := s.relay("subscriptions", "list").exits(0)
	if strings.Contains(r.out, "\x1b") || strings.Count(r.out, "\n") != 2 {
		t.Errorf("got %q", r.out)
	}
}

func TestSubscriptionsTest_PostsASignedEvent(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	recv := newReceiver(t, http.StatusAccepted)
	id := s.subscribe("acme", recv.URL)
	s.relay("subscriptions", "test", id).exits(0).quiet().says("HTTP 202 Accepted in ")
	var got testResult
	s.relay("subscriptions", "test", id, "-o", "json").exits(0).quiet().decode(&got)
	if !got.Success || got.StatusCode != http.StatusAccepted || got.DurationMicros <= 0 || got.SubscriptionID.String() != id {
		t.Errorf("got %+v", got)
	}
	if types, verified := recv.got(); verified != 2 || len(types) != 2 || types[0] != "relay.test" {
		t.Errorf("received %v, %d verify", types, verified)
	}
	if n := s.text("SELECT count(*)::text FROM relay.deliveries"); n != "0" {
		t.Errorf("%s deliveries are recorded", n)
	}
}

func TestSubscriptionsTest_FailsWhenTheEndpointDoes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	recv := newReceiver(t, http.StatusInternalServerError)
	id := s.subscribe("acme", recv.URL)
	s.relay("subscriptions", "test", id).exits(exitFailed).complains("did not take the test event", "http_5xx")
	var got testResult
	s.relay("subscriptions", "test", id, "-o", "json").exits(exitFailed).decode(&got)
	if got.Success || got.StatusCode != 500 || got.Reason != "http_5xx" {
		t.Errorf("got %+v", got)
	}
	recv.Close()
	s.relay("subscriptions", "test", id).exits(exitFailed).complains("connect")
	// The rule is asked again: the subscription may be older than it.
	call(t, "subscriptions", "test", id, "--database-url", s.url).exits(exitFailed).complains("refused")
}

// A relay that runs must not need to be told.
func TestSubscriptions_TakeEffectWhileARelayRuns(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	recv := newReceiver(t, http.StatusOK)
	s.subscribe("acme", recv.URL)
	s.commit("acme", "i1")
	s.eventually("the event arrives", func() bool { _, verified := recv.got(); return verified == 1 })
	var list struct{ Items []json.RawMessage }
	s.eventually("the delivery is recorded", func() bool {
		s.relay("deliveries", "list", "--status", "DELIVERED", "-o", "json").exits(0).decode(&list)
		return len(list.Items) == 1
	})
}

func TestSubscriptionsTry_TellsWhatWouldMatchAndWhatKeepsTheRestOut(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, amount := range []string{"99.99", "100.00", "250.00"} {
		s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'payment', 'p', 'payment.failed',
			json_build_object('payment_id', '1', 'invoice_id', '1', 'amount', '` + amount + `', 'currency', 'EUR'))`)
	}
	filter := `{"amount": {"$gte": 100}, "currency": "EUR"}`
	s.relay("subscriptions", "try", "--tenant", "acme", "--event", "payment.*", "--filter", filter).exits(0).
		says("payment.failed", "yes", "no: filter /amount/$gte").complains("2 of 3 events")
	s.relay("subscriptions", "try", "--tenant", "acme", "--event", "customer.*", "--last", "2").exits(0).says("another type").complains("0 of 2 events")
	var list struct {
		Items []struct {
			Event   string
			Matches bool
			Why     string
		}
	}
	s.relay("subscriptions", "try", "--tenant", "acme", "--event", "*", "--filter", filter, "-o", "json").exits(0).quiet().decode(&list)
	if len(list.Items) != 3 || !list.Items[0].Matches || list.Items[2].Matches || list.Items[2].Why != "filter /amount/$gte" {
		t.Errorf("%+v", list)
	}
	for _, args := range [][]string{{"--tenant", "acme"}, {"--event", "*"}, {"--tenant", "acme", "--event", "*", "--filter", `{"a":{"$ge":1}}`},
		{"--tenant", "acme", "--event", "a..b"}, {"--tenant", "acme", "--event", "*", "--last", "0"}} {
		s.relay(append([]string{"subscriptions", "try"}, args...)...).exits(exitUsage)
	}
}

func TestSubscriptionsAdd_KeepsAFilter(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	add := []string{"subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "*", "--filter"}
	id := strings.TrimSpace(s.relay(append(add, `{"amount": {"$gte": 100.50}}`)...).exits(0).out)
	s.relay("subscriptions", "show", id).exits(0).says(`{"amount":{"$gte":100.50}}`)
	var got deliver.Subscription
	s.relay("subscriptions", "show", id, "-o", "json").exits(0).decode(&got)
	if got.Filter == nil || got.Filter.String() != `{"amount":{"$gte":100.50}}` {
		t.Errorf("filter %v", got.Filter)
	}
	s.relay(append(add, `{"amount": {"$atleast": 100}}`)...).exits(exitUsage).complains("--filter: /amount/$atleast: no such operator; there are $eq")
}

func TestSubscriptions_ChangesByCommandAndBySQLAreOnRecordWithoutSecrets(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const canary = "CANARY-of-a-command"
	id := strings.TrimSpace(s.relay("subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "*", "--secret", canary,
		"--retry-schedule", "0s,1m30s").exits(0).out)
	s.relay("subscriptions", "disable", id, "--reason", "on holiday").exits(0)
	s.relay("subscriptions", "enable", id).exits(0)
	s.relay("subscriptions", "rotate-secret", id, "--stage").exits(0)
	s.exec("UPDATE relay.subscriptions SET url = 'https://other.example.com'")
	s.exec("UPDATE relay.subscriptions SET previous_secret = NULL") // changes nothing
	s.relay("subscriptions", "remove", id, "--yes").exits(0)
	got := s.text(`SELECT string_agg(actor || ' ' || action || ' ' || coalesce(before ->> 'url', '-') || ' ' || coalesce(after ->> 'url', '-'), ', ' ORDER BY id)
		FROM relay.changes WHERE tenant_id = 'acme' AND target = '` + id + `'`)
	const x, y = "https://hooks.example.com/x", "https://other.example.com"
	if want := "operator subscription.create - " + x + ", operator subscription.disable " + x + " " + x + ", operator subscription.enable " + x + " " + x +
		", operator secret.change " + x + " " + x + ", operator subscription.update " + x + " " + y + ", operator subscription.delete " + y + " -"; got != want {
		t.Errorf("on record: %s\nwant: %s", got, want)
	}
	if n := s.text("SELECT count(*)::text FROM relay.changes WHERE changes::text LIKE '%CANARY%' OR changes::text LIKE '%whsec_%'"); n != "0" {
		t.Errorf("%s changes show a secret", n)
	}
	if got := s.text("SELECT before ->> 'retry_schedule' FROM relay.changes WHERE action = 'subscription.disable'"); got != `["0ms", "90000ms"]` {
		t.Errorf("schedule %s", got)
	}
	if got := s.text("SELECT address FROM relay.changes WHERE action = 'subscription.disable'"); !strings.Contains(got, "relay disable") {
		t.Errorf("by %s", got)
	}
}

// What notes changes must never be why a change fails: the relay's own disabling is written with what it records.
func TestSubscriptions_NotingAChangeFailsNobody(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	id := s.subscribe("acme", "https://hooks.example.com/x")
	role := "backoffice_" + strings.ReplaceAll(id, "-", "_")
	s.exec("CREATE ROLE " + role)
	defer func() { s.exec("DROP OWNED BY " + role + "; DROP ROLE " + role) }()
	s.exec("GRANT USAGE ON SCHEMA relay TO " + role + "; GRANT SELECT, INSERT, UPDATE, DELETE ON relay.subscriptions TO " + role)
	s.exec("BEGIN; SET LOCAL ROLE " + role + "; UPDATE relay.subscriptions SET description = 'by hand'; COMMIT")
	for _, filter := range []string{`{"a":"b\u0000"}`, `{"a":1e999999}`} { // which json holds, and jsonb does not
		s.exec("UPDATE relay.subscriptions SET filter = '" + filter + "'")
		s.exec("UPDATE relay.subscriptions SET active = NOT active, updated_at = now()")
	}
	s.exec("UPDATE relay.subscriptions SET filter = NULL, tenant_id = 'globex'")
	s.exec("DELETE FROM relay.subscriptions")
	got := s.text("SELECT string_agg(tenant_id || ' ' || action, ', ' ORDER BY id) FROM relay.changes")
	if want := "acme subscription.create, acme subscription.update, acme subscription.update, acme subscription.disable, acme subscription.update, " +
		"acme subscription.enable, acme subscription.delete, globex subscription.create, globex subscription.delete"; got != want {
		t.Errorf("on record: %s\nwant: %s", got, want)
	}
	if n := s.text("SELECT count(*)::text FROM relay.changes WHERE tenant_id = 'globex' AND before ->> 'tenant_id' = 'acme'"); n != "0" {
		t.Error("a tenant sees how it was under another")
	}
}

func TestSubscriptionsAdd_TakesATimeoutUpToTheLongest(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	add := []string{"subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "*", "--secret", testSecret}
	for _, wrong := range []string{"91s", "1ms", "-1s"} {
		s.relay(append(add, "--timeout", wrong)...).exits(exitUsage).complains("--timeout", "from 100ms to 1m30s", "deliver.max_timeout")
	}
	r := s.relay(append(add, "--timeout", "60s")...).exits(0)
	s.relay("subscriptions", "show", strings.TrimSpace(r.out)).exits(0).says("timeout", "1m0s")
	s.relay("subscriptions", "show", strings.TrimSpace(r.out), "-o", "json").exits(0).says(`"timeout": "1m0s"`)
}

func TestSubscriptionsAdd_TakesHeadersThatTheOperatorAllows(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	file := write(t, "headers", "CF-Access-Client-Id: a\nX-Webhook-Secret: b\n")
	add := []string{"subscriptions", "add", "--tenant", "acme", "--url", "https://hooks.example.com/x", "--event", "*", "--secret", testSecret, "--headers-file", file}
	s.relay(add...).exits(exitUsage).complains("header 1: its name is not one that may be set", "egress.headers_allow")
	s.relay(append(add, "--set", "egress.headers_allow=CF-Access-*,X-Webhook-Secret")...).exits(0)
	s.relay(append(add, "--set", "egress.headers_allow=Host")...).exits(exitConfig).complains("egress.headers_allow", "HTTP needs")
}

// What intake or a receiver's library would refuse is refused where it is given, in words that name it.
func TestSubscriptionsAdd_RefusesWhatNobodyCouldUse(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const good = "whsec_CzBVep/E6Q4zWH2ix+wRNlugyvEUOV6DqM3yFzxhhqs="
	add := func(tenant, secret string) result {
		t.Helper()
		return s.relay("subscriptions", "add", "--tenant", tenant, "--url", "http://127.0.0.1:9/x", "--event", "*", "--secret", secret)
	}
	add("acme\r", good).exits(exitUsage).complains("--tenant: must not contain control characters")
	add(strings.Repeat("x", 256), good).exits(exitUsage).complains("--tenant: must not be longer than 255 bytes")
	for secret, why := range map[string]string{
		"":                            "it is empty",
		strings.TrimRight(good, "="):  "lacks its padding",
		"v1," + good:                  "something stands before whsec_",
		"WHSEC_" + good[6:]:           "begins almost like whsec_",
		good + "\n":                   "a line end",
		" sixteen bytes and a blank ": "begins or ends with a blank",
		"x":                           "its key has 1 bytes",
	} {
		r := add("acme", secret).exits(exitUsage).complains("--secret: ", why)
		if secret != "" && len(secret) > 8 && strings.Contains(r.err, secret) {
			t.Errorf("the secret is shown: %s", r.err)
		}
	}
	if n := s.text("SELECT count(*)::text FROM relay.subscriptions"); n != "0" {
		t.Errorf("%s subscriptions were added", n)
	}
	add("acme", "a passphrase").exits(0).complains("warning: the secret is weak: its key has 12 bytes")
	add("acme", good).exits(0).complains("")
}
