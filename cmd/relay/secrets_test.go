package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/secret"
	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/test/output"
)

// keyFile makes a keyset as an operator does.
func keyFile(t *testing.T) string {
	t.Helper()
	return write(t, "keys.json", call(t, "secrets", "generate-key").exits(0).quiet().out)
}

// keysIn are the keys themselves, as they stand in a keyset file; none when it cannot be read.
func keysIn(path string) []string {
	b, _ := os.ReadFile(path)
	var keys []string
	for _, part := range strings.Split(string(b), `"value":"`)[1:] {
		key, _, _ := strings.Cut(part, `"`)
		keys = append(keys, key)
	}
	return keys
}

// keysOf is keysIn of a file that has some.
func keysOf(t *testing.T, path string) []string {
	t.Helper()
	keys := keysIn(path)
	if len(keys) == 0 {
		t.Fatalf("no key in %s", path)
	}
	return keys
}

func TestSecretsGenerateKey_PrintsAKeysetThatTheConfigurationTakes(t *testing.T) {
	path := keyFile(t)
	other := keyFile(t)
	if keysOf(t, path)[0] == keysOf(t, other)[0] {
		t.Error("the same key twice")
	}
	r := call(t, "config", "print", "--set", "secrets.key_file="+path).exits(0).quiet().says("key: '***'", path)
	if strings.Contains(r.out, keysOf(t, path)[0]) {
		t.Errorf("the key is shown:\n%s", r.out)
	}
	call(t, "config", "check", "--set", "secrets.key_file="+path).exits(0).quiet()
	call(t, "config", "check", "--set", "secrets.key_file="+write(t, "keys.json", "{}")).exits(exitConfig).complains("Tink keyset", "generate-key")
}

func TestSecretsRotateKey_AddsKeysInTheOrderThatSeveralRelaysNeed(t *testing.T) {
	path := keyFile(t)
	first, err := secret.ReadKeyset(path)
	if err != nil {
		t.Fatal(err)
	}
	var got keysetReport
	call(t, "secrets", "rotate-key", "--key-file", path, "--promote").exits(exitFailed).complains("the primary one already")
	call(t, "secrets", "rotate-key", "--key-file", path, "--stage", "-o", "json").exits(0).quiet().decode(&got)
	if len(got.Keys) != 2 || got.Primary != first.Keys()[0].ID || !got.Keys[0].Primary || got.Keys[1].Primary || got.File != path {
		t.Errorf("staged: %+v", got)
	}
	staged := got.Keys[1].ID
	call(t, "secrets", "rotate-key", "--key-file", path, "--promote").exits(0).quiet().says(fmt.Sprint("key ", staged, " seals from now on"))
	call(t, "secrets", "rotate-key", "--key-file", path, "-o", "json").exits(0).quiet().decode(&got)
	if len(got.Keys) != 3 || got.Primary != got.Keys[2].ID {
		t.Errorf("added: %+v", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	call(t, "secrets", "rotate-key", "--key-file", path).exits(0).complains("warning: ", path, "0640", "chmod 600")
	call(t, "secrets", "rotate-key", "--key-file", path).exits(0).quiet()
	call(t, "secrets", "rotate-key").exits(exitUsage).complains("--key-file is required")
	call(t, "secrets", "rotate-key", "--key-file", path, "--stage", "--promote").exits(exitUsage).complains("exclude each other")
	call(t, "secrets", "rotate-key", "--key-file", path+".none").exits(exitFailed).complains("no such file")
	spoilt := write(t, "keys.json", `{"primaryKeyId":"canary-5f0e1d"}`)
	if r := call(t, "secrets", "rotate-key", "--key-file", spoilt).exits(exitFailed).complains(spoilt, "no Tink keyset"); strings.Contains(r.err, "canary") {
		t.Errorf("the file is shown: %s", r.err)
	}
}

func TestSecretsSeal_SealsWhatIsThereAndCanBeRunAgain(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a, b := s.subscribe("acme", "https://a.example/x"), s.subscribe("acme", "https://b.example/x")
	s.relay("secrets", "seal").exits(exitConfig).complains("secrets.key", "RELAY_SECRETS_KEY")
	path := keyFile(t)
	s.set = append(s.set, "--set", "secrets.key_file="+path)
	s.relay("subscriptions", "show", a).exits(0).quiet().says("stored as it is")
	c := s.subscribe("acme", "https://c.example/x") // every writer seals
	set, err := secret.ReadKeyset(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed := fmt.Sprint("sealed with key ", set.Keys()[0].ID)
	s.relay("subscriptions", "show", c).exits(0).quiet().says(sealed)
	var got deliver.SealReport
	s.relay("secrets", "seal", "-o", "json").exits(0).quiet().decode(&got)
	if got.Sealed != 2 || got.Already != 1 || len(got.Locked) != 0 {
		t.Errorf("got %+v", got)
	}
	s.relay("secrets", "seal").exits(0).quiet().says("0 subscriptions sealed with key ", ", 3 were already")
	s.relay("subscriptions", "show", a).exits(0).quiet().says(sealed)
	if n := s.text("SELECT count(*)::text FROM relay.subscriptions WHERE secret LIKE 'sealed:%'"); n != "3" {
		t.Errorf("%s are sealed", n)
	}

	// The old key goes when nothing needs it.
	s.relay("secrets", "rotate-key", "--key-file", path).exits(0)
	s.relay("secrets", "drop-keys", "--key-file", path, "--yes").exits(0).quiet().says("no key is dropped")
	s.relay("secrets", "seal").exits(0).quiet().says("3 subscriptions sealed")
	s.relay("secrets", "drop-keys", "--key-file", path, "--yes").exits(0).quiet().says("dropped key ", fmt.Sprint(set.Keys()[0].ID))
	s.relay("subscriptions", "show", a).exits(0).quiet().says("sealed with key ")

	// A sealed secret cannot be moved, and what does not open is left alone.
	s.exec("UPDATE relay.subscriptions SET secret = (SELECT secret FROM relay.subscriptions WHERE id = $1) WHERE id = $2", a, b)
	s.relay("secrets", "seal").exits(exitFailed).complains("subscription "+b, "sealed for another row", "1 subscriptions could not be opened")
	s.relay("subscriptions", "show", b).exits(0).says("does not open with this configuration")
	s.relay("subscriptions", "test", b).exits(exitFailed).complains("sealed for another row")
	s.set = s.set[:len(s.set)-2]
	s.relay("subscriptions", "list").exits(0).quiet().says(a, b, c) // no key is needed to look
	s.relay("subscriptions", "test", a).exits(exitFailed).complains("sealed with key", "secrets.key_file")
}

func TestSubscriptions_WarnOfAKeyFileThatOthersMayRead(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	path := keyFile(t)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	s.set = append(s.set, "--set", "secrets.key_file="+path)
	s.relay("subscriptions", "list").exits(0).complains("warning: ", path, "0644", "chmod 600")
}

// choosy is an endpoint that takes what verifies with one of its secrets.
type choosy struct {
	*httptest.Server
	mu      sync.Mutex
	secrets []string
	types   []string
}

func newChoosy(t *testing.T, secrets ...string) *choosy {
	t.Helper()
	c := &choosy{secrets: secrets}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := signature.Verify(c.secrets, req.Header, body, time.Now(), signature.Tolerance); err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		c.types = append(c.types, req.Header.Get("X-Event-Type"))
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *choosy) hold(secrets ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets = secrets
}

func TestRotateSecret_PromotesOnlyWhatTheEndpointTakes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set = append(s.set, "--set", "secrets.key_file="+keyFile(t))
	end := newChoosy(t, testSecret)
	id := s.subscribe("acme", end.URL)
	rotate := func(args ...string) result {
		t.Helper()
		return s.relay(append([]string{"subscriptions", "rotate-secret", id}, args...)...)
	}
	rotate("--promote").exits(exitFailed).complains("no next secret is staged")
	rotate("--probe").exits(exitFailed).complains("no next secret is staged")
	rotate("--expire").exits(exitFailed).complains("there is no previous secret")
	rotate("--unstage").exits(exitFailed).complains("no next secret is staged")

	r := rotate().exits(0).says("staged: ").complains("next secret (shown this once): whsec_")
	next := strings.TrimSpace(strings.TrimPrefix(r.err, "next secret (shown this once): "))
	rotate("--stage").exits(exitFailed).complains("staged already")
	s.relay("subscriptions", "show", id).exits(0).quiet().says("next secret", "staged 20")
	s.relay("subscriptions", "test", id).exits(0).quiet() // signed as deliveries are

	var got struct {
		deliver.Subscription
		Probe testResult
	}
	rotate("--probe", "--promote").exits(exitFailed).complains("http_4xx", "not promoted")
	rotate("--probe", "--promote", "-o", "json").exits(exitFailed).complains("not promoted").decode(&got)
	if got.Probe.Success || got.Probe.StatusCode != http.StatusUnauthorized || got.NextStagedAt == nil {
		t.Errorf("got %+v", got)
	}
	end.hold(testSecret, next)
	rotate("--probe").exits(0).quiet().says("probed: HTTP 200 OK in ")
	rotate("--probe", "--promote", "-o", "json").exits(0).quiet().decode(&got)
	if !got.Probe.Success || got.NextStagedAt != nil || got.PreviousExpiresAt == nil || time.Until(*got.PreviousExpiresAt) < 23*time.Hour {
		t.Errorf("got %+v", got)
	}
	end.hold(testSecret) // one that has not switched yet
	s.relay("subscriptions", "test", id).exits(0).quiet()
	s.relay("subscriptions", "show", id).exits(0).quiet().says("previous secret", "signs until 20")
	rotate().exits(exitFailed).complains("still signs")
	rotate("--expire").exits(0).quiet().says("expired: ")
	s.relay("subscriptions", "test", id).exits(exitFailed).complains("http_4xx")

	// After a leak, with a secret of one's own.
	file := write(t, "secret", testSecret+"\n")
	rotate("--stage", "--secret-file", file, "--promote", "--keep", "0s").exits(0).quiet().says("staged: ", "promoted: ")
	s.relay("subscriptions", "test", id).exits(0).quiet()
	rotate("--stage", "--secret-file", file).exits(exitFailed).complains("the next secret is the current one")
	rotate("--stage", "-o", "json").exits(0).quiet().says(`"next_secret": "whsec_`, `"next_secret_staged_at": "20`)
	rotate("--unstage").exits(0).quiet().says("unstaged: ")
	if n := s.text("SELECT count(*)::text FROM relay.deliveries"); n != "0" {
		t.Errorf("%s deliveries are recorded", n)
	}

	for args, want := range map[string]string{
		"--stage --expire": "go with no other step", "--unstage --expire": "go with no other step", "--promote --secret x": "are for --stage",
		"--keep 1h": "--keep is for --promote", "--promote --keep -1h": "expected 0s or more", "--stage --secret whsec_!": "secret: ",
	} {
		rotate(strings.Fields(args)...).exits(exitUsage).complains(want)
	}
}

// A canary in every place that holds a secret; nothing that people or machines read may show it.
func TestSecrets_AreShownNowhere(t *testing.T) {
	t.Parallel()
	const canary, nextCanary, lastCanary = "canary-current-7c1f93-0123456789", "canary-next-55d0aa-0123456789", "canary-last-b1e2c3-0123456789"
	s := newStage(t)
	path := keyFile(t)
	end := newChoosy(t, canary, nextCanary, lastCanary)
	dead := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	t.Cleanup(dead.Close)
	var shown bytes.Buffer
	run := func(args ...string) result {
		t.Helper()
		r := s.relay(args...)
		fmt.Fprintf(&shown, "relay %s: %d\n%s%s", r.args, r.code, r.out, r.err)
		return r
	}
	add := func(url, text string) string {
		t.Helper()
		return strings.TrimSpace(run("subscriptions", "add", "--tenant", "acme", "--url", url, "--event", "*", "--secret-file", write(t, "s", text)).exits(0).out)
	}
	ids := []string{add(end.URL, canary), add(dead.URL, canary)} // as they are
	s.set = append(s.set, "--set", "secrets.key_file="+path)
	ids = append(ids, add(end.URL, canary), add(dead.URL, canary)) // sealed
	d, log := s.startLogged("127.0.0.1:0")
	commit := func(invoice string) { s.commit("acme", invoice) }
	commit("i1")
	for _, id := range ids {
		for _, args := range []string{"--stage --secret-file " + write(t, "s", nextCanary), "--stage --secret-file " + write(t, "s", nextCanary), "--probe",
			"--probe --promote", "--promote --keep 1h -o json", "--promote", "--stage --secret-file " + write(t, "s", lastCanary), "-o json --expire",
			"--stage -o json --secret-file " + write(t, "s", lastCanary)} {
			run(append([]string{"subscriptions", "rotate-secret", id}, strings.Fields(args)...)...)
		}
		for _, verb := range []string{"show", "test", "disable", "enable"} {
			run("subscriptions", verb, id)
			run("subscriptions", verb, id, "-o", "json")
		}
		commit("i" + id)
	}
	s.eventually("events arrive", func() bool {
		end.mu.Lock()
		defer end.mu.Unlock()
		return len(end.types) > 8
	})
	run("secrets", "rotate-key", "--key-file", path)
	hidden := append(keysOf(t, path), canary, nextCanary, lastCanary, "sealed:A") // old and new key
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	run("secrets", "seal", "-o", "json")
	// What does not open: another row's, and of a key that nobody has.
	s.exec("UPDATE relay.subscriptions SET secret = (SELECT secret FROM relay.subscriptions WHERE id = $1) WHERE id = $2", ids[0], ids[1])
	s.set = append(s.set, "--set", "secrets.key_file="+keyFile(t))
	if err := d.Reload(); err == nil {
		t.Error("a keyset that opens nothing was taken")
	} else {
		fmt.Fprintln(&shown, err)
	}
	run("secrets", "seal")
	run("subscriptions", "rotate-secret", ids[2], "--promote")
	for _, form := range []string{"text", "json"} {
		for _, args := range []string{"subscriptions list", "deliveries list", "config print", "config check", "status", "audit", "secrets drop-keys --key-file " + path} {
			run(append(strings.Fields(args), "-o", form)...)
		}
	}
	for _, at := range []string{"/metrics", "/status", "/readyz?verbose", "/healthz"} {
		resp, err := http.Get("http://" + d.Addr() + at) //nolint:noctx // a test
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(&shown, resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := s.config()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&shown, "%v %+v %#v", cfg, cfg, cfg.Secrets)
	if err := errors.Join(config.Print(&shown, cfg), config.PrintJSON(&shown, cfg)); err != nil {
		t.Fatal(err)
	}
	all := shown.String() + log.String()
	for _, want := range []string{"sealed for another row", "promoted", "relay_subscriptions_locked"} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing says %q: this test looks at too little", want)
		}
	}
	for _, text := range hidden {
		if i := strings.Index(all, text); i >= 0 {
			t.Errorf("shown: %s", all[max(0, i-200):min(len(all), i+200)])
		}
	}
}

// Were a command to show a secret that it is given, every test here would fail.
func TestCall_NoticesASecretInWhatACommandPrints(t *testing.T) {
	t.Parallel()
	output.MustNotice(t, func() {
		call(t, "deliveries", "list", "-o", "canary-9", "--database-url", "postgres://me:canary-9@127.0.0.1:1/none")
	})
}
