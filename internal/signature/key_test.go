package signature_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/signature"
)

func TestKey_DerivesTheBytes(t *testing.T) {
	for _, tc := range []struct {
		name, secret, key string
	}{
		{"standard", "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef01234567")), "0123456789abcdef01234567"},
		{"padded", "whsec_YWJjZA==", "abcd"},
		{"padding missing", "whsec_YWJjZA", "abcd"},
		{"plus and slash", "whsec_+/+/", "\xfb\xff\xbf"},
		{"plain text", "plain text", "plain text"},
		{"plain text that is base64", "YWJjZA==", "YWJjZA=="},
		{"plain text beyond ASCII", "šifra-Ω-密码", "šifra-Ω-密码"},
		{"prefix in capitals is text", "WHSEC_YWJjZA==", "WHSEC_YWJjZA=="},
		{"prefix inside is text", "a whsec_YWJjZA==", "a whsec_YWJjZA=="},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key, err := signature.Key(tc.secret)
			if err != nil || string(key) != tc.key {
				t.Errorf("got %q, %v; want %q", key, err, tc.key)
			}
		})
	}
}

func TestKey_RefusesWhatReceiversWouldReadOtherwise(t *testing.T) {
	for name, secret := range map[string]string{
		"empty":                  "",
		"prefix alone":           "whsec_",
		"padding alone":          "whsec_====",
		"not base64":             "whsec_not base64!",
		"one character":          "whsec_A",
		"wrong padding":          "whsec_YWJjZA=",
		"padding in the middle":  "whsec_YWJj=ZA=",
		"trailing bits":          "whsec_YWJjZB==",
		"trailing bits unpadded": "whsec_YWJjZB",
		"line end":               "whsec_YWJjZA==\n",
		"line end inside":        "whsec_YW\nJjZA==",
		"URL-safe alphabet":      "whsec_-_-_",
		"invalid UTF-8":          "a\xffb",
	} {
		t.Run(name, func(t *testing.T) {
			key, err := signature.Key(secret)
			if !errors.Is(err, signature.ErrSecret) {
				t.Fatalf("got %q, %v", key, err)
			}
			if rest := strings.TrimPrefix(secret, "whsec_"); len(rest) > 2 && strings.Contains(err.Error(), rest) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestStandard_KeepsTheKey(t *testing.T) {
	for _, secret := range []string{"plain text", "whsec_YWJjZA", "whsec_YWJjZA==", signature.NewSecret()} {
		shown, err := signature.Standard(secret)
		if err != nil {
			t.Fatal(err)
		}
		want, got := mustKey(t, secret), mustKey(t, shown)
		if !strings.HasPrefix(shown, "whsec_") || !bytes.Equal(got, want) {
			t.Errorf("%q is shown as %q", secret, shown)
		}
	}
	if _, err := signature.Standard(""); !errors.Is(err, signature.ErrSecret) {
		t.Errorf("the empty secret gives %v", err)
	}
}

func TestNewSecret_IsRandomAndLongEnough(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		secret := signature.NewSecret()
		if seen[secret] {
			t.Fatal("the same secret twice")
		}
		seen[secret] = true
		if !strings.HasPrefix(secret, "whsec_") || len(mustKey(t, secret)) != 32 {
			t.Fatalf("%d bytes of key", len(mustKey(t, secret)))
		}
	}
}

func mustKey(t *testing.T, secret string) []byte {
	t.Helper()
	key, err := signature.Key(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func FuzzKey(f *testing.F) {
	for _, secret := range []string{"", "a", "whsec_", "whsec_YWJjZA==", "whsec_YWJjZA", "whsec_-_", "whsec_\n", "\xff"} {
		f.Add(secret)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		key, err := signature.Key(secret)
		if err != nil {
			if key != nil || !errors.Is(err, signature.ErrSecret) {
				t.Fatalf("got %q, %v", key, err)
			}
			return
		}
		if len(key) == 0 {
			t.Fatal("an empty key passed")
		}
		shown, err := signature.Standard(secret)
		if err != nil {
			t.Fatal(err)
		}
		again, err := signature.Key(shown)
		if err != nil || !bytes.Equal(again, key) {
			t.Fatalf("%q became %q: %q, %v", secret, shown, again, err)
		}
	})
}
