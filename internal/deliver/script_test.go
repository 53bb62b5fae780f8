package deliver

import (
	"context"
	"slices"
	"sync"
	"time"
)

// script is a Sink that does with each attempt what the host's rule says.
type script struct {
	mu       sync.Mutex
	rules    map[string]rule
	tries    map[string]int // by host and event
	accepted map[string][]string
	started  map[string][]string
	busy     map[string]int
	most     map[string]int // largest number of attempts at once, by host
	bodies   map[string]string
	changed  []string // events whose body was not the same at each attempt
}

// rule decides about one attempt; try counts from 1 for each event.
type rule func(ctx context.Context, r *Request, try int) Outcome

func newScript() *script {
	return &script{rules: make(map[string]rule), tries: make(map[string]int), accepted: make(map[string][]string),
		started: make(map[string][]string), busy: make(map[string]int), most: make(map[string]int),
		bodies: make(map[string]string)}
}

var errOutcome = Outcome{Reason: ReasonHTTP5xx, StatusCode: 503, Detail: "HTTP 503 Service Unavailable"}

func ok(context.Context, *Request, int) Outcome {
	return Outcome{StatusCode: 204, Duration: time.Microsecond}
}

func failing(context.Context, *Request, int) Outcome { return errOutcome }

// failFirst fails an event's first n attempts.
func failFirst(n int) rule {
	return func(_ context.Context, _ *Request, try int) Outcome {
		if try <= n {
			return errOutcome
		}
		return Outcome{StatusCode: 200}
	}
}

// hold answers ok when release is closed.
func hold(release <-chan struct{}) rule {
	return func(ctx context.Context, _ *Request, _ int) Outcome {
		select {
		case <-release:
			return Outcome{StatusCode: 200}
		case <-ctx.Done():
			return Outcome{Aborted: true}
		}
	}
}

// only applies a rule to one event and lets the others through.
func only(e *entry, r rule) rule {
	return func(ctx context.Context, q *Request, try int) Outcome {
		if q.EventID == e.f.EventID.String() {
			return r(ctx, q, try)
		}
		return ok(ctx, q, try)
	}
}

func (s *script) on(host string, r rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules[host] = r
}

// Attempt implements Sink.
func (s *script) Attempt(ctx context.Context, r *Request) Outcome {
	host := r.URL.Host
	s.mu.Lock()
	do := s.rules[host]
	if do == nil {
		do = ok
	}
	id := host + r.EventID
	s.tries[id]++
	try := s.tries[id]
	s.started[host] = append(s.started[host], r.EventID)
	s.busy[host]++
	s.most[host] = max(s.most[host], s.busy[host])
	if was, ok := s.bodies[r.EventID]; ok && was != string(r.Body) {
		s.changed = append(s.changed, r.EventID)
	}
	s.bodies[r.EventID] = string(r.Body)
	s.mu.Unlock()
	out := do(ctx, r, try)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy[host]--
	if out.Success() {
		s.accepted[host] = append(s.accepted[host], r.EventID)
	}
	return out
}

func (s *script) took(host string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.accepted[host])
}

func (s *script) attempts(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.started[host])
}

func (s *script) mostAtOnce(host string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most[host]
}
