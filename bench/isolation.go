package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// trouble is what one phase of isolation does to the relay before its load, and what it may cost the others.
type trouble struct {
	name string
	hang bool // the first four of twenty tenants get nothing
	make func(ctx context.Context, b *bench, dead string) error
	// mend takes away what would be measured again in the next phase.
	mend func(ctx context.Context, b *bench) error
}

// Sizes of the troubles.
const (
	deadEndpoints = 10_000
	parkedEvents  = 1_000_000
)

var troubles = []trouble{
	{name: "none", make: func(context.Context, *bench, string) error { return nil }},
	{
		// The first four of twenty tenants; their endpoints take the connection and say nothing.
		name: "a fifth of the endpoints hangs", hang: true,
		make: func(ctx context.Context, b *bench, _ string) error {
			return exec1(ctx, b.cluster.URL("relay"), "UPDATE relay.subscriptions SET url = replace(url, '/hook/', '/hang/') WHERE tenant_id IN ('t0', 't1', 't2', 't3')")
		},
		mend: func(ctx context.Context, b *bench) error {
			return exec1(ctx, b.cluster.URL("relay"), "UPDATE relay.subscriptions SET url = replace(url, '/hang/', '/hook/')")
		},
	},
	{
		name: fmt.Sprintf("%d dead endpoints", deadEndpoints),
		make: func(ctx context.Context, b *bench, dead string) error {
			return exec1(ctx, b.cluster.URL("relay"),
				fmt.Sprintf(`INSERT INTO relay.subscriptions (tenant_id, url, events, secret)
					SELECT 'dead', 'http://%s/' || n, '{*}', '%s' FROM generate_series(1, %d) n`, dead, secret, deadEndpoints),
				bulk("dead", 3))
		},
		mend: func(ctx context.Context, b *bench) error {
			return exec1(ctx, b.cluster.URL("relay"), "DELETE FROM relay.subscriptions WHERE tenant_id = 'dead'")
		},
	},
	{
		name: fmt.Sprintf("%d deliveries parked for one tenant", parkedEvents),
		make: func(ctx context.Context, b *bench, dead string) error {
			url := b.cluster.URL("relay")
			if err := exec1(ctx, url, fmt.Sprintf(`INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES ('bulk', 'http://%s/', '{*}', '%s')`, dead, secret)); err != nil {
				return err
			}
			for range 20 {
				if err := exec1(ctx, url, bulk("bulk", parkedEvents/20)); err != nil {
					return err
				}
			}
			return nil
		},
	},
}

// bulk commits n events of one tenant in one transaction, each of a key of its own.
func bulk(tenant string, n int) string {
	return fmt.Sprintf(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT '%s', 'payment', gen_random_uuid()::text, 'payment.received', json_build_object('payment_id', n::text, 'invoice_id', n::text,
		'amount', '1500.00', 'currency', 'EUR') FROM generate_series(1, %d) n`, tenant, n)
}

// isolation measures what the healthy endpoints feel of the others: the same load as steady, first without
// trouble, then in each trouble. The figures beside are those without.
func (b *bench) isolation(ctx context.Context, _ []path) (err error) {
	if err := b.freshRelay(ctx); err != nil {
		return err
	}
	dead, err := freeAddress()
	if err != nil {
		return err
	}
	proc, err := b.startRelay(ctx)
	if err != nil {
		return err
	}
	stop := sync.OnceValue(proc.stop)
	defer func() { err = errors.Join(err, stop()) }()
	var p50, p99 float64
	for i, t := range troubles {
		if i > 0 && !strings.Contains(t.name, b.trouble) {
			continue
		}
		say("isolation: %s ...", t.name)
		if err := t.make(ctx, b, dead); err != nil {
			return err
		}
		if err := b.settled(ctx, proc); err != nil {
			return err
		}
		recorded, err := proc.record(b.profile, fmt.Sprintf("isolation-%d", i))
		if err != nil {
			return err
		}
		latencies, lag, err := b.healthy(ctx, proc, t.hang)
		if err := errors.Join(err, recorded()); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		now, peak := proc.memory()
		name := "isolation, " + t.name + ": "
		if i == 0 {
			p50, p99 = quantile(latencies, 0.5), quantile(latencies, 0.99)
			b.report.add(figure{Name: name + "p50", Unit: "ms", Relay: p50})
			b.report.add(figure{Name: name + "p99", Unit: "ms", Relay: p99})
		} else {
			b.report.add(figure{Name: name + "p50", Unit: "ms", Relay: quantile(latencies, 0.5), Pipe: p50}.atMostTimes(1.1))
			b.report.add(figure{Name: name + "p99", Unit: "ms", Relay: quantile(latencies, 0.99), Pipe: p99}.atMostTimes(1.1))
		}
		b.report.add(figure{Name: name + "highest slot lag", Unit: "MiB", Relay: lag})
		b.report.add(figure{Name: name + "RSS", Unit: "MiB", Relay: now})
		b.report.add(figure{Name: name + "peak RSS", Unit: "MiB", Relay: peak}.atMost(512))
		if t.mend != nil {
			if err := t.mend(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// settled waits until the relay has confirmed all that is committed by now.
func (b *bench) settled(ctx context.Context, proc *process) error {
	return with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		var at string
		if err := conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&at); err != nil {
			return fmt.Errorf("read end of WAL: %w", err)
		}
		return poll(ctx, 200*time.Millisecond, 10*time.Minute, "the relay to park what it cannot deliver", proc, func() (done bool, err error) {
			err = conn.QueryRow(ctx, `SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots
				WHERE database = 'relay'`, at).Scan(&done)
			return done, err
		})
	})
}

// healthy measures the load of steady, of the tenants alone that never are in trouble. It returns milliseconds from
// the return of COMMIT to the receipt, sorted, and the most WAL that lay between the slot and the end.
func (b *bench) healthy(ctx context.Context, proc *process, hang bool) (latencies []float64, lag float64, err error) {
	// What comes later than the warm-up would be taken for what is measured.
	if _, err := b.receiver.take(ctx); err != nil {
		return nil, 0, err
	}
	warm, _, err := b.load(ctx, b.cluster.URL("relay"), warmUp)
	if err != nil {
		return nil, 0, err
	}
	if _, err := b.receiver.await(ctx, proc, len(expected(warm, hang))); err != nil {
		return nil, 0, err
	}
	watching, end := context.WithCancel(ctx)
	lags := make(chan float64, 1)
	go func() { lags <- b.highestLag(watching) }()
	events, _, err := b.load(ctx, b.cluster.URL("relay"), time.Duration(b.seconds)*time.Second)
	end()
	lag = <-lags
	if err != nil {
		return nil, 0, err
	}
	healthy := expected(events, true)
	got, err := b.receiver.await(ctx, proc, len(expected(events, hang)))
	if err != nil {
		return nil, 0, err
	}
	for _, e := range healthy {
		at, ok := got.First[e.id]
		if !ok {
			return nil, 0, fmt.Errorf("event %s of a healthy tenant did not arrive", e.id)
		}
		latencies = append(latencies, float64(at-e.committed.UnixNano())/1e6)
	}
	slices.Sort(latencies)
	return latencies, lag, nil
}

// expected are the events that arrive: all, or those of the tenants alone that never are in trouble.
func expected(events []written, hang bool) []written {
	if !hang {
		return events
	}
	var list []written
	for _, e := range events {
		if e.number%20 >= 4 {
			list = append(list, e)
		}
	}
	return list
}

// highestLag looks at the slot until ctx ends, in MiB. What it cannot read counts as nothing.
func (b *bench) highestLag(ctx context.Context) (most float64) {
	_ = with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		for ctx.Err() == nil {
			var lag float64
			err := conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::float8 / 1048576
				FROM pg_replication_slots WHERE database = 'relay'`).Scan(&lag)
			if err != nil {
				return err
			}
			most = max(most, lag)
			_ = pause(ctx, 100*time.Millisecond)
		}
		return nil
	})
	return most
}
