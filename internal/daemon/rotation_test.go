package daemon_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/test/output"
)

// verdict is what two receivers, one with the old and one with the new secret, say of a request.
type verdict struct {
	old, new             bool // by the published Standard Webhooks module
	legacyOld, legacyNew bool // by X-Signature
}

// judge is an endpoint that says of each request who would accept it.
type judge struct {
	*httptest.Server
	mu   sync.Mutex
	last map[string]verdict // by order number
}

func newJudge(t *testing.T, old, next string) *judge {
	t.Helper()
	published := func(text string) *standardwebhooks.Webhook {
		w, err := standardwebhooks.NewWebhook(text)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	signer := func(text string) *signature.Signer {
		s, err := signature.NewSigner(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	byOld, byNew, legacyOld, legacyNew := published(old), published(next), signer(old), signer(next)
	j := &judge{last: make(map[string]verdict)}
	j.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		_, number, _ := strings.Cut(string(body), `"order_number" : "`)
		number, _, _ = strings.Cut(number, `"`)
		j.mu.Lock()
		defer j.mu.Unlock()
		j.last[number] = verdict{byOld.Verify(body, req.Header) == nil, byNew.Verify(body, req.Header) == nil,
			legacyOld.VerifyLegacy(req.Header, body) == nil, legacyNew.VerifyLegacy(req.Header, body) == nil}
	}))
	t.Cleanup(j.Close)
	return j
}

func (j *judge) of(number int) (verdict, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	v, ok := j.last[fmt.Sprint(number)]
	return v, ok
}

func newKeyset(t *testing.T) *secret.Keyset {
	t.Helper()
	set, err := secret.GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func keysetText(t *testing.T, set *secret.Keyset) secret.Secret {
	t.Helper()
	text, err := set.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (r *rig) store(keys secret.Secret) deliver.Subscriptions {
	r.t.Helper()
	ring, err := secret.NewKeyring(keys)
	if err != nil {
		r.t.Fatal(err)
	}
	pool, err := pgxpool.New(r.t.Context(), r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	return deliver.Subscriptions{DB: pool, Keys: ring}
}

func (r *rig) add(store deliver.Subscriptions, url, key string) uuid.UUID {
	r.t.Helper()
	sub := deliver.NewSubscription("acme", url, []string{"*"}, key)
	if err := store.Add(r.t.Context(), sub); err != nil {
		r.t.Fatal(err)
	}
	return sub.ID
}

func TestDaemon_RotatesASecretWithoutAReceiverThatMisses(t *testing.T) {
	t.Parallel()
	keys := keysetText(t, newKeyset(t))
	r := newRig(t, "RELAY_SECRETS_KEY="+keys.Reveal())
	old, next := signature.NewSecret(), signature.NewSecret()
	j := newJudge(t, old, next)
	store := r.store(keys)
	id := r.add(store, j.URL, old)
	d := r.start()
	number := 0
	// A change takes effect at once; what was committed after it is signed by it at the latest.
	expect := func(phase string, want verdict) {
		t.Helper()
		number++
		r.order("acme", fmt.Sprint("o", number), number)
		var got verdict
		r.eventually("the event arrives", func() (ok bool) { got, ok = j.of(number); return ok })
		if got != want {
			t.Errorf("%s: %+v, want %+v", phase, got, want)
		}
	}
	step := func(_ *deliver.Subscription, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("before", verdict{old: true, legacyOld: true})
	step(store.StageSecret(t.Context(), id, secret.New(next)))
	expect("staged", verdict{old: true, new: true, legacyOld: true})
	step(store.PromoteSecret(t.Context(), id, deliver.Promotion{Keep: 24 * time.Hour}))
	expect("promoted", verdict{old: true, new: true, legacyNew: true})
	step(store.ExpireSecret(t.Context(), id))
	expect("expired", verdict{new: true, legacyNew: true})

	// Back, and the secret before goes by itself.
	step(store.StageSecret(t.Context(), id, secret.New(old)))
	step(store.PromoteSecret(t.Context(), id, deliver.Promotion{Keep: 1500 * time.Millisecond}))
	expect("promoted again", verdict{old: true, new: true, legacyOld: true})
	r.eventually("the time is over", func() bool {
		return r.number("SELECT count(*) FROM relay.subscriptions WHERE previous_secret_expires_at < clock_timestamp() - interval '10 ms'") == 1
	})
	expect("expired by itself", verdict{old: true, legacyOld: true})
	d.stop()
	if n := r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED' AND attempts = 1"); n != number {
		t.Errorf("%d of %d were taken at the first attempt", n, number)
	}
	for _, text := range []string{old, next, keys.Reveal()} {
		if log := d.log.String(); strings.Contains(log, text) || strings.Contains(log, strings.TrimPrefix(text, "whsec_")) {
			t.Errorf("the log shows a secret")
		}
	}
}

func TestDaemon_SaysOnceThatSecretsAreNotSealed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start()
	d.stop()
	if n := strings.Count(d.log.String(), "relay secrets generate-key"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, d.log.String())
	}
	r.env = append(r.env, "RELAY_SECRETS_KEY="+keysetText(t, newKeyset(t)).Reveal())
	d = r.start()
	d.stop()
	if strings.Contains(d.log.String(), "generate-key") {
		t.Errorf("said although they are:\n%s", d.log.String())
	}
}

// An operator sealed with a key that the relay was not told of, and tells it.
func TestDaemon_HoldsWhatItCannotOpenUntilAReloadBringsTheKey(t *testing.T) {
	t.Parallel()
	set := newKeyset(t)
	text := keysetText(t, set)
	r := newRig(t)
	rec := newReceiver(t)
	plain := newReceiver(t)
	r.subscribe("acme", plain.URL, "*")
	id := r.add(r.store(text), rec.URL, testSecret)
	env := r.env
	r.reload = func() (*config.Config, error) { return config.Load(config.LoadOptions{Environ: env}) }
	d := r.start()
	for i := range 20 {
		r.order("acme", fmt.Sprint("o", i%3), i)
	}
	r.eventually("the others have theirs", func() bool { return len(plain.arrivals()) == 20 })
	r.eventually("what cannot be signed is parked", func() bool { return r.number("SELECT count(*) FROM relay.parked WHERE attempts = 0") == 20 })
	r.eventually("the stream is confirmed", func() bool {
		return r.number("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::int FROM pg_replication_slots WHERE database = current_database()") < 100_000
	})
	log := d.log.String()
	for _, want := range []string{id.String(), fmt.Sprintf("key %d", set.Keys()[0].ID), "secrets.key_file", "cannot be opened"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if len(rec.arrivals()) != 0 {
		t.Error("something was sent")
	}

	env = append(env, "RELAY_SECRETS_KEY="+text.Reveal())
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	r.eventually("what waited arrives", func() bool { return len(rec.arrivals()) == 20 })
	rec.mustVerify(t)
	next, _, err := set.Add(true)
	if err != nil {
		t.Fatal(err)
	}
	env = append(env, "RELAY_SECRETS_KEY="+keysetText(t, next).Reveal())
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	if report, err := r.store(keysetText(t, next)).Seal(t.Context()); err != nil || report.Sealed != 2 {
		t.Fatalf("got %+v, %v", report, err)
	}
	r.order("acme", "o1", 20)
	r.eventually("it goes on", func() bool { return len(rec.arrivals()) == 21 && len(plain.arrivals()) == 21 })

	env = append(env, "RELAY_SECRETS_KEY="+keysetText(t, newKeyset(t)).Reveal())
	if err := d.Reload(); err == nil || !strings.Contains(err.Error(), "2 subscriptions") {
		t.Errorf("a keyset that opens nothing was taken: %v", err)
	}
	r.order("acme", "o1", 21)
	r.eventually("the old one stays in force", func() bool { return len(rec.arrivals()) == 22 && len(plain.arrivals()) == 22 })
	rec.mustVerify(t)
	plain.mustVerify(t)
	d.stop()
}

// Were the daemon to log a secret, or to write one into its tables, every test here would fail.
func TestRig_NoticesASecretInTheLog(t *testing.T) {
	t.Parallel()
	output.MustNotice(t, func() {
		output.Secret(t, "public addresses are dialed") // which it says at each start
		newRig(t).start().stop()
	})
}

func TestRig_NoticesASecretInTheHistory(t *testing.T) {
	t.Parallel()
	output.MustNotice(t, func() { // the secret is known from the subscription itself
		r := newRig(t)
		r.exec("INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES ('acme', 'https://a.example', '{*}', 'canary of the history')")
		r.exec(`INSERT INTO relay.changes (tenant_id, actor, action, target, after, request_id, address)
			VALUES ('acme', 'x', 'x', 'x', jsonb_build_object('secret', encode('canary of the history', 'hex')), '', '')`)
	})
}
