package signature_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/outbox-relay/relay/internal/signature"
)

// specSecret is the secret in the test suites of the published libraries.
const specSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// golden are vectors computed with another implementation of HMAC; the first is the one that the published
// libraries share.
var golden = []struct {
	name, secret, id string
	timestamp        int64
	body             string
	standard, legacy string
}{
	{
		"of the specification", specSecret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, `{"test": 2432232314}`,
		"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		"e2cb4f5251572539d458bfb8a7adb533b08801e6a794467e06f771debbb0818b",
	},
	{
		"plain secret, big number", "plain text secret", "evt_1", 1700000000,
		`{"amount":1500.00,"n":123456789012345678901234567890}`,
		"v1,rH9M6p8tuTsaHdifCTHojHdAqQaTas45T6V4bUIEr5M=",
		"cb4a3558cf27b3212400e81f2af6e1716a0eba849dbdd08380cac284631d6775",
	},
	{
		"empty body", specSecret, "evt_1", 1700000000, "",
		"v1,oBpYuMiV1A+3rHbB1OJfN4Z0ytu+rZe53/sHdi1qKjg=",
		"fd9de8dedd17b98b1f3d0def84ae1d8bf94dbfc3c77dbaf0c510fe56e7be79e6",
	},
	{
		"beyond ASCII", "šifra-Ω-密码", "0199a1c2-7f00-7000-8000-000000000001", 1700000001, "{\"name\":\"Žofie 🦊\"}\n",
		"v1,tekTd/T/ASxQY6Pe7EX6Lf4y1/iT622ITI3FMvOBlFs=",
		"499e37686f735fb4178d00c3fa420be1972df4286bcfe149a348daf22981d7ee",
	},
}

func TestSign_MatchesGoldenVectors(t *testing.T) {
	for _, v := range golden {
		t.Run(v.name, func(t *testing.T) {
			s := mustSigner(t, v.secret)
			for range 3 { // the second and third use a pooled state
				standard, legacy := s.Sign(v.id, v.timestamp, []byte(v.body))
				if standard != v.standard || legacy != v.legacy {
					t.Errorf("got %s and %s, want %s and %s", standard, legacy, v.standard, v.legacy)
				}
			}
		})
	}
}

func TestSign_ListsOneSignatureForEachSecret(t *testing.T) {
	v, w := golden[0], golden[1]
	current, _ := mustSigner(t, w.secret).Sign(v.id, v.timestamp, []byte(v.body))
	_, currentLegacy := mustSigner(t, w.secret).Sign(v.id, v.timestamp, []byte(v.body))

	standard, legacy := mustSigner(t, w.secret, v.secret).Sign(v.id, v.timestamp, []byte(v.body))
	if want := current + " " + v.standard; standard != want {
		t.Errorf("got %s, want %s", standard, want)
	}
	if legacy != currentLegacy {
		t.Errorf("X-Signature is not under the current secret: %s", legacy)
	}
}

func TestHeaders_AreSentUnderTheirNames(t *testing.T) {
	v := golden[0]
	h := http.Header{"webhook-id": {"old"}, "Accept": {"*/*"}}
	mustSigner(t, v.secret).Headers(h, v.id, v.timestamp, []byte(v.body))
	var wire strings.Builder
	if err := h.Write(&wire); err != nil {
		t.Fatal(err)
	}
	want := "Accept: */*\r\nX-Signature: " + v.legacy + "\r\nwebhook-id: " + v.id +
		"\r\nwebhook-signature: " + v.standard + "\r\nwebhook-timestamp: 1614265330\r\n"
	if wire.String() != want {
		t.Errorf("sent:\n%s\nwant:\n%s", wire.String(), want)
	}

	// Appending to one header must not write into the next.
	for name, values := range h {
		h[name] = append(values, "more")
	}
	for name, values := range h {
		if len(values) != 2 || values[0] == "more" {
			t.Errorf("%s shares its values with another header: %q", name, values)
		}
	}
}

func TestSigner_IsSafeForConcurrentUse(t *testing.T) {
	s := mustSigner(t, golden[0].secret)
	want := map[string]string{}
	for _, v := range golden {
		want[v.id+v.body], _ = s.Sign(v.id, v.timestamp, []byte(v.body))
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				for _, v := range golden {
					if got, _ := s.Sign(v.id, v.timestamp, []byte(v.body)); got != want[v.id+v.body] {
						t.Errorf("got %s", got)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestNewSigner_RefusesBadSecrets(t *testing.T) {
	for name, secrets := range map[string][]string{
		"none": nil, "empty": {""}, "second is bad": {"good", "whsec_?"},
	} {
		if _, err := signature.NewSigner(secrets...); !errors.Is(err, signature.ErrSecret) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func mustSigner(tb testing.TB, secrets ...string) *signature.Signer {
	tb.Helper()
	s, err := signature.NewSigner(secrets...)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func BenchmarkSign(b *testing.B) {
	body := []byte(strings.Repeat("x", 600))
	for _, bench := range []struct {
		name    string
		secrets []string
	}{{"one secret", []string{specSecret}}, {"two secrets", []string{specSecret, "old"}}} {
		b.Run(bench.name, func(b *testing.B) {
			s := mustSigner(b, bench.secrets...)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				s.Sign("0199a1c2-7f00-7000-8000-000000000001", 1700000001, body)
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		s := mustSigner(b, specSecret)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				s.Sign("0199a1c2-7f00-7000-8000-000000000001", 1700000001, body)
			}
		})
	})
}

func BenchmarkNewSigner(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		mustSigner(b, specSecret)
	}
}

func BenchmarkHeaders(b *testing.B) {
	s, body := mustSigner(b, specSecret), []byte(strings.Repeat("x", 600))
	h := http.Header{}
	b.ReportAllocs()
	for b.Loop() {
		s.Headers(h, "0199a1c2-7f00-7000-8000-000000000001", 1700000001, body)
	}
}
