package webhook

import (
	"context"
	"net/http"
	"testing"
	"time"
)

// The phases are measured on every attempt: what they cost shows here.
func BenchmarkPoster_Attempt(b *testing.B) {
	url := mustServe(b, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	p, r := mustPoster(b, 10*time.Second), mustRequest(b, url)
	b.ReportAllocs()
	for b.Loop() {
		if out := p.Attempt(context.Background(), r); !out.Success() {
			b.Fatalf("%+v", out)
		}
	}
}
