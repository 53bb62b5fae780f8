package daemon_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// BenchmarkDaemon_Drain delivers b.N rows, each committed in a transaction of its
// own before the clock starts, to one of 20 endpoints. Server, relay and receiver
// share the machine, and relay and receiver the process; compare it with itself.
func BenchmarkDaemon_Drain(b *testing.B) {
	ctx := context.Background()
	url := pgtest.NewDatabase(b)
	if _, err := migrate.Up(ctx, url); err != nil {
		b.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(ctx)
	var got atomic.Int64
	all := make(chan struct{}, 1)
	want := int64(b.N) + 1
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if got.Add(1) == want {
			all <- struct{}{}
		}
	}))
	defer srv.Close()
	for i := range 20 {
		if _, err := conn.Exec(ctx, "INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES ($1, $2, '{*}', 's')",
			fmt.Sprint("t", i), srv.URL); err != nil {
			b.Fatal(err)
		}
	}
	cfg, err := config.Load(config.LoadOptions{Environ: []string{"RELAY_DATABASE_URL=" + url, "RELAY_HTTP_LISTEN=127.0.0.1:0",
		"RELAY_EGRESS_ALLOW=127.0.0.0/8", "RELAY_EGRESS_REQUIRE_HTTPS=false"}})
	if err != nil {
		b.Fatal(err)
	}
	run := func() (stop func()) {
		d, err := daemon.New(daemon.Options{Config: cfg, Log: slog.New(slog.DiscardHandler), Version: "bench"})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		return func() { cancel(); <-done }
	}
	insert := func(n int) {
		if _, err := conn.Exec(ctx, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
			INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('t' || i %% 20, 'payment', 'p' || i,
			'payment.received', json_build_object('payment_id', 'p' || i, 'invoice_id', 'inv_' || i, 'amount', '1500.00', 'currency', 'EUR',
			'payment_method', 'card', 'reference_number', repeat('x', 120)));
			COMMIT; END LOOP; END $$`, n)); err != nil {
			b.Fatal(err)
		}
	}
	stop := run() // makes the slot
	insert(1)
	for got.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	insert(b.N)
	b.ResetTimer()
	stop = run()
	<-all
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	stop()
	var parked int64
	if err := conn.QueryRow(ctx, "SELECT pg_stat_get_tuples_inserted('relay.parked'::regclass)").Scan(&parked); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(parked)/float64(b.N), "parked/event")
}
