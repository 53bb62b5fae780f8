// Package verify checks the Standard Webhooks signature of a request with nothing but the standard library.
package verify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Verify tells whether one of the signatures in h is that of body, the bytes as they came, under secret, and not older
// or newer than tolerance.
func Verify(secret string, h http.Header, body []byte, tolerance time.Duration) bool {
	key := []byte(secret)
	if encoded, ok := strings.CutPrefix(secret, "whsec_"); ok {
		key, _ = base64.StdEncoding.DecodeString(encoded)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(h.Get("webhook-id") + "." + h.Get("webhook-timestamp") + "." + string(body)))
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	at, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	return err == nil && time.Since(time.Unix(at, 0)).Abs() <= tolerance && len(key) > 0 &&
		slices.ContainsFunc(strings.Fields(h.Get("webhook-signature")), func(s string) bool {
			return hmac.Equal([]byte(s), []byte(want))
		})
}
