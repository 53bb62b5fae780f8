package e2e_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/test/output"
)

var receiverSecret = output.Secret(nil, "whsec_ZTJlLXJlY2VpdmVyLXNlY3JldC1rZXk=")

// subscription is one row of relay.subscriptions, by the name that its deliveries carry in their path.
type subscription struct {
	id, name, tenant string
	events           []string
}

func (s *subscription) matches(tenant, event string) bool {
	if tenant != s.tenant {
		return false
	}
	for _, p := range s.events {
		if prefix, ok := strings.CutSuffix(p, "*"); p == event || ok && strings.HasPrefix(event, prefix) {
			return true
		}
	}
	return false
}

// record is one request, written down before it was answered.
type record struct {
	event   string // webhook-id
	typ     string
	tenant  string
	body    string // hash of all bytes
	data    string // hash of the bytes of the member data
	at      time.Time
	answer  int // status, or one of the special answers
	raw     []byte
	attempt string
	number  string // Relay-Sequence
}

func (r *record) taken() bool { return r.answer >= 200 && r.answer <= 299 }

// Special answers.
const (
	answerHang  = 0  // none until the receiver is told otherwise, or the caller leaves
	answerReset = -1 // the connection is closed
)

// behaviour is how a subscription's endpoint answers.
type behaviour struct {
	status int
	first  int // status for the first attempt of an event, when it is another
	delay  time.Duration
	until  chan struct{} // ends answerHang
	body   string        // of the answer
}

// receiver is an HTTP server that verifies, records and answers.
type receiver struct {
	server *httptest.Server
	signer *signature.Signer

	mu       sync.Mutex
	records  map[string][]record        // by subscription, in order of arrival
	taken    map[string]map[string]bool // by subscription: events that were answered 2xx
	behave   map[string]behaviour
	onWire   map[string]int
	finished map[string]int // answers that were given to the end
	bad      []string
}

func newReceiver(t testing.TB) *receiver {
	t.Helper()
	signer, err := signature.NewSigner(receiverSecret)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{signer: signer, records: make(map[string][]record), taken: make(map[string]map[string]bool),
		behave: make(map[string]behaviour), onWire: make(map[string]int), finished: make(map[string]int)}
	r.server = httptest.NewServer(r)
	t.Cleanup(func() {
		r.server.CloseClientConnections()
		r.server.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.bad) > 0 {
			t.Errorf("%d faulty requests, the first: %s", len(r.bad), r.bad[0])
		}
	})
	return r
}

func (r *receiver) url(name string) string { return r.server.URL + "/" + name }

// set changes how the endpoint of a subscription answers. An endpoint that hangs answers from then on.
func (r *receiver) set(name string, b behaviour) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.behave[name]; old.until != nil {
		close(old.until)
	}
	if b.status == answerHang {
		b.until = make(chan struct{})
	}
	r.behave[name] = b
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(req.URL.Path, "/")
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the relay was killed in the middle
	}
	b := r.take(name, req, body)
	defer func() {
		r.mu.Lock()
		r.onWire[name]--
		r.mu.Unlock()
	}()
	if b.delay > 0 {
		select {
		case <-time.After(b.delay):
		case <-req.Context().Done():
			return
		}
	}
	switch b.status {
	case answerHang:
		select {
		case <-b.until:
		case <-req.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case answerReset:
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(b.status)
	_, _ = io.WriteString(w, b.body)
	r.mu.Lock()
	r.finished[name]++
	r.mu.Unlock()
}

// take writes a request down and decides the answer.
func (r *receiver) take(name string, req *http.Request, body []byte) behaviour {
	now := time.Now()
	var envelope struct {
		ID     string          `json:"id"`
		Type   string          `json:"type"`
		Tenant string          `json:"tenant_id"`
		Data   json.RawMessage `json:"data"`
	}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if err := r.signer.Verify(req.Header, body, now, signature.Tolerance); err != nil {
		fault("%v", err)
	}
	if err := r.signer.VerifyLegacy(req.Header, body); err != nil {
		fault("%v", err)
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		fault("%v in %s", err, body)
	}
	rec := record{event: req.Header.Get(signature.HeaderID), typ: envelope.Type, tenant: envelope.Tenant, at: now,
		body: hash(body), data: hash(envelope.Data), raw: body, attempt: req.Header.Get("Relay-Attempt"),
		number: req.Header.Get("Relay-Sequence")}
	if rec.event != envelope.ID || req.Method != http.MethodPost {
		fault("%s of %s carries %s", req.Method, rec.event, envelope.ID)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.behave[name]
	if !ok {
		b = behaviour{status: http.StatusNoContent}
	}
	if b.first != 0 && rec.attempt == "1" {
		b.status = b.first
	}
	rec.answer = b.status
	r.bad = append(r.bad, faults...)
	r.records[name] = append(r.records[name], rec)
	r.onWire[name]++
	if rec.taken() {
		if r.taken[name] == nil {
			r.taken[name] = make(map[string]bool)
		}
		r.taken[name][rec.event] = true
	}
	return b
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// arrivals are the requests of a subscription so far, in order.
func (r *receiver) arrivals(name string) []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]record(nil), r.records[name]...)
}

// count is the number of events that a subscription's endpoint has taken.
func (r *receiver) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.taken[name])
}

// has tells whether a subscription's endpoint has taken an event.
func (r *receiver) has(name, event string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken[name][event]
}

func (r *receiver) inFlight(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.onWire[name]
}

// types counts the arrivals of a subscription by event type.
func (r *receiver) types(name string) map[string]int {
	found := make(map[string]int)
	for _, rec := range r.arrivals(name) {
		found[rec.typ]++
	}
	return found
}
