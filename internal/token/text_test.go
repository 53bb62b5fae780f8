package token

import (
	"bytes"
	"errors"
	"hash/crc32"
	"math/big"
	"regexp"
	"strings"
	"testing"
)

var form = regexp.MustCompile(`^relay_[0-9A-Za-z]{59}$`)

func TestGenerate_MakesTextsThatParseAndNeverTheSame(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 200 {
		text := generate().Reveal()
		if !form.MatchString(text) {
			t.Fatalf("a token of %d characters that is not prefix and base 62", len(text))
		}
		lookup, hash, err := parse(text)
		if err != nil || len(lookup) != lookupLen || bytes.Equal(hash[:], make([]byte, len(hash))) {
			t.Fatalf("parse: lookup of %d characters, %v", len(lookup), err)
		}
		if seen[lookup] || seen[text] {
			t.Fatal("the same twice")
		}
		seen[lookup], seen[text] = true, true
	}
}

// The checksum is what a secret scanner computes: CRC-32 (IEEE) of all before it, in base 62, padded to six.
func TestParse_WantsTheChecksumThatScannersCompute(t *testing.T) {
	t.Parallel()
	body := prefix + strings.Repeat("a", lookupLen+randomLen)
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	n, sum := new(big.Int).SetUint64(uint64(crc32.ChecksumIEEE([]byte(body)))), ""
	for range 6 {
		var digit big.Int
		n.DivMod(n, big.NewInt(62), &digit)
		sum = string(digits[digit.Int64()]) + sum
	}
	if _, _, err := parse(body + sum); err != nil {
		t.Fatal(err)
	}
	for i := range body + sum {
		b := []byte(body + sum)
		b[i] ^= 1
		if _, _, err := parse(string(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("with another character %d it is still taken", i)
		}
	}
}

func TestParse_RefusesWhatIsNoToken(t *testing.T) {
	t.Parallel()
	good := generate().Reveal()
	for name, text := range map[string]string{
		"nothing": "", "short": good[:len(good)-1], "long": good + "0", "space": good[:20] + " " + good[21:], "other prefix": "ghp_" + good[4:],
		"NUL": good[:30] + "\x00" + good[31:], "not UTF-8": good[:30] + "\xff" + good[31:], "very long": strings.Repeat(good, 10_000),
		"injection": "relay_' OR 1=1 --" + strings.Repeat("0", length-17),
	} {
		if _, _, err := parse(text); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(generate().Reveal())
	f.Add("relay_")
	f.Fuzz(func(t *testing.T, text string) {
		lookup, _, err := parse(text)
		if err == nil && (len(text) != length || !strings.Contains(text, lookup)) {
			t.Errorf("%q is taken", text)
		}
	})
}
