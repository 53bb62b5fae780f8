package output

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// witness is a test whose failures are counted.
type witness struct {
	testing.TB
	name     string
	failures []string
	cleanups []func()
}

func (w *witness) Name() string     { return w.name }
func (w *witness) Helper()          {}
func (w *witness) Cleanup(f func()) { w.cleanups = append(w.cleanups, f) }
func (w *witness) Errorf(format string, args ...any) {
	w.failures = append(w.failures, fmt.Sprintf(format, args...))
}

func (w *witness) end() {
	for _, f := range slices.Backward(w.cleanups) {
		f()
	}
}

func TestCheck_FindsASecretInEveryForm(t *testing.T) {
	const secret = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cz8/Pg=="
	key := []byte("secret of the tests??>")
	for name, text := range map[string]string{
		"as it is":           secret,
		"without its prefix": "c2VjcmV0IG9mIHRoZSB0ZXN0cz8/Pg==",
		"its key":            string(key),
		"in a line":          `{"level":"INFO","msg":"` + secret + `"}`,
		"hexadecimal":        hex.EncodeToString(key),
		"capitals":           strings.ToUpper(hex.EncodeToString(key)),
		"hexadecimal text":   fmt.Sprintf("%x", secret),
		"base64":             base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 of more":     base64.StdEncoding.EncodeToString([]byte("user:" + secret + " and more")),
		"base64 of yet more": base64.StdEncoding.EncodeToString([]byte("users:" + secret)),
		"base64 of URLs":     base64.RawURLEncoding.EncodeToString(key),
		"in a URL":           "https://a.example/?s=" + url.QueryEscape(secret),
	} {
		w := &witness{name: "TestX"}
		Secret(w, secret)
		Check(w, "the text", text)
		if len(w.failures) != 1 || !strings.Contains(w.failures[0], "the text shows a secret") {
			t.Errorf("%s: %q", name, w.failures)
		}
		w.end()
	}
	w := &witness{name: "TestX"}
	Secret(w, secret)
	Secret(w, "x")
	Check(w, "the text", "whsec_ *** x, c2Vj")
	if w.end(); len(w.failures) != 0 {
		t.Errorf("nothing is shown, and yet %q", w.failures)
	}
}

func TestBuffer_LooksForSecretsAtTheEndOfItsTest(t *testing.T) {
	w := &witness{name: "TestX/one"}
	Begin(w)
	b := New(w, "the log")
	fmt.Fprint(b, "it is hunter2!")
	other, part := &witness{name: "TestY"}, &witness{name: "TestX/two"}
	defer func() { other.end(); part.end() }()
	Secret(other, "hunter2")
	b.check(w)
	if len(w.failures) != 0 {
		t.Errorf("what is another test's: %q", w.failures)
	}
	Secret(part, "hunter2") // known late, and by another part of the test
	if w.end(); len(w.failures) != 1 || b.Count("hunter2") != 1 {
		t.Errorf("at the end: %q", w.failures)
	}

	once := Once("relay token create")
	w = &witness{name: "TestZ"}
	fmt.Fprint(once, "made: swordfish")
	if said := once.Said(w); said != "made: swordfish" || len(w.failures) != 0 {
		t.Errorf("%q, %q", said, w.failures)
	}
	Secret(w, "swordfish")
	if w.end(); len(w.failures) != 0 {
		t.Errorf("what was shown once: %q", w.failures)
	}
}

func TestSecret_OfTheBinaryIsEachTests(t *testing.T) {
	Secret(nil, "correct horse")
	w := &witness{name: "TestX"}
	Check(w, "stdout", "correct horse")
	if w.end(); len(w.failures) != 1 {
		t.Errorf("%q", w.failures)
	}
}

func TestSecret_IsForgottenWithItsTest(t *testing.T) {
	before := len(all.of)
	w := &witness{name: "TestX"}
	Secret(w, "battery staple")
	w.end()
	w = &witness{name: "TestX"}
	Check(w, "stdout", "battery staple")
	if w.end(); len(w.failures) != 0 || len(all.of) > max(before, 1) {
		t.Errorf("%q, %d tests are known", w.failures, len(all.of))
	}
}

func TestBuffer_CannotBeWrittenToUnlessItWasMade(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it was written to")
		}
	}()
	_, _ = new(Buffer).Write(nil)
}

func TestMustNotice_RunsTheTestWithTheLeak(t *testing.T) {
	MustNotice(t, func() {
		Secret(t, "a canary that sings")
		_, _ = New(t, "the log").Write([]byte("a canary that sings"))
	})
}
