package webhook

import (
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/deliver"
)

func TestAttempt_SendsTheHeadersOfTheSubscriptionAndOursBeforeThem(t *testing.T) {
	got := make(chan http.Header, 1)
	url := mustServe(t, func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		w.WriteHeader(http.StatusNoContent)
	})
	r := mustRequest(t, url)
	wanted, err := deliver.NewHeaders([]deliver.Header{{Name: "X-Api-Key", Value: "abc"}, {Name: "Authorization", Value: "Bearer t0ken"}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Header, err = (&deliver.Subscription{Headers: wanted}).Header(); err != nil {
		t.Fatal(err)
	}
	r.Header["Relay-Attempt"] = []string{"99"} // which no subscription can have
	if out := mustPoster(t, 5*time.Second).Attempt(t.Context(), r); !out.Success() {
		t.Fatalf("%+v", out)
	}
	h := <-got
	for name, want := range map[string]string{"X-Api-Key": "abc", "Authorization": "Bearer t0ken", "Relay-Attempt": strconv.Itoa(r.Attempt), "Content-Type": "application/json"} {
		if h.Get(name) != want || len(h.Values(name)) != 1 {
			t.Errorf("%s: %q, want %q", name, h.Values(name), want)
		}
	}
	if len(r.Header) != 3 {
		t.Errorf("the request's own headers have become %v", r.Header)
	}
}
