package receivers_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	verify "github.com/outbox-relay/relay/examples/receivers/go"
)

// delivery is a request as a receiver sees it.
type delivery struct {
	name     string
	accepted bool
	Secret   string            `json:"secret"`
	Headers  map[string]string `json:"headers"`
	Body     []byte            `json:"body"`
}

const (
	eventID = "0199a1c2-7f00-7000-8000-000000000001"
	plain   = "a plain secret, at least 24 bytes"
)

// sign asks the published Standard Webhooks module, not this project's signer.
func sign(t *testing.T, key []byte, at time.Time, body string) string {
	t.Helper()
	hook, err := standardwebhooks.NewWebhookRaw(key)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := hook.Sign(eventID, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

func deliveries(t *testing.T) []delivery {
	t.Helper()
	const body = `{"id":"e","type":"payment.received","data":{"amount":1500.00,"name":"Žofie 🦊\u2028"}}` + "\n"
	key := []byte("twenty-five bytes of key.")
	encoded := "whsec_" + base64.StdEncoding.EncodeToString(key)
	now := time.Now()
	good, stray := sign(t, key, now, body), sign(t, []byte("another key of twenty-four"), now, body)
	stamp := strconv.FormatInt(now.Unix(), 10)

	var all []delivery
	add := func(accepted bool, name, secret, at, signatures, body string) {
		all = append(all, delivery{name, accepted, secret, map[string]string{
			"webhook-id": eventID, "webhook-timestamp": at, "webhook-signature": signatures,
		}, []byte(body)})
	}
	aged := func(d time.Duration) (at, signature string) {
		then := now.Add(d)
		return strconv.FormatInt(then.Unix(), 10), sign(t, key, then, body)
	}
	add(true, "whsec secret", encoded, stamp, good, body)
	add(true, "plain secret", plain, stamp, sign(t, []byte(plain), now, body), body)
	add(true, "empty body", encoded, stamp, sign(t, key, now, ""), "")
	add(true, "body that is not UTF-8", encoded, stamp, sign(t, key, now, "\xff\x00"), "\xff\x00")
	add(true, "rotating, second matches", encoded, stamp, stray+" "+good, body)
	add(true, "rotating, first matches", encoded, stamp, good+" "+stray, body)
	add(true, "beside a version of later", encoded, stamp, "v1a,AAAA rubbish "+good, body)
	at, signature := aged(-4 * time.Minute)
	add(true, "four minutes old", encoded, at, signature, body)
	at, signature = aged(-6 * time.Minute)
	add(false, "six minutes old", encoded, at, signature, body)
	at, signature = aged(6 * time.Minute)
	add(false, "six minutes ahead", encoded, at, signature, body)
	add(false, "altered body", encoded, stamp, good, strings.TrimSpace(body))
	add(false, "altered time", encoded, strconv.FormatInt(now.Unix()+1, 10), good, body)
	add(false, "another key", encoded, stamp, stray, body)
	add(false, "whsec text taken as the key", encoded, stamp, sign(t, []byte(encoded), now, body), body)
	add(false, "no version", encoded, stamp, strings.TrimPrefix(good, "v1,"), body)
	add(false, "another version", encoded, stamp, "v2"+strings.TrimPrefix(good, "v1"), body)
	add(false, "cut signature", encoded, stamp, good[:len(good)-1], body)
	add(false, "longer signature", encoded, stamp, good+"=", body)
	add(false, "joined by a comma", encoded, stamp, stray+","+good, body)
	add(false, "no signature", encoded, stamp, "", body)
	add(false, "not ASCII", encoded, stamp, "v1,é", body)
	add(false, "empty secret", "", stamp, good, body)
	add(false, "whsec without key", "whsec_", stamp, good, body)
	for _, odd := range []string{"", "now", "1.5", "-1", "²", "0x10", " ", strings.Repeat("9", 30), strings.Repeat("9", 5000)} {
		add(false, "timestamp "+odd, encoded, odd, good, body)
	}
	for _, header := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
		d := all[0]
		d.name, d.accepted, d.Headers = "without "+header, false, map[string]string{}
		for name, value := range all[0].Headers {
			if name != header {
				d.Headers[name] = value
			}
		}
		all = append(all, d)
	}
	return all
}

// check runs an interpreter over all deliveries. Its absence is a failure: an example that nothing runs goes stale.
func check(t *testing.T, interpreter, script string) {
	t.Helper()
	if _, err := exec.LookPath(interpreter); err != nil {
		t.Fatalf("%s is not in PATH; install it (Debian: apt-get install python3 nodejs) and run again", interpreter)
	}
	all := deliveries(t)
	input, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), interpreter, script)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", interpreter, script, err, &stderr)
	}
	var said []bool
	if err := json.Unmarshal(output, &said); err != nil || len(said) != len(all) {
		t.Fatalf("%s said %s: %v", interpreter, output, err)
	}
	for i, d := range all {
		if said[i] != d.accepted {
			t.Errorf("%.60s: accepted %t, want %t", d.name, said[i], d.accepted)
		}
	}
}

func TestPython_VerifiesWhatThePublishedModuleSigned(t *testing.T) {
	check(t, "python3", "testdata/run.py")
}

func TestNode_VerifiesWhatThePublishedModuleSigned(t *testing.T) {
	check(t, "node", "testdata/run.mjs")
}

func TestGo_VerifiesWhatThePublishedModuleSigned(t *testing.T) {
	for _, d := range deliveries(t) {
		h := http.Header{}
		for name, value := range d.Headers {
			h.Set(name, value)
		}
		if said := verify.Verify(d.Secret, h, d.Body, 5*time.Minute); said != d.accepted {
			t.Errorf("%.60s: accepted %t, want %t", d.name, said, d.accepted)
		}
	}
}
