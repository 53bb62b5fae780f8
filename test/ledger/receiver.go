package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/outbox-relay/relay/internal/signature"
	"github.com/outbox-relay/relay/test/ledger/history"
)

// secret signs for all subscriptions. No output of the relay may hold it.
const secret = "whsec_Y2FuYXJ5LW9mLXRoZS1sZWRnZXItcmVjZWl2ZXI="

// mood is how an endpoint answers.
type mood struct {
	name   string
	status int           // history.AnswerHang and history.AnswerReset too
	share  float64       // of requests that get the status; the rest get 204
	before bool          // reset before the request is written down
	after  time.Duration // Retry-After
	delay  time.Duration
}

var healthy = mood{name: "healthy", status: http.StatusNoContent, share: 1}

// receiver is the endpoint of all subscriptions. It writes down what it got before it answers.
type receiver struct {
	server   *httptest.Server
	signer   *signature.Signer
	arrivals *history.Journal
	answered *history.Journal
	note     func(error)

	mu     sync.Mutex
	n      int
	moods  map[string]mood
	random *rand.Rand
	wake   chan struct{} // closed when moods change: what hangs is let go
}

func newReceiver(dir string, seed uint64, note func(error)) (*receiver, error) {
	signer, err := signature.NewSigner(secret)
	if err != nil {
		return nil, err
	}
	arrivals, err := history.OpenJournal(dir, history.FileArrivals)
	if err != nil {
		return nil, err
	}
	answered, err := history.OpenJournal(dir, history.FileAnswered)
	if err != nil {
		return nil, errors.Join(err, arrivals.Close())
	}
	r := &receiver{signer: signer, arrivals: arrivals, answered: answered, note: note, moods: make(map[string]mood),
		random: rand.New(rand.NewPCG(seed, 7)), wake: make(chan struct{})}
	r.server = httptest.NewServer(r)
	return r, nil
}

func (r *receiver) url(name string) string { return r.server.URL + "/" + name }

func (r *receiver) close() error {
	r.set("", healthy)
	r.server.CloseClientConnections()
	r.server.Close()
	return errors.Join(r.arrivals.Close(), r.answered.Close())
}

// set changes the mood of an endpoint, and lets go what hangs.
func (r *receiver) set(name string, m mood) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moods[name] = m
	close(r.wake)
	r.wake = make(chan struct{})
}

func (r *receiver) mood(name string) (mood, chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.moods[name]
	if !ok {
		m = healthy
	}
	if m.share < 1 && r.random.Float64() >= m.share {
		m = healthy
	}
	return m, r.wake
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(req.URL.Path, "/")
	m, wake := r.mood(name)
	if m.status == history.AnswerReset && m.before {
		reset(w)
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the relay was killed in the middle
	}
	a := r.read(name, req, body)
	a.Answer = m.status
	r.note(r.arrivals.Sync(func() any {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.n++
		a.N, a.At = r.n, history.Now()
		return a
	}))
	if m.delay > 0 {
		select {
		case <-time.After(m.delay):
		case <-req.Context().Done():
		}
	}
	switch m.status {
	case history.AnswerHang:
		select {
		case <-wake:
		case <-req.Context().Done():
		}
		reset(w)
	case history.AnswerReset:
		reset(w)
	default:
		if m.after > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(m.after.Seconds())))
		}
		w.WriteHeader(m.status)
		r.note(r.answered.Add(history.Answered{N: a.N, At: history.Now(), Gone: req.Context().Err() != nil}))
	}
}

// reset ends a connection as a crash of the endpoint does.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// read verifies a request and takes down what it says.
func (r *receiver) read(name string, req *http.Request, body []byte) *history.Arrival {
	var e struct {
		ID     string `json:"id"`
		Type   string `json:"type"`
		Tenant string `json:"tenant_id"`
	}
	var faults []string
	if err := r.signer.Verify(req.Header, body, time.Now(), signature.Tolerance); err != nil {
		faults = append(faults, err.Error())
	}
	if err := r.signer.VerifyLegacy(req.Header, body); err != nil {
		faults = append(faults, err.Error())
	}
	if err := json.Unmarshal(body, &e); err != nil {
		faults = append(faults, err.Error())
	}
	a := &history.Arrival{Sub: name, Event: req.Header.Get(signature.HeaderID), Tenant: e.Tenant, Type: e.Type, Body: hash(body)}
	if a.Event != e.ID || req.Method != http.MethodPost {
		faults = append(faults, fmt.Sprintf("%s of %s carries %s", req.Method, a.Event, e.ID))
	}
	var err error
	if a.Attempt, err = strconv.Atoi(req.Header.Get("Relay-Attempt")); err != nil {
		faults = append(faults, "no number of the attempt")
	}
	a.Fault = strings.Join(faults, "; ")
	return a
}
