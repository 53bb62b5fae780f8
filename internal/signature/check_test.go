package signature

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func TestCheck_RefusesWhatNoVerifierTakesAndTellsOfWhatIsWeak(t *testing.T) {
	t.Parallel()
	std := func(n int) string { // a good secret with a key of n bytes
		key := make([]byte, n)
		for i := range key {
			key[i] = byte(i*37 + 11)
		}
		return prefix + base64.StdEncoding.EncodeToString(key)
	}
	for secret, want := range map[string]string{
		std(32):                           "",
		std(24):                           "",
		std(64):                           "",
		NewSecret():                       "",
		std(16):                           "weak: its key has 16 bytes",
		std(65):                           "weak: its key has 65 bytes",
		"a passphrase":                    "weak: its key has 12 bytes",
		"apassphraseofmorethantwentyfour": "weak: it does not begin with whsec_",
		prefix + base64.StdEncoding.EncodeToString(make([]byte, 32)): "weak: its key is one byte",
		"":                              "it is empty",
		strings.TrimRight(std(32), "="): "lacks its padding",
		"v1," + std(32):                 "something stands before whsec_",
		strings.Replace(std(32), "whsec_", "WHSEC_", 1): "begins almost like whsec_",
		strings.Replace(std(32), "whsec_", "whsec-", 1): "begins almost like whsec_",
		std(32) + "\n":                 "a line end",
		" " + std(32):                  "begins or ends with a blank",
		"passphrase-of-enough-bytes\n": "begins or ends with a blank",
		"x":                            "its key has 1 bytes",
		std(1):                         "its key has 1 bytes",
		"whsec_":                       "nothing follows",
		"whsec_%%%%":                   "is not base64",
		"tr\u00fcgerische\u200bSchl\u00fcssel1234": "a character that is not printed",
	} {
		weak, err := Check(secret)
		got := ""
		switch {
		case err != nil:
			got = err.Error()
			if !errors.Is(err, ErrSecret) || len(secret) > 8 && strings.Contains(got, secret[7:]) {
				t.Errorf("%q: %v", secret, err)
			}
		case weak != "":
			got = "weak: " + weak
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: got %q, want %q", secret, got, want)
		}
	}
}
