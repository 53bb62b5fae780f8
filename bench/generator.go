package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// insertEvent writes one payment.received of some 300 bytes with all its columns; %s is its number. Each number is an
// aggregate of its own, so that no event waits for another one's answer.
const insertEvent = `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
VALUES ('t' || (%[1]s %% 20), 'payment', 'pay_' || %[1]s, 'payment.received', json_build_object('payment_id', 'pay_' || %[1]s,
 'invoice_id', 'inv_' || %[1]s, 'amount', '1500.00', 'currency', 'EUR', 'payment_method', 'card', 'reference_number', repeat('x', 140)))`

// backlog commits n events, each in a transaction of its own, as fast as the server takes them, and returns when the
// writing has begun by the server's clock. The transactions do not wait for the disk, which is how the rows come to be
// there quickly; to who reads them later they look the same.
func (b *bench) backlog(ctx context.Context, url string, n int) (time.Time, error) {
	began, err := serverClock(ctx, url)
	if err != nil {
		return began, err
	}
	share := n / b.writers
	err = inParallel(b.writers, func(w int) error {
		from, to := w*share, (w+1)*share-1
		if w == b.writers-1 {
			to = n - 1
		}
		return exec1(ctx, url, "SET synchronous_commit = off",
			fmt.Sprintf("DO $do$ BEGIN FOR i IN %d..%d LOOP %s; COMMIT; END LOOP; END $do$", from, to, fmt.Sprintf(insertEvent, "i")))
	})
	if err != nil {
		return began, fmt.Errorf("write backlog: %w", err)
	}
	return began, exec1(ctx, url, "CHECKPOINT")
}

func serverClock(ctx context.Context, url string) (at time.Time, err error) {
	err = with(ctx, url, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&at) })
	return at, err
}

// inParallel runs f(0) to f(n-1) at once and waits for all.
func inParallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// written is one committed event, by the clock of its writer.
type written struct {
	number    int
	id        string
	began     time.Time // when COMMIT was sent
	committed time.Time // when it had returned
}

// load commits events at an even rate, whatever becomes of those before, each in a transaction of its own that waits
// for the disk, and returns them with the rate that was reached.
func (b *bench) load(ctx context.Context, url string, length time.Duration) ([]written, float64, error) {
	total := max(int(length.Seconds()*float64(b.rate)), 1)
	gap := time.Second / time.Duration(b.rate)
	parts := make([][]written, b.writers)
	var ready sync.WaitGroup
	ready.Add(b.writers)
	var start time.Time
	begin := make(chan struct{})
	go func() { ready.Wait(); start = time.Now(); close(begin) }()
	err := inParallel(b.writers, func(w int) error {
		once := sync.OnceFunc(ready.Done)
		defer once()
		return with(ctx, url, func(conn *pgx.Conn) error {
			insert := fmt.Sprintf(insertEvent, "$1::int") + " RETURNING id::text"
			if _, err := conn.Prepare(ctx, insert, insert); err != nil {
				return fmt.Errorf("prepare insert: %w", err)
			}
			once()
			<-begin
			for i := w; i < total; i += b.writers {
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(time.Until(start.Add(time.Duration(i) * gap))):
				}
				e, err := commitEvent(ctx, conn, insert, i)
				if err != nil {
					return err
				}
				parts[w] = append(parts[w], e)
			}
			return nil
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("write events: %w", err)
	}
	reached := float64(total) / time.Since(start).Seconds()
	all := make([]written, 0, total)
	for _, p := range parts {
		all = append(all, p...)
	}
	return all, reached, nil
}

func commitEvent(ctx context.Context, conn *pgx.Conn, insert string, number int) (written, error) {
	e := written{number: number}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return e, fmt.Errorf("begin: %w", err)
	}
	if err := tx.QueryRow(ctx, insert, number).Scan(&e.id); err != nil {
		return e, fmt.Errorf("insert: %w", err)
	}
	e.began = time.Now()
	if err := tx.Commit(ctx); err != nil {
		return e, fmt.Errorf("commit: %w", err)
	}
	e.committed = time.Now()
	return e, nil
}
