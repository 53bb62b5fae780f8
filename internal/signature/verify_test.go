package signature_test

import (
	"errors"
	"math"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/signature"
)

var (
	signedAt = time.Unix(1614265330, 0)
	body     = []byte(golden[0].body)
)

// received gives the headers of the first golden vector as net/http would deliver them, with changes; an
// empty value takes the header away.
func received(changes map[string]string) http.Header {
	v := golden[0]
	h := http.Header{}
	h.Set(signature.HeaderID, v.id)
	h.Set(signature.HeaderTimestamp, strconv.FormatInt(v.timestamp, 10))
	h.Set(signature.HeaderSignature, v.standard)
	h.Set(signature.HeaderLegacy, v.legacy)
	for name, value := range changes {
		if value == "" {
			h.Del(name)
			continue
		}
		h.Set(name, value)
	}
	return h
}

func TestVerify_TellsWhatIsWrong(t *testing.T) {
	good := golden[0].standard
	for _, tc := range []struct {
		name    string
		change  map[string]string
		secrets []string
		body    []byte
		now     time.Time
		want    error
	}{
		{name: "right"},
		{name: "older secret of two", secrets: []string{"new", specSecret}},
		{name: "right after wrong", change: map[string]string{signature.HeaderSignature: "v1,AAAA " + good}},
		{name: "right before wrong", change: map[string]string{signature.HeaderSignature: good + " v1,AAAA"}},
		{name: "other versions beside it", change: map[string]string{signature.HeaderSignature: "v1a,x v2," + good[3:] + " garbage , " + good}},
		{name: "4 minutes 59 old", now: signedAt.Add(299 * time.Second)},
		{name: "4 minutes 59 ahead", now: signedAt.Add(-299 * time.Second)},

		{name: "no secret", secrets: []string{}, want: signature.ErrSecret},
		{name: "bad secret", secrets: []string{"whsec_?"}, want: signature.ErrSecret},
		{name: "no id", change: map[string]string{signature.HeaderID: ""}, want: signature.ErrMissingHeader},
		{name: "no timestamp", change: map[string]string{signature.HeaderTimestamp: ""}, want: signature.ErrMissingHeader},
		{name: "no signature", change: map[string]string{signature.HeaderSignature: ""}, want: signature.ErrMissingHeader},
		{name: "id with a full stop", change: map[string]string{signature.HeaderID: "a.1"}, want: signature.ErrMalformed},
		{name: "timestamp in words", change: map[string]string{signature.HeaderTimestamp: "now"}, want: signature.ErrMalformed},
		{name: "timestamp with a sign", change: map[string]string{signature.HeaderTimestamp: "+1614265330"}, want: signature.ErrMalformed},
		{name: "timestamp with a zero before", change: map[string]string{signature.HeaderTimestamp: "01614265330"}, want: signature.ErrMalformed},
		{name: "timestamp with a fraction", change: map[string]string{signature.HeaderTimestamp: "1614265330.0"}, want: signature.ErrMalformed},
		{name: "timestamp too large", change: map[string]string{signature.HeaderTimestamp: "99999999999999999999"}, want: signature.ErrMalformed},
		{name: "last second there is", change: map[string]string{signature.HeaderTimestamp: strconv.Itoa(math.MaxInt64)}, want: signature.ErrTooNew},
		{name: "first second there is", change: map[string]string{signature.HeaderTimestamp: strconv.Itoa(math.MinInt64)}, want: signature.ErrTooOld},
		{name: "in milliseconds", change: map[string]string{signature.HeaderTimestamp: "1614265330000"}, want: signature.ErrTooNew},
		{name: "5 minutes 1 old", now: signedAt.Add(301 * time.Second), want: signature.ErrTooOld},
		{name: "5 minutes 1 ahead", now: signedAt.Add(-301 * time.Second), want: signature.ErrTooNew},
		{name: "other id", change: map[string]string{signature.HeaderID: "msg_other"}, want: signature.ErrNoMatch},
		{name: "other timestamp", change: map[string]string{signature.HeaderTimestamp: "1614265331"}, want: signature.ErrNoMatch},
		{name: "other body", body: []byte(`{"test":2432232314}`), want: signature.ErrNoMatch},
		{name: "other secret", secrets: []string{"other"}, want: signature.ErrNoMatch},
		{name: "whole secret as key", secrets: []string{" " + specSecret}, want: signature.ErrNoMatch},
		{name: "signature without version", change: map[string]string{signature.HeaderSignature: good[3:]}, want: signature.ErrNoMatch},
		{name: "other version alone", change: map[string]string{signature.HeaderSignature: "v1a" + good[2:]}, want: signature.ErrNoMatch},
		{name: "prefix of the signature", change: map[string]string{signature.HeaderSignature: good[:20]}, want: signature.ErrNoMatch},
		{name: "version alone", change: map[string]string{signature.HeaderSignature: "v1,"}, want: signature.ErrNoMatch},
		{name: "X-Signature in its place", change: map[string]string{signature.HeaderSignature: golden[0].legacy}, want: signature.ErrNoMatch},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.secrets == nil {
				tc.secrets = []string{specSecret}
			}
			if tc.body == nil {
				tc.body = body
			}
			if tc.now.IsZero() {
				tc.now = signedAt
			}
			err := signature.Verify(tc.secrets, received(tc.change), tc.body, tc.now, signature.Tolerance)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			for _, other := range []error{
				signature.ErrSecret, signature.ErrMissingHeader, signature.ErrMalformed,
				signature.ErrTooOld, signature.ErrTooNew, signature.ErrNoMatch,
			} {
				if other != tc.want && errors.Is(err, other) {
					t.Errorf("%v is also %v", err, other)
				}
			}
			if err != nil && strings.Contains(err.Error(), good[3:]) {
				t.Errorf("the error shows the expected signature: %v", err)
			}
		})
	}
}

func TestVerify_AcceptsTheListInSeveralHeaders(t *testing.T) {
	h := received(map[string]string{signature.HeaderSignature: "v1,AAAA"})
	h.Add(signature.HeaderSignature, golden[0].standard)
	if err := signature.Verify([]string{specSecret}, h, body, signedAt, signature.Tolerance); err != nil {
		t.Error(err)
	}
}

func TestVerify_RefusesAnIDThatComesTwice(t *testing.T) {
	h := received(nil)
	h.Add(signature.HeaderID, "msg_other")
	err := signature.Verify([]string{specSecret}, h, body, signedAt, signature.Tolerance)
	if !errors.Is(err, signature.ErrMalformed) {
		t.Error(err)
	}
}

func TestVerify_AcceptsWhatHeadersSets(t *testing.T) {
	s := mustSigner(t, "new", specSecret)
	h := http.Header{}
	s.Headers(h, "evt_1", signedAt.Unix(), body)
	for _, secret := range []string{"new", specSecret} {
		if err := signature.Verify([]string{secret}, h, body, signedAt, signature.Tolerance); err != nil {
			t.Error(err)
		}
	}
	if err := signature.VerifyLegacy([]string{"new"}, h, body); err != nil {
		t.Error(err)
	}
	if err := signature.VerifyLegacy([]string{specSecret}, h, body); !errors.Is(err, signature.ErrNoMatch) {
		t.Errorf("X-Signature under the older secret: %v", err)
	}
}

func TestVerifyLegacy_TellsWhatIsWrong(t *testing.T) {
	legacy := golden[0].legacy
	for _, tc := range []struct {
		name, value, secret string
		want                error
	}{
		{"right", legacy, specSecret, nil},
		{"in capitals", strings.ToUpper(legacy), specSecret, nil},
		{"missing", "", specSecret, signature.ErrMissingHeader},
		{"not hexadecimal", "sha256=" + legacy, specSecret, signature.ErrMalformed},
		{"cut", legacy[:62], specSecret, signature.ErrNoMatch},
		{"other secret", legacy, "other", signature.ErrNoMatch},
		{"bad secret", legacy, "", signature.ErrSecret},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := received(map[string]string{signature.HeaderLegacy: tc.value})
			if err := signature.VerifyLegacy([]string{tc.secret}, h, body); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// FuzzVerify looks for headers that pass without holding the signature.
func FuzzVerify(f *testing.F) {
	v := golden[0]
	f.Add(v.id, "1614265330", v.standard, v.legacy, []byte(v.body))
	f.Add("a.1", "1", "v1,", "", []byte(""))
	f.Add("", "-1", "v1,a v1a,b c ,", "zz", []byte("{}"))
	f.Add(v.id, "1614265330", "v1, "+v.standard[3:], v.legacy, []byte(v.body))
	s := mustSigner(f, v.secret, "older")
	f.Fuzz(func(t *testing.T, id, stamp, signatures, legacy string, body []byte) {
		h := http.Header{
			textproto.CanonicalMIMEHeaderKey(signature.HeaderID):        {id},
			textproto.CanonicalMIMEHeaderKey(signature.HeaderTimestamp): {stamp},
			textproto.CanonicalMIMEHeaderKey(signature.HeaderSignature): {signatures},
			signature.HeaderLegacy: {legacy},
		}
		if s.Verify(h, body, signedAt, signature.Tolerance) == nil {
			timestamp, err := strconv.ParseInt(stamp, 10, 64)
			if err != nil || timestamp < signedAt.Unix()-300 || timestamp > signedAt.Unix()+300 {
				t.Fatalf("passed with timestamp %q", stamp)
			}
			standard, _ := s.Sign(id, timestamp, body)
			first, second, _ := strings.Cut(standard, " ")
			if !strings.Contains(signatures, first) && !strings.Contains(signatures, second) {
				t.Fatalf("passed with %q", signatures)
			}
		}
		// Whatever the input, what is signed for it verifies.
		if id == "" || strings.Contains(id, ".") {
			return
		}
		s.Headers(h, id, signedAt.Unix(), body)
		clean := http.Header{}
		for _, name := range []string{signature.HeaderID, signature.HeaderTimestamp, signature.HeaderSignature, signature.HeaderLegacy} {
			clean[name] = h[name]
		}
		if err := s.Verify(clean, body, signedAt, signature.Tolerance); err != nil {
			t.Fatal(err)
		}
		if err := s.VerifyLegacy(clean, body); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s, h := mustSigner(b, specSecret), received(nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Verify(h, body, signedAt, signature.Tolerance); err != nil {
			b.Fatal(err)
		}
	}
}
