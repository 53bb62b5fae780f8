package output

import (
	"encoding/json"
	"strings"
	"testing"
)

// Every column that holds a secret makes it known, and does not itself count as showing it.
func TestWithoutSecrets_MakesThoseOfEachColumnKnown(t *testing.T) {
	t.Parallel()
	const key = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgcanarythatsings"
	row, err := json.Marshal(map[string]any{"url": "https://a.example", "secret": "a canary of the secret", "next_secret": "a canary of the next",
		"previous_secret": nil, "headers": `[["X-Api-Key","a canary of a header"]]`,
		"client_certificate": "-----BEGIN CERTIFICATE-----\nMIIBpublic\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n" + key + "\n-----END PRIVATE KEY-----\n"})
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{name: "TestRow"}
	defer w.end()
	rest, err := withoutSecrets(w, string(row))
	if err != nil || rest != `{"url":"https://a.example"}` {
		t.Errorf("%s, %v", rest, err)
	}
	for _, canary := range []string{"a canary of the secret", "a canary of the next", "a canary of a header", key} {
		w.failures = nil
		Check(w, "the log", "it says "+canary)
		if len(w.failures) != 1 || !strings.Contains(w.failures[0], canary) {
			t.Errorf("%s: %q", canary, w.failures)
		}
	}
	w.failures = nil
	if Check(w, "the log", "MIIBpublic"); len(w.failures) != 0 {
		t.Errorf("a certificate is shown to everybody: %q", w.failures)
	}
}
