package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// arrivals is what the receiver tells of itself.
type arrivals struct {
	First   map[string]int64 `json:"first"` // webhook-id to unix nanoseconds of its first arrival
	Repeats int              `json:"repeats"`
}

// receive runs the receiver process: it answers 200 to everything and remembers
// when each id first came. It prints its address and runs until it is killed.
func receive() error {
	var mu sync.Mutex
	got := arrivals{First: make(map[string]int64)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hook", func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		now := time.Now().UnixNano()
		id := r.Header.Get("webhook-id")
		mu.Lock()
		if _, ok := got.First[id]; ok {
			got.Repeats++
		} else {
			got.First[id] = now
		}
		mu.Unlock()
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprint(w, len(got.First))
	})
	mux.HandleFunc("POST /take", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(got)
		got = arrivals{First: make(map[string]int64)}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return (&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}).Serve(l)
}
