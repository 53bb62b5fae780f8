package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// warmUp is the load before the measured one: connections are opened, statements prepared, a heap grown.
const warmUp = 2 * time.Second

// steadied is what one steady load showed.
type steadied struct {
	sinceReturn []float64 // ms from the writer's COMMIT having returned to the receipt
	sinceCommit []float64 // ms from COMMIT being sent to the receipt
	reached     float64   // rows a second
	now, peak   float64   // MiB
	cpu         float64   // microseconds an event, of the measured process
	statements  float64   // an event, by the relay's role
	parked      float64   // an event, rows that went through the table of what waits; the warm-up is in it
	repeats     float64
}

// steady measures latency under a load that leaves the machine room, and what the relay costs the database.
func (b *bench) steady(ctx context.Context, paths []path) error {
	all := make(map[string][]steadied)
	for round := range b.rounds {
		for _, p := range paths {
			s, err := b.steadyOnce(ctx, p, round)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			all[p.name] = append(all[p.name], s)
		}
	}
	median := func(of func(steadied) float64) (relay, pipe float64) {
		return medianOf(all["relay"], of), medianOf(all["pipe"], of)
	}
	pool := func(of func(steadied) []float64) (relay, pipe []float64) {
		return pooled(all["relay"], of), pooled(all["pipe"], of)
	}

	reached, bare := median(func(s steadied) float64 { return s.reached })
	b.report.add(figure{Name: "steady: rate reached", Unit: "events/s", Relay: reached, Pipe: bare})
	full, limit := pool(func(s steadied) []float64 { return s.sinceReturn })
	const name = "steady: commit to receipt, "
	b.report.add(figure{Name: name + "p50", Unit: "ms", Relay: quantile(full, 0.5), Pipe: quantile(limit, 0.5)}.atMostTimes(1.5))
	b.report.add(figure{Name: name + "p99", Unit: "ms", Relay: quantile(full, 0.99), Pipe: quantile(limit, 0.99)}.atMostTimes(2))
	b.report.add(figure{Name: name + "max", Unit: "ms", Relay: quantile(full, 1), Pipe: quantile(limit, 1)})
	full, limit = pool(func(s steadied) []float64 { return s.sinceCommit })
	const sent = "steady: COMMIT sent to receipt, "
	b.report.add(figure{Name: sent + "p50", Unit: "ms", Relay: quantile(full, 0.5), Pipe: quantile(limit, 0.5)})
	b.report.add(figure{Name: sent + "p99", Unit: "ms", Relay: quantile(full, 0.99), Pipe: quantile(limit, 0.99)})
	peak, bare := median(func(s steadied) float64 { return s.peak })
	b.report.add(figure{Name: "steady: peak RSS", Unit: "MiB", Relay: peak, Pipe: bare}.atMost(64))
	now, bare := median(func(s steadied) float64 { return s.now })
	b.report.add(figure{Name: "steady: RSS at the end", Unit: "MiB", Relay: now, Pipe: bare})
	cpu, bare := median(func(s steadied) float64 { return s.cpu })
	b.report.add(figure{Name: "steady: CPU per event", Unit: "µs", Relay: cpu, Pipe: bare})
	statements, _ := median(func(s steadied) float64 { return s.statements })
	b.report.add(figure{Name: "steady: statements per event", Relay: statements}.atMost(0.05))
	parked, _ := median(func(s steadied) float64 { return s.parked })
	b.report.add(figure{Name: "steady: parked per event", Relay: parked})
	repeats, bare := median(func(s steadied) float64 { return s.repeats })
	b.report.add(figure{Name: "steady: repeats", Unit: "events", Relay: repeats, Pipe: bare})
	return nil
}

func (b *bench) steadyOnce(ctx context.Context, p path, round int) (s steadied, err error) {
	if err := p.fresh(ctx); err != nil {
		return s, err
	}
	if _, err := b.receiver.take(ctx); err != nil {
		return s, err
	}
	proc, err := p.start(ctx)
	if err != nil {
		return s, err
	}
	stop := sync.OnceValue(proc.stop)
	defer func() { err = errors.Join(err, stop()) }()
	waited, err := b.parked(ctx)
	if err != nil {
		return s, err
	}
	warm, _, err := b.load(ctx, p.database, warmUp)
	if err != nil {
		return s, err
	}
	if _, err := b.receiver.await(ctx, proc, len(warm)); err != nil {
		return s, err
	}
	say("steady, %s: %d rows a second for %d s ...", p.name, b.rate, b.seconds)
	before, err := b.statements(ctx)
	if err != nil {
		return s, err
	}
	recorded, err := proc.record(b.profileOf(p), fmt.Sprintf("steady-%d", round))
	if err != nil {
		return s, err
	}
	cpu := proc.cpu()
	events, reached, err := b.load(ctx, p.database, time.Duration(b.seconds)*time.Second)
	if err != nil {
		return s, errors.Join(err, recorded())
	}
	got, err := b.receiver.await(ctx, proc, len(events))
	if err := errors.Join(err, recorded()); err != nil {
		return s, err
	}
	s.cpu = float64((proc.cpu() - cpu).Microseconds()) / float64(len(events))
	s.reached, s.repeats = reached, float64(got.Repeats)
	s.now, s.peak = proc.memory()
	// What was received last is recorded after that.
	if err := pause(ctx, time.Second); err != nil {
		return s, err
	}
	after, err := b.statements(ctx)
	if err != nil {
		return s, err
	}
	s.statements = float64(after-before) / float64(len(events))
	if err := stop(); err != nil { // a connection tells what it has inserted when it ends
		return s, err
	}
	waits, err := b.parked(ctx)
	if err != nil {
		return s, err
	}
	s.parked = float64(waits-waited) / float64(len(events))
	if len(got.First) != len(events) {
		return s, fmt.Errorf("%d rows were committed, %d events arrived", len(events), len(got.First))
	}
	for _, e := range events {
		at, ok := got.First[e.id]
		if !ok {
			return s, fmt.Errorf("event %s did not arrive", e.id)
		}
		s.sinceReturn = append(s.sinceReturn, float64(at-e.committed.UnixNano())/1e6)
		s.sinceCommit = append(s.sinceCommit, float64(at-e.began.UnixNano())/1e6)
	}
	return s, nil
}

// idle measures what the relay costs when nothing happens.
func (b *bench) idle(ctx context.Context, _ []path) (err error) {
	proc, err := b.startRelay(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proc.stop()) }()
	// The start, with its partitions and its look at the slot, is not idle time.
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	say("idle, relay: %d s ...", b.seconds)
	before, err := b.statements(ctx)
	if err != nil {
		return err
	}
	cpu := proc.cpu()
	if err := pause(ctx, time.Duration(b.seconds)*time.Second); err != nil {
		return err
	}
	after, err := b.statements(ctx)
	if err != nil {
		return err
	}
	now, _ := proc.memory()
	seconds := float64(b.seconds)
	b.report.add(figure{Name: "idle: statements", Unit: "1/s", Relay: float64(after-before) / seconds}.atMost(1))
	b.report.add(figure{Name: "idle: CPU", Unit: "ms/s", Relay: (proc.cpu() - cpu).Seconds() * 1000 / seconds})
	b.report.add(figure{Name: "idle: RSS", Unit: "MiB", Relay: now})
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// pooled puts the samples of all rounds together, sorted.
func pooled[T any](rounds []T, of func(T) []float64) []float64 {
	var all []float64
	for _, r := range rounds {
		all = append(all, of(r)...)
	}
	slices.Sort(all)
	return all
}
