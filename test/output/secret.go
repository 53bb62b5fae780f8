package output

import (
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// shortest is how many bytes a secret must have: anything shorter stands somewhere by chance.
const shortest = 6

// known is what is known of one test, or of all.
type known struct {
	forms   map[string]string // what must not be seen, and the secret that it is a form of
	buffers []*Buffer
	users   map[string]bool // the test and its subtests that have not ended; when none is left it is forgotten
}

// all is by the name of a test, without its subtests; "" is the whole binary.
var all = struct {
	sync.Mutex
	of map[string]*known
}{of: make(map[string]*known)}

// ofTest returns what is known of a test, or of the whole binary for nil. all is locked.
func ofTest(t testing.TB) *known {
	name, full := "", ""
	if t != nil {
		full = t.Name()
		name, _, _ = strings.Cut(full, "/")
	}
	k := all.of[name]
	if k == nil {
		k = &known{forms: make(map[string]string), users: make(map[string]bool)}
		all.of[name] = k
	}
	if t != nil && !k.users[full] {
		k.users[full] = true
		t.Cleanup(func() {
			all.Lock()
			defer all.Unlock()
			if delete(k.users, full); len(k.users) == 0 {
				delete(all.of, name)
			}
		})
	}
	return k
}

// Begin remembers what is made known of a test, and what is kept for it, until the cleanups are done that the test asks for
// after this.
func Begin(t testing.TB) {
	all.Lock()
	defer all.Unlock()
	ofTest(t)
}

func keep(t testing.TB, b *Buffer) {
	all.Lock()
	defer all.Unlock()
	k := ofTest(t)
	k.buffers = append(k.buffers, b)
}

// Secret makes known that a text is a secret of a test, or with nil of all tests of the binary, and returns it. A text of less
// than six bytes is none.
func Secret(t testing.TB, text string) string {
	if len(text) < shortest {
		return text
	}
	all.Lock()
	defer all.Unlock()
	k := ofTest(t)
	for _, form := range forms(text) {
		k.forms[form] = text
	}
	return text
}

// forms are the texts by which a secret gives itself away.
func forms(text string) []string {
	out := []string{text}
	add := func(b []byte) {
		digits := hex.EncodeToString(b)
		out = append(out, digits, strings.ToUpper(digits))
		// Inside something longer, for example user:password, the first digits depend on what stands before.
		for before := range 3 {
			long := base64.StdEncoding.EncodeToString(append(make([]byte, before), b...))
			inner := long[(before*8+5)/6 : (before+len(b))*8/6]
			out = append(out, inner, strings.NewReplacer("+", "-", "/", "_").Replace(inner))
		}
		if escaped := url.QueryEscape(string(b)); escaped != string(b) {
			out = append(out, escaped, url.PathEscape(string(b)))
		}
	}
	add([]byte(text))
	if encoded, isKey := strings.CutPrefix(text, "whsec_"); isKey {
		out = append(out, encoded)
		if key, err := base64.StdEncoding.DecodeString(encoded); err == nil {
			out = append(out, string(key))
			add(key)
		}
	}
	return slices.DeleteFunc(out, func(s string) bool { return len(s) < shortest })
}

// Check fails a test for each of its secrets that a text shows. What says where the text is from.
func Check(t testing.TB, what, text string) {
	t.Helper()
	for form, secret := range shown(t, text) {
		i := strings.Index(text, form)
		t.Errorf("%s shows a secret, %q, by %q: %q", what, secret, form, text[max(0, i-200):min(len(text), i+len(form)+200)])
	}
}

// shown returns one form of each secret of a test, or of all tests, that stands in a text.
func shown(t testing.TB, text string) map[string]string {
	all.Lock()
	defer all.Unlock()
	found, seen := make(map[string]string), make(map[string]bool)
	for _, k := range []*known{ofTest(nil), ofTest(t)} {
		for form, secret := range k.forms {
			if !seen[secret] && strings.Contains(text, form) {
				seen[secret], found[form] = true, secret
			}
		}
	}
	return found
}
