package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// drained is what one drain of a backlog showed.
type drained struct {
	speed      float64 // events a second, from the first receipt to the last
	peak       float64 // MiB
	cpu        float64 // microseconds an event, of the measured process
	statements float64 // an event, by the relay's role
	parked     float64 // an event, rows that went through the table of what waits
	repeats    float64
}

// drain measures how fast a backlog goes that was committed while nobody read.
func (b *bench) drain(ctx context.Context, paths []path) error {
	all := make(map[string][]drained)
	for round := range b.rounds {
		for _, p := range paths {
			d, err := b.drainOnce(ctx, p, round)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			all[p.name] = append(all[p.name], d)
		}
	}
	median := func(of func(drained) float64) (relay, pipe float64) {
		return medianOf(all["relay"], of), medianOf(all["pipe"], of)
	}
	speed, limit := median(func(d drained) float64 { return d.speed })
	b.report.add(figure{Name: "drain: speed", Unit: "events/s", Relay: speed, Pipe: limit}.atLeast(0.6))
	peak, bare := median(func(d drained) float64 { return d.peak })
	b.report.add(figure{Name: "drain: peak RSS", Unit: "MiB", Relay: peak, Pipe: bare}.atMost(64))
	cpu, bare := median(func(d drained) float64 { return d.cpu })
	b.report.add(figure{Name: "drain: CPU per event", Unit: "µs", Relay: cpu, Pipe: bare})
	statements, _ := median(func(d drained) float64 { return d.statements })
	b.report.add(figure{Name: "drain: statements per event", Relay: statements})
	parked, _ := median(func(d drained) float64 { return d.parked })
	b.report.add(figure{Name: "drain: parked per event", Relay: parked})
	repeats, bare := median(func(d drained) float64 { return d.repeats })
	b.report.add(figure{Name: "drain: repeats", Unit: "events", Relay: repeats, Pipe: bare})
	return nil
}

func (b *bench) drainOnce(ctx context.Context, p path, round int) (d drained, err error) {
	if err := p.fresh(ctx); err != nil {
		return d, err
	}
	say("drain, %s: writing %d rows ...", p.name, b.events)
	mark, err := b.backlog(ctx, p.database, b.events)
	if err != nil {
		return d, err
	}
	if _, err := b.receiver.take(ctx); err != nil {
		return d, err
	}
	before, err := b.statements(ctx)
	if err != nil {
		return d, err
	}
	waited, err := b.parked(ctx)
	if err != nil {
		return d, err
	}
	say("drain, %s: delivering ...", p.name)
	proc, err := p.start(ctx)
	if err != nil {
		return d, err
	}
	stop := sync.OnceValue(proc.stop)
	defer func() { err = errors.Join(err, stop()) }()
	recorded, err := proc.record(b.profileOf(p), fmt.Sprintf("drain-%d", round))
	if err != nil {
		return d, err
	}
	got, err := b.receiver.await(ctx, proc, b.events)
	if err := errors.Join(err, recorded()); err != nil {
		return d, err
	}
	_, d.peak = proc.memory()
	d.cpu = float64(proc.cpu().Microseconds()) / float64(b.events)
	d.repeats = float64(got.Repeats)
	d.speed = perSecond(got)
	after, err := b.statements(ctx)
	if err != nil {
		return d, err
	}
	d.statements = float64(after-before) / float64(b.events)
	if err := stop(); err != nil { // a connection tells what it has inserted when it ends
		return d, err
	}
	waits, err := b.parked(ctx)
	if err != nil {
		return d, err
	}
	d.parked = float64(waits-waited) / float64(b.events)
	return d, complete(ctx, p.database, mark, got)
}

// profileOf is where what perf records of a path goes; only the relay is recorded.
func (b *bench) profileOf(p path) string {
	if p.name == "relay" {
		return b.profile
	}
	return ""
}

// perSecond is the rate from the first receipt to the last.
func perSecond(a arrivals) float64 {
	var first, last int64
	for _, at := range a.First {
		if first == 0 || at < first {
			first = at
		}
		last = max(last, at)
	}
	if last == first {
		return 0
	}
	return float64(len(a.First)-1) / time.Duration(last-first).Seconds()
}

// complete compares what came with what is in the table since mark.
func complete(ctx context.Context, url string, mark time.Time, got arrivals) error {
	ids, err := idsSince(ctx, url, mark)
	if err != nil {
		return err
	}
	missing := 0
	for _, id := range ids {
		if _, ok := got.First[id]; !ok {
			missing++
		}
	}
	if missing > 0 || len(ids) != len(got.First) {
		return fmt.Errorf("%d rows were committed, %d events arrived, %d are missing", len(ids), len(got.First), missing)
	}
	return nil
}

// parked counts the deliveries that were ever put into the table of what waits, by the relay's database.
func (b *bench) parked(ctx context.Context) (n int64, err error) {
	err = with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_stat_get_tuples_inserted('relay.parked'::regclass)").Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count parked deliveries: %w", err)
	}
	return n, nil
}

// statements counts what the relay's role has run so far, transaction control included.
func (b *bench) statements(ctx context.Context) (n int64, err error) {
	err = with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
			WHERE userid = (SELECT oid FROM pg_roles WHERE rolname = 'relay')`).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count statements: %w", err)
	}
	return n, nil
}
