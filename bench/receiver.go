package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// arrivals is what the receiver tells of itself.
type arrivals struct {
	First   map[string]int64 `json:"first"`   // webhook-id to unix nanoseconds of its first arrival
	Repeats int              `json:"repeats"` // requests whose id had come before
}

// receive is the receiver process: it answers 200 to everything and remembers when each id first came. It prints its
// address and runs until ctx ends.
func receive(ctx context.Context) error {
	var mu sync.Mutex
	got := arrivals{First: make(map[string]int64)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hook/", func(_ http.ResponseWriter, r *http.Request) {
		now := time.Now().UnixNano()
		_, _ = io.Copy(io.Discard, r.Body)
		id := r.Header.Get("webhook-id")
		mu.Lock()
		if _, ok := got.First[id]; ok {
			got.Repeats++
		} else {
			got.First[id] = now
		}
		mu.Unlock()
	})
	mux.HandleFunc("POST /hang/", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done() // the caller leaves
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprint(w, len(got.First))
	})
	mux.HandleFunc("POST /take", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		taken := got
		got = arrivals{First: make(map[string]int64)}
		mu.Unlock()
		_ = json.NewEncoder(w).Encode(taken)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println(l.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// receiver is that process, seen from the bench.
type receiver struct {
	process *process
	url     string
}

func startReceiver() (*receiver, error) {
	p, err := spawnSelf("receiver")
	if err != nil {
		return nil, err
	}
	return &receiver{process: p, url: "http://" + <-p.first}, nil
}

func (r *receiver) call(ctx context.Context, method, what string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.url+what, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the receiver: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the receiver: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(resp.Body)
}

// take returns what has come, and lets the receiver forget it.
func (r *receiver) take(ctx context.Context) (arrivals, error) {
	var a arrivals
	b, err := r.call(ctx, http.MethodPost, "/take")
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("read arrivals: %w", err)
	}
	return a, nil
}

// await waits until n events have come, and takes them. It gives up when nothing more has come for stallLimit.
func (r *receiver) await(ctx context.Context, p *process, n int) (arrivals, error) {
	last, moved := -1, time.Now()
	err := poll(ctx, 50*time.Millisecond, time.Hour, fmt.Sprintf("%d events", n), p, func() (bool, error) {
		b, err := r.call(ctx, http.MethodGet, "/count")
		if err != nil {
			return false, err
		}
		got, err := strconv.Atoi(string(b))
		if err != nil {
			return false, fmt.Errorf("read count: %w", err)
		}
		if got != last {
			last, moved = got, time.Now()
		}
		if got < n && time.Since(moved) > stallLimit {
			return false, fmt.Errorf("%s: %d of %d events arrived, and no more within %s", p.name, got, n, stallLimit)
		}
		return got >= n, nil
	})
	if err != nil {
		return arrivals{}, err
	}
	return r.take(ctx)
}

// stallLimit is longer than the first retry of the relay takes.
const stallLimit = 30 * time.Second
