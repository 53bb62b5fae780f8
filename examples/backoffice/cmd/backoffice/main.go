// Command backoffice serves the example modules: payments, leads and sales orders that write to the relay's outbox.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/examples/backoffice"
)

// drainLimit is how long requests in progress may take after SIGINT or SIGTERM.
const drainLimit = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := parse(os.Args[1:], os.Getenv, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "backoffice:", err)
		os.Exit(2)
	}
	if err := run(ctx, s, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "backoffice:", err)
		os.Exit(1)
	}
}

// settings are the flags; each has an environment variable behind it.
type settings struct {
	listen, databaseURL, providerSecret, checkoutURL string
	tokens                                           map[string]string
	demoFaults                                       bool
}

func parse(args []string, getenv func(string) string, out io.Writer) (settings, error) {
	s := settings{tokens: make(map[string]string)}
	or := func(name, otherwise string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	flags := flag.NewFlagSet("backoffice", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&s.listen, "listen", or("BACKOFFICE_LISTEN", "127.0.0.1:8080"),
		"`address` to serve on (BACKOFFICE_LISTEN)")
	// The URL may hold a password: help must not print it as the default.
	flags.StringVar(&s.databaseURL, "database-url", "",
		"PostgreSQL `URL`; prefer BACKOFFICE_DATABASE_URL when it holds a password")
	flags.StringVar(&s.checkoutURL, "checkout-url", or("BACKOFFICE_CHECKOUT_URL", backoffice.DefaultCheckoutURL),
		"`URL` of the payment provider's page, put before a link's id (BACKOFFICE_CHECKOUT_URL)")
	flags.BoolVar(&s.demoFaults, "demo-faults", getenv("BACKOFFICE_DEMO_FAULTS") == "true",
		"let a request fail on purpose with \""+backoffice.FaultHeader+": "+backoffice.FaultAfterOutbox+
			"\" (BACKOFFICE_DEMO_FAULTS=true)")
	flags.Func("token", "`tenant=TOKEN`, repeatable (BACKOFFICE_TOKENS, comma-separated)", s.addToken)
	for pair := range strings.SplitSeq(getenv("BACKOFFICE_TOKENS"), ",") {
		if pair == "" {
			continue
		}
		if err := s.addToken(pair); err != nil {
			return s, fmt.Errorf("read BACKOFFICE_TOKENS: %w", err)
		}
	}
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.databaseURL == "" {
		s.databaseURL = getenv("BACKOFFICE_DATABASE_URL")
	}
	if s.databaseURL == "" {
		return s, errors.New("no database: set --database-url or BACKOFFICE_DATABASE_URL")
	}
	// Not a flag: everybody on the machine can read a command line.
	s.providerSecret = getenv("BACKOFFICE_PROVIDER_SECRET")
	return s, nil
}

// addToken does not repeat what it refuses: it may be most of a token.
func (s settings) addToken(pair string) error {
	tenant, token, ok := strings.Cut(pair, "=")
	if !ok || tenant == "" || token == "" {
		return errors.New("expected tenant=TOKEN")
	}
	if owner, taken := s.tokens[token]; taken && owner != tenant {
		return fmt.Errorf("tenants %s and %s have the same token", owner, tenant)
	}
	s.tokens[token] = tenant
	return nil
}

// run serves until ctx ends, then lets requests in progress finish.
func run(ctx context.Context, s settings, log *slog.Logger) error {
	pool, err := pgxpool.New(ctx, s.databaseURL)
	if err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	defer pool.Close()
	if err := backoffice.Migrate(ctx, pool); err != nil {
		return err
	}
	if err := backoffice.CheckOutbox(ctx, pool); err != nil {
		return err
	}
	options := backoffice.Options{
		Pool: pool, Tokens: s.tokens, ProviderSecret: s.providerSecret, CheckoutURL: s.checkoutURL, Log: log,
	}
	if s.demoFaults {
		options.FailAfterOutbox = backoffice.DemoFaults
	}
	if s.providerSecret == "" {
		log.Warn("payment callbacks are refused until BACKOFFICE_PROVIDER_SECRET is set")
	}
	if len(s.tokens) == 0 {
		log.Warn("tenant routes are refused until there is a token, see --token")
	}
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.listen, err)
	}
	log.Info("serving", "address", "http://"+listener.Addr().String())
	return serve(ctx, listener, backoffice.New(options).Handler())
}

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
	defer cancel()
	err := server.Shutdown(drain)
	<-served
	if err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
