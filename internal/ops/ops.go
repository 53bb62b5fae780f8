// Package ops serves metrics, health and status over HTTP, and carries the API on its address.
package ops

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are what a Server serves and where.
type Options struct {
	// Listen is the address of the API, and of health, status and metrics unless OpsListen is one for them.
	Listen, OpsListen string
	// TLS is spoken on Listen; nil: plain HTTP.
	TLS *tls.Config
	// API answers what is not the Server's own. nil: nothing does.
	API http.Handler
	// Guard stands before status and metrics where tenants may come from other machines: on Listen, unless it is a
	// loopback address, and also there for what a proxy passes on. What it keeps out is not told why the relay is not
	// ready either. nil: nothing does.
	Guard    func(http.Handler) http.Handler
	Gatherer prometheus.Gatherer
	Log      *slog.Logger
	Ready    func() error // nil error: the stream moves
	Status   func() any
}

// Server answers /healthz, /readyz, /status and /metrics, and lets the API answer the rest.
type Server struct {
	opts    Options
	servers []*server
}

// server is one address that is listened on.
type server struct {
	http.Server
	listener net.Listener
}

// NewServer opens the listeners, so that an address in use is known at the
// start, and serves nothing yet.
func NewServer(o Options) (*Server, error) {
	s := &Server{opts: o}
	tenants := http.NewServeMux()
	if o.API != nil {
		tenants.Handle("/", o.API)
	}
	at, err := s.listen("http.listen", o.Listen, tenants)
	if err != nil {
		return nil, err
	}
	if o.TLS != nil {
		at.TLSConfig = o.TLS
		at.listener = tls.NewListener(at.listener, o.TLS)
	}
	if o.OpsListen == "" {
		s.routes(tenants, true, !loopback(at.listener.Addr()))
		return s, nil
	}
	own := http.NewServeMux()
	s.routes(own, false, false)
	if _, err := s.listen("http.ops_listen", o.OpsListen, own); err != nil {
		_ = at.listener.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) listen(key, addr string, h http.Handler) (*server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w (another process has the address? set %s)", addr, err, key)
	}
	at := &server{listener: l, Server: http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug)}}
	s.servers = append(s.servers, at)
	return at, nil
}

func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// passedOn tells whether a proxy passes a request on, so that a loopback address says nothing of where it comes from.
func passedOn(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return false
}

// routes adds the Server's own paths. onTenants says that they stand where the API does, guarded that strangers may come.
func (s *Server) routes(mux *http.ServeMux, onTenants, guarded bool) {
	strangers := func(r *http.Request) bool { return guarded || onTenants && passedOn(r) }
	guard := func(h http.Handler) http.Handler {
		if s.opts.Guard == nil {
			return h
		}
		kept := s.opts.Guard(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strangers(r) {
				kept.ServeHTTP(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { s.ready(w, r, strangers(r)) })
	mux.Handle("GET /status", guard(http.HandlerFunc(s.status)))
	mux.Handle("GET /metrics", guard(promhttp.HandlerFor(s.opts.Gatherer, promhttp.HandlerOpts{})))
}

// Addr is the address of health, status and metrics.
func (s *Server) Addr() string { return s.servers[len(s.servers)-1].listener.Addr().String() }

// APIAddr is the address of the API.
func (s *Server) APIAddr() string { return s.servers[0].listener.Addr().String() }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	errs := make(chan error, len(s.servers))
	for _, at := range s.servers {
		go func() { errs <- at.Serve(at.listener) }()
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, at := range s.servers {
		if err := at.Shutdown(stop); err != nil {
			_ = at.Close()
		}
	}
	for range s.servers {
		if err := <-errs; err != nil && !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
	}
	return nil
}

// health tells that the process lives, and nothing of the database.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request, strangers bool) {
	err := s.opts.Ready()
	code := http.StatusOK
	if err != nil {
		code = http.StatusServiceUnavailable
	}
	if err != nil && strangers {
		err = errors.New("/status says why, to operators")
	}
	if !strangers && r.URL.Query().Has("verbose") {
		s.writeStatus(w, code)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	if err != nil {
		_, _ = fmt.Fprintf(w, "not ready: %s\n", err)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) { s.writeStatus(w, http.StatusOK) }

func (s *Server) writeStatus(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(s.opts.Status())
}
