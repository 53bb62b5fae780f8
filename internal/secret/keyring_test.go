package secret_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/secret"
)

func mustKeyset(t testing.TB) *secret.Keyset {
	t.Helper()
	set, err := secret.GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func mustText(t testing.TB, set *secret.Keyset) secret.Secret {
	t.Helper()
	text, err := set.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func mustRing(t testing.TB, set *secret.Keyset) *secret.Keyring {
	t.Helper()
	k, err := secret.NewKeyring(mustText(t, set))
	if err != nil || k == nil {
		t.Fatalf("got %v, %v", k, err)
	}
	return k
}

func mustSeal(t testing.TB, k *secret.Keyring, text, place string) string {
	t.Helper()
	stored, err := k.Seal(secret.New(text), place)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestKeyring_OpensWhatItSealed(t *testing.T) {
	k := mustRing(t, mustKeyset(t))
	for _, text := range []string{canary, "a", "", "line\nbreak", "sealed:nonsense", strings.Repeat("x", 1<<16), "\x00\xff"} {
		stored := mustSeal(t, k, text, "here")
		if len(text) > 3 && strings.Contains(stored, text[:4]) && text != "sealed:nonsense" {
			t.Errorf("%q is stored as %q", text, stored)
		}
		if id, sealed := secret.KeyOf(stored); !sealed || id != k.Primary() {
			t.Errorf("of %q: key %d, sealed %t", stored, id, sealed)
		}
		got, err := k.Open(stored, "here")
		if err != nil || got.Reveal() != text {
			t.Errorf("%q came back as %q, %v", text, got.Reveal(), err)
		}
		if again := mustSeal(t, k, text, "here"); again == stored {
			t.Error("the same text twice: the nonce repeats")
		}
	}
}

func TestKeyring_OpensAtItsOwnPlaceOnly(t *testing.T) {
	k := mustRing(t, mustKeyset(t))
	stored := mustSeal(t, k, canary, "row 1")
	for _, place := range []string{"", "row 2", "row 1 "} {
		if got, err := k.Open(stored, place); !errors.Is(err, secret.ErrLocked) || !got.IsZero() {
			t.Errorf("at %q: %v", place, err)
		}
	}
}

func TestKeyring_RefusesWhatWasTamperedWith(t *testing.T) {
	k := mustRing(t, mustKeyset(t))
	stored := mustSeal(t, k, canary, "here")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(stored, "sealed:"))
	if err != nil {
		t.Fatal(err)
	}
	spoilt := []string{"sealed:", "sealed:*", stored + "A", stored[:len(stored)-4], "sealed:" + stored}
	for i := range raw {
		b := append([]byte(nil), raw...)
		b[i] ^= 1
		spoilt = append(spoilt, "sealed:"+base64.StdEncoding.EncodeToString(b))
	}
	for n := range raw {
		spoilt = append(spoilt, "sealed:"+base64.StdEncoding.EncodeToString(raw[:n]))
	}
	for _, text := range spoilt {
		got, err := k.Open(text, "here")
		if !errors.Is(err, secret.ErrLocked) || !got.IsZero() {
			t.Errorf("%q opens: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

func TestKeyring_ReadsWhatIsStoredAsItIs(t *testing.T) {
	for _, k := range []*secret.Keyring{nil, mustRing(t, mustKeyset(t))} {
		for _, text := range []string{"", canary, "whsec_YWJjZA==", "Sealed:x", " sealed:x"} {
			if got, err := k.Open(text, "here"); err != nil || got.Reveal() != text {
				t.Errorf("%q came back as %q, %v", text, got.Reveal(), err)
			}
		}
	}
}

func TestKeyring_WithoutAKeyStoresAsItIsAndOpensNothingElse(t *testing.T) {
	var none *secret.Keyring
	if k, err := secret.NewKeyring(secret.Secret{}); k != nil || err != nil {
		t.Fatalf("of no keyset: %v, %v", k, err)
	}
	if stored := mustSeal(t, none, canary, "here"); stored != canary {
		t.Errorf("stored %q", stored)
	}
	if stored, err := none.Seal(secret.New("sealed:"+canary), "here"); !errors.Is(err, secret.ErrLooksSealed) || stored != "" {
		t.Errorf("got %q, %v", stored, err)
	}
	k := mustRing(t, mustKeyset(t))
	_, err := none.Open(mustSeal(t, k, canary, "here"), "here")
	if !errors.Is(err, secret.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("key %d", k.Primary())) ||
		!strings.Contains(err.Error(), "secrets.key_file") {
		t.Errorf("got %v; want the key's id and the way out", err)
	}
	if none.Primary() != 0 {
		t.Error("no keyring has a primary key")
	}
}

func TestKeyring_NamesTheKeyThatIsMissing(t *testing.T) {
	a, b := mustRing(t, mustKeyset(t)), mustRing(t, mustKeyset(t))
	_, err := b.Open(mustSeal(t, a, canary, "here"), "here")
	for _, want := range []string{fmt.Sprintf("key %d", a.Primary()), fmt.Sprintf("has %d", b.Primary()), "SIGHUP"} {
		if !errors.Is(err, secret.ErrLocked) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
}

func TestKeyring_OpensWithOldKeysAndSealsWithTheNewOne(t *testing.T) {
	first := mustKeyset(t)
	old := mustSeal(t, mustRing(t, first), canary, "here")

	staged, id, err := first.Add(false)
	if err != nil {
		t.Fatal(err)
	}
	k := mustRing(t, staged)
	if k.Primary() == id {
		t.Fatal("a key that is only added seals")
	}
	promoted, same, err := staged.Promote()
	if err != nil || same != id {
		t.Fatalf("promoted %d, %v; want %d", same, err, id)
	}
	if _, _, err := promoted.Promote(); !errors.Is(err, secret.ErrNothingStaged) {
		t.Errorf("promoted twice: %v", err)
	}
	k = mustRing(t, promoted)
	fresh := mustSeal(t, k, canary, "here")
	if got, _ := secret.KeyOf(fresh); k.Primary() != id || got != id {
		t.Errorf("sealed with %d, primary %d, want %d", got, k.Primary(), id)
	}
	for _, ring := range []*secret.Keyring{k, mustRing(t, staged)} { // of relays before and after they were told
		for _, stored := range []string{old, fresh} {
			if got, err := ring.Open(stored, "here"); err != nil || got.Reveal() != canary {
				t.Errorf("opens as %q, %v", got.Reveal(), err)
			}
		}
	}

	direct, id2, err := promoted.Add(true)
	if err != nil || mustRing(t, direct).Primary() != id2 {
		t.Fatalf("key %d is not the primary one: %v", id2, err)
	}
	kept, dropped, err := direct.Keep(func(key uint32) bool { return key == id })
	if err != nil || len(dropped) != 1 || len(kept.Keys()) != 2 {
		t.Fatalf("dropped %v, kept %v, %v", dropped, kept.Keys(), err)
	}
	if _, dropped, err := staged.Keep(func(uint32) bool { return false }); err != nil || len(dropped) != 0 {
		t.Errorf("a key that is only added is dropped: %v, %v", dropped, err)
	}
	if _, err := mustRing(t, kept).Open(old, "here"); !errors.Is(err, secret.ErrLocked) {
		t.Errorf("opens with a key that was dropped: %v", err)
	}
}

func TestNewKeyring_RefusesWhatIsNoKeysetAndShowsNothingOfIt(t *testing.T) {
	good := mustText(t, mustKeyset(t)).Reveal()
	for name, text := range map[string]string{
		"no JSON":          canary,
		"empty object":     "{}",
		"unknown field":    `{"` + canary + `":1}`,
		"value in a field": `{"primaryKeyId":"` + canary + `"}`,
		"cut off":          good[:len(good)-10],
		"another type":     strings.Replace(good, "AesGcmKey", "AesEaxKey", 1),
		"without prefix":   strings.Replace(good, `"TINK"`, `"RAW"`, 1),
		"disabled":         strings.Replace(good, `"ENABLED"`, `"DISABLED"`, 1),
		"no such primary":  strings.Replace(good, `"primaryKeyId":`, `"primaryKeyId":1`, 1),
		"an encrypted one": `{"encryptedKeyset":"` + base64.StdEncoding.EncodeToString([]byte(canary)) + `"}`,
		// AES-128: the length of the key and the key.
		"AES-128": `{"primaryKeyId":1,"key":[{"keyData":{"typeUrl":"type.googleapis.com/google.crypto.tink.AesGcmKey","value":"GhAAAAAAAAAAAAAAAAAAAAAA","keyMaterialType":"SYMMETRIC"},"status":"ENABLED","keyId":1,"outputPrefixType":"TINK"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			k, err := secret.NewKeyring(secret.New(text))
			if k != nil || !errors.Is(err, secret.ErrKeyset) {
				t.Fatalf("got %v, %v", k, err)
			}
			mustNotLeak(t, "error", err.Error())
			if strings.Contains(err.Error(), base64.StdEncoding.EncodeToString([]byte(canary))) {
				t.Errorf("the error shows the text: %v", err)
			}
		})
	}
}

func TestKeyset_NeverPrintsItself(t *testing.T) {
	set := mustKeyset(t)
	text := mustText(t, set).Reveal()
	_, value, _ := strings.Cut(text, `"value":"`)
	value, _, _ = strings.Cut(value, `"`)
	if len(value) < 40 {
		t.Fatalf("no key in %d bytes", len(text))
	}
	k := mustRing(t, set)
	for _, v := range []any{set, *set, k, *k} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, value) {
				t.Errorf("%s of %T shows the key", verb, v)
			}
		}
	}
}

func TestReplace_KeepsTheFileForItsOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "keys.json"), filepath.Join(dir, "link.json")
	if err := os.WriteFile(path, []byte(mustText(t, mustKeyset(t)).Reveal()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := secret.Exposed(link); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("a file that all may read: %v", err)
	}
	set, err := secret.ReadKeyset(link)
	if err != nil {
		t.Fatal(err)
	}
	next, _, err := set.Add(true)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Replace(link); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	if err := secret.Exposed(path); err != nil {
		t.Error(err)
	}
	got, err := secret.ReadKeyset(path)
	if err != nil || len(got.Keys()) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".keyset-*")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if _, err := secret.ReadKeyset(path + ".none"); err == nil {
		t.Error("no file is a keyset")
	}
	if err := next.Replace(path + ".none"); err == nil {
		t.Error("what is not there was replaced")
	}
}

func FuzzKeyring_Open(f *testing.F) {
	k := mustRing(f, mustKeyset(f))
	for _, text := range []string{"", canary, "sealed:", "sealed:AQAAAAA=", mustSeal(f, k, canary, "here"), mustSeal(f, k, canary, "there")} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, stored string) {
		got, err := k.Open(stored, "here")
		switch _, sealed := secret.KeyOf(stored); {
		case err == nil && !sealed && got.Reveal() != stored:
			t.Fatalf("%q is read as %q", stored, got.Reveal())
		case err == nil && sealed && got.Reveal() != canary:
			t.Fatalf("%q opens as %q", stored, got.Reveal())
		case err != nil && (!sealed || !errors.Is(err, secret.ErrLocked)):
			t.Fatalf("%q: %v", stored, err)
		}
	})
}
