package signature_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/outbox-relay/relay/internal/signature"
)

// published is a request that verifiers written by others must accept, or not.
type published struct {
	Name      string `json:"-"`
	Secret    string `json:"secret"` // as the receiver holds it
	ID        string `json:"id"`
	Timestamp string `json:"timestamp"`
	Signature string `json:"signature"`
	Body      string `json:"body"`
	accepted  bool
}

// requests signs bodies that re-encoding would change, with one secret and with two, as of now, because the
// published verifiers read the clock. The last ones are spoilt.
func requests(t *testing.T) []published {
	t.Helper()
	const plain = "a plain secret, at least 24 bytes"
	shown, err := signature.Standard(plain)
	if err != nil {
		t.Fatal(err)
	}
	unpadded := "whsec_" + base64.RawStdEncoding.EncodeToString([]byte("twenty-five bytes of key."))
	padded, err := signature.Standard(unpadded)
	if err != nil {
		t.Fatal(err)
	}
	fresh, old := signature.NewSecret(), signature.NewSecret()
	now := time.Now().Unix()
	bodies := map[string]string{
		"plain":      `{"id":"evt_1","type":"payment.received","data":{"amount":1500.00}}`,
		"pretty":     "{\n  \"amount\" : 1500.00\n}\n",
		"unicode":    `{"name":"Žofie 🦊","escaped":"\u00e9","line":"\u2028 "}`,
		"big number": `{"amount":123456789012345678901234567890.10,"e":1E+2}`,
		"empty":      `{}`,
		"large":      `{"x":"` + strings.Repeat("0123456789", 30_000) + `"}`,
	}
	var all []published
	add := func(name string, secrets []string, held string, timestamp int64, body, sent string, accepted bool) {
		standard, _ := mustSigner(t, secrets...).Sign("0199a1c2-7f00-7000-8000-000000000001", timestamp, []byte(body))
		all = append(all, published{
			Name: name, Secret: held, ID: "0199a1c2-7f00-7000-8000-000000000001",
			Timestamp: strconv.FormatInt(timestamp, 10), Signature: standard, Body: sent, accepted: accepted,
		})
	}
	for name, body := range bodies {
		add(name, []string{fresh}, fresh, now, body, body, true)
		add(name+", plain secret", []string{plain}, shown, now, body, body, true)
		add(name+", unpadded secret", []string{unpadded}, padded, now, body, body, true)
		add(name+", receiver with the new secret", []string{fresh, old}, fresh, now, body, body, true)
		add(name+", receiver with the old secret", []string{fresh, old}, old, now, body, body, true)
		add(name+", other secret", []string{fresh}, old, now, body, body, false)
		add(name+", body altered", []string{fresh, old}, old, now, body, body+" ", false)
	}
	add("4 minutes old", []string{fresh}, fresh, now-240, "{}", "{}", true)
	add("6 minutes old", []string{fresh}, fresh, now-360, "{}", "{}", false)
	add("6 minutes ahead", []string{fresh}, fresh, now+360, "{}", "{}", false)
	return all
}

func TestSign_IsAcceptedByThePublishedGoModule(t *testing.T) {
	for _, r := range requests(t) {
		t.Run(r.Name, func(t *testing.T) {
			w, err := standardwebhooks.NewWebhook(r.Secret)
			if err != nil {
				t.Fatal(err)
			}
			h := http.Header{}
			h.Set(signature.HeaderID, r.ID)
			h.Set(signature.HeaderTimestamp, r.Timestamp)
			h.Set(signature.HeaderSignature, r.Signature)
			err = w.Verify([]byte(r.Body), h)
			if (err == nil) != r.accepted {
				t.Errorf("got %v, want accepted %t", err, r.accepted)
			}
			// Our own verifier is of the same opinion.
			err = signature.Verify([]string{r.Secret}, h, []byte(r.Body), time.Now(), signature.Tolerance)
			if (err == nil) != r.accepted {
				t.Errorf("ours says %v, want accepted %t", err, r.accepted)
			}
		})
	}
}

func TestVerify_AcceptsWhatThePublishedGoModuleSigns(t *testing.T) {
	now := time.Now()
	w, err := standardwebhooks.NewWebhook(specSecret)
	if err != nil {
		t.Fatal(err)
	}
	value, err := w.Sign("msg_1", now, body)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	h.Set(signature.HeaderID, "msg_1")
	h.Set(signature.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(signature.HeaderSignature, value)
	if err := signature.Verify([]string{specSecret}, h, body, now, signature.Tolerance); err != nil {
		t.Error(err)
	}
}

func TestSign_IsAcceptedByThePublishedNodePackage(t *testing.T) {
	dir, err := filepath.Abs("../../test/verifiers")
	if err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatalf("node is missing: run scripts/ensure-test-tools.sh (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "standardwebhooks", "package.json")); err != nil {
		t.Fatalf("the npm package standardwebhooks is missing: run scripts/ensure-test-tools.sh (%v)", err)
	}
	all := requests(t)
	input, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), node, "verify.mjs")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(input)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node verify.mjs: %v\n%s", err, stderr.String())
	}
	var results []struct {
		Accepted bool
		Reason   string
	}
	if err := json.Unmarshal(out, &results); err != nil || len(results) != len(all) {
		t.Fatalf("%d results for %d requests: %v", len(results), len(all), err)
	}
	for i, r := range all {
		if results[i].Accepted != r.accepted {
			t.Errorf("%s: accepted %t (%s), want %t", r.Name, results[i].Accepted, results[i].Reason, r.accepted)
		}
	}
}

// TestSign_LegacyVerifiesWithOpenSSL uses each way in which a shell script would hold the key: as text, and
// in hexadecimal.
func TestSign_LegacyVerifiesWithOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatalf("openssl is missing: run scripts/ensure-test-tools.sh (%v)", err)
	}
	digest := func(body []byte, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), openssl, append([]string{"dgst", "-sha256", "-r"}, args...)...)
		cmd.Stdin = bytes.NewReader(body)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl dgst: %v", err)
		}
		sum, _, _ := strings.Cut(string(out), " ")
		return sum
	}
	for _, secret := range []string{"plain-text-secret", "šifra-Ω-密码", specSecret, signature.NewSecret()} {
		key := mustKey(t, secret)
		for _, text := range []string{golden[0].body, "", golden[3].body, "\x00\xff\r\n", strings.Repeat("long", 50_000)} {
			_, legacy := mustSigner(t, secret).Sign("evt_1", 1700000000, []byte(text))
			hexKey := "hexkey:" + hex.EncodeToString(key)
			if got := digest([]byte(text), "-mac", "HMAC", "-macopt", hexKey); got != legacy {
				t.Errorf("openssl -macopt hexkey gives %s, we give %s", got, legacy)
			}
			if string(key) != secret {
				continue
			}
			if got := digest([]byte(text), "-hmac", secret); got != legacy {
				t.Errorf("openssl -hmac gives %s, we give %s", got, legacy)
			}
		}
	}
}
