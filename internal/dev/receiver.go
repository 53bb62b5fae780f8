package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/outbox-relay/relay/internal/signature"
)

// arrival is one webhook as it came.
type arrival struct {
	id       string
	kind     string
	at       time.Time
	verified error // nil: the signature is right
	first    bool
	guest    bool // of a subscription that the user made
}

// Paths of the receiver. Only what comes to the demonstration's own subscription is in its books: a user may subscribe with
// another secret, to see what becomes of it, and has the same events once more.
const (
	ownPath   = "/demo"
	guestPath = "/webhooks"
)

// receiver is the tenant's side: it verifies each webhook and says 200 only to
// what is genuine.
type receiver struct {
	secret   string
	listener net.Listener
	server   *http.Server
	arrived  chan arrival

	mu   sync.Mutex
	seen map[string]int // webhook-id to arrivals that verified
	bad  int
	// guests and badGuests count arrivals that verified and that did not.
	guests, badGuests int
}

func newReceiver(secret string) (*receiver, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for webhooks: %w", err)
	}
	r := &receiver{secret: secret, listener: l, arrived: make(chan arrival, 1024), seen: make(map[string]int)}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	return r, nil
}

func (r *receiver) url(path string) string { return "http://" + r.listener.Addr().String() + path }

// Run serves until ctx ends.
func (r *receiver) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(r.listener) }()
	<-ctx.Done()
	_ = r.server.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve webhooks: %w", err)
	}
	return nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	now := time.Now()
	body, err := io.ReadAll(io.LimitReader(req.Body, 32<<20))
	if err != nil {
		return
	}
	err = signature.Verify([]string{r.secret}, req.Header, body, now, signature.Tolerance)
	var event struct{ ID, Type string }
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	a := arrival{id: event.ID, kind: event.Type, at: now, verified: err, guest: req.URL.Path != ownPath}
	r.mu.Lock()
	switch {
	case a.guest && err != nil:
		r.badGuests++
	case a.guest:
		r.guests++
	case err != nil:
		r.bad++
	default:
		a.first = r.seen[event.ID] == 0
		r.seen[event.ID]++
	}
	r.mu.Unlock()
	if err != nil {
		w.WriteHeader(http.StatusUnauthorized)
	}
	select {
	case r.arrived <- a:
	case <-req.Context().Done():
	}
}

// tally returns how many events came, how many came again, and how many requests
// did not verify.
func (r *receiver) tally() (events, repeats, bad int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.seen {
		repeats += n - 1
	}
	return len(r.seen), repeats, r.bad
}

// guestTally returns how many webhooks of users' subscriptions verified, and how many did not.
func (r *receiver) guestTally() (arrived, bad int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.guests, r.badGuests
}

func (r *receiver) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[id] > 0
}
