package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/audit"
)

// ledger writes rows into the outbox and knows, beside the relay, which of them committed. The number of an event
// within its key comes from a row that is locked until the commit, so it is commit order by construction.
type ledger struct {
	s      *stage
	tenant string
	keys   []string

	committed atomic.Int64 // rows whose commit was acknowledged
	unknown   atomic.Int64 // transactions whose commit broke off
	writers   sync.WaitGroup
}

const ledgerTables = `
CREATE TABLE IF NOT EXISTS ledger_keys (tenant text, key text, seq bigint NOT NULL DEFAULT 0, PRIMARY KEY (tenant, key));
CREATE TABLE IF NOT EXISTS ledger (event_id uuid PRIMARY KEY, tenant text, key text, seq bigint, type text, data text)`

// emit adds n events of a key to the outbox and to the ledger.
const emit = `
WITH k AS (UPDATE ledger_keys SET seq = seq + $3 WHERE tenant = $1 AND key = $2 RETURNING tenant, key, seq),
     e AS (INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
           SELECT k.tenant, 'sales_order', k.key,
                  CASE WHEN s % 2 = 0 THEN 'sales_order.confirmed' ELSE 'sales_order.created' END,
                  json_build_object('order_id', k.key, 'order_number', s::text, 'amount', '1500.00', 'currency', 'EUR',
                                    'padding', repeat('x', $4::int))
             FROM k, generate_series(k.seq - $3 + 1, k.seq) s ORDER BY s
           RETURNING id, tenant_id, aggregate_id, event_type, payload)
INSERT INTO ledger SELECT id, tenant_id, aggregate_id, (payload ->> 'order_number')::bigint, event_type,
                          encode(sha256(convert_to(payload::text, 'UTF8')), 'hex') FROM e`

func newLedger(s *stage, tenant string, keys int) *ledger {
	s.t.Helper()
	s.exec(ledgerTables)
	s.exec("GRANT ALL ON ledger, ledger_keys TO PUBLIC")
	l := &ledger{s: s, tenant: tenant}
	for i := range keys {
		l.keys = append(l.keys, fmt.Sprintf("%s-k%02d", tenant, i))
	}
	s.exec("INSERT INTO ledger_keys SELECT $1, unnest($2::text[])", tenant, l.keys)
	return l
}

// add commits n rows of one key in one transaction.
func (l *ledger) add(key, n int) {
	l.s.t.Helper()
	l.s.exec(emit, l.tenant, l.keys[key], n, 20)
	l.committed.Add(int64(n))
}

// write lets so many writers commit until rows are committed in all, with rollbacks and savepoints among them. It
// returns at once; wait waits. A test that ends ends them.
func (l *ledger) write(writers, rows int) {
	for i := range writers {
		l.writers.Add(1)
		go func() {
			defer l.writers.Done()
			l.writer(rand.New(rand.NewPCG(uint64(i), uint64(rows))), int64(rows))
		}()
	}
}

func (l *ledger) wait() {
	l.s.t.Helper()
	done := make(chan struct{})
	go func() { l.writers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		l.s.t.Fatal("the writers did not end")
	}
}

func (l *ledger) writer(r *rand.Rand, rows int64) {
	ctx := l.s.t.Context()
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	}()
	for l.committed.Load() < rows && ctx.Err() == nil {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, l.s.url); err != nil { // the server is away
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
				conn = nil
				continue
			}
		}
		n, err := l.transaction(ctx, conn, r)
		l.committed.Add(int64(n))
		if err != nil {
			_ = conn.Close(ctx)
		}
	}
}

var errWanted = errors.New("rolled back on purpose")

// transaction runs one unit and returns how many rows it has committed for certain.
func (l *ledger) transaction(ctx context.Context, conn *pgx.Conn, r *rand.Rand) (int, error) {
	keys := make([]int, 1+r.IntN(3))
	for i := range keys {
		keys[i] = r.IntN(len(l.keys))
	}
	slices.Sort(keys) // everybody locks in the same order
	keys = slices.Compact(keys)
	rollback := r.IntN(10) == 0
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, k := range keys {
		count, back := 1+r.IntN(5), r.IntN(8) == 0
		part := func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, emit, l.tenant, l.keys[k], count, r.IntN(200)); err != nil {
				return err
			}
			if back {
				return errWanted
			}
			n += count
			return nil
		}
		if back || r.IntN(8) == 0 {
			err = pgx.BeginFunc(ctx, tx, part) // a savepoint
		} else {
			err = part(tx)
		}
		if err != nil && !errors.Is(err, errWanted) {
			return 0, err
		}
	}
	if rollback {
		return 0, tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		l.unknown.Add(1)
		return 0, err
	}
	return n, nil
}

// row is one line of the ledger.
type row struct {
	event, tenant, key, typ, data string
	seq                           int
}

// rows are what really committed, unknown commits included, by key and number.
func (l *ledger) rows() []row {
	l.s.t.Helper()
	found, err := l.s.db.Query(context.Background(),
		"SELECT event_id::text, tenant, key, type, data, seq FROM ledger WHERE tenant = $1 ORDER BY key, seq", l.tenant)
	if err != nil {
		l.s.t.Fatal(err)
	}
	all, err := pgx.CollectRows(found, func(r pgx.CollectableRow) (row, error) {
		var v row
		err := r.Scan(&v.event, &v.tenant, &v.key, &v.typ, &v.data, &v.seq)
		return v, err
	})
	if err != nil {
		l.s.t.Fatal(err)
	}
	return all
}

// settle waits until every committed row has been taken by the endpoint of each subscription that matches it.
func (l *ledger) settle(limit time.Duration, subs ...*subscription) {
	l.s.t.Helper()
	rows := l.rows()
	for _, sub := range subs {
		want := 0
		for _, r := range rows {
			if sub.matches(r.tenant, r.typ) {
				want++
			}
		}
		eventuallyWithin(l.s.t, limit, fmt.Sprintf("%s takes %d rows", sub.name, want), func() bool {
			return l.s.recv.count(sub.name) >= want
		})
	}
}

// books fails unless the relay's own record has each delivery of the subscriptions, and once. After a stop of
// PostgreSQL it may have some twice: a batch is written again when the answer to its commit was lost.
func (l *ledger) books(subs ...*subscription) {
	l.s.t.Helper()
	rows := l.rows()
	for _, sub := range subs {
		want := 0
		for _, r := range rows {
			if sub.matches(r.tenant, r.typ) {
				want++
			}
		}
		eventually(l.s.t, fmt.Sprintf("%d deliveries of %s are recorded", want, sub.name), func() bool {
			return l.s.count("SELECT count(DISTINCT event_id) FROM relay.deliveries WHERE subscription_id = $1 AND status = 'DELIVERED'", sub.id) >= want
		})
		if n := l.s.count("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1", sub.id); n < want || n > want && !l.s.stopped {
			l.s.t.Errorf("%s: %d deliveries on record, want %d", sub.name, n, want)
		}
		l.numbers(sub)
	}
	if n := l.s.number("SELECT count(*) FROM relay.parked"); n != 0 {
		l.s.t.Errorf("%d deliveries stay parked", n)
	}
}

// numbers fails unless the deliveries on record have the numbers 1, 2, 3, ..., an event each, and unless each request had
// the number of its event, those that were repeated too. Only a rescue, which reads rows in another order than the stream
// had, may repeat with another number.
func (l *ledger) numbers(sub *subscription) {
	l.s.t.Helper()
	tx, err := audit.Table{Name: "relay.deliveries"}.BeginReading(l.s.t.Context(), l.s.db) // rows may be on their way to a partition
	if err != nil {
		l.s.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	rows, err := tx.Query(l.s.t.Context(), `SELECT DISTINCT sequence::text, event_id::text FROM (SELECT sequence, event_id, subscription_id FROM relay.deliveries
		UNION ALL SELECT sequence, event_id, subscription_id FROM relay.parked) AS d WHERE subscription_id = $1 AND sequence IS NOT NULL`, sub.id)
	if err != nil {
		l.s.t.Fatal(err)
	}
	defer rows.Close()
	byEvent, byNumber := make(map[string]string), make(map[string]string)
	for rows.Next() {
		var number, event string
		if err := rows.Scan(&number, &event); err != nil {
			l.s.t.Fatal(err)
		}
		if other, ok := byNumber[number]; ok {
			l.s.t.Errorf("%s: %s and %s both have number %s", sub.name, event, other, number)
		}
		if other, ok := byEvent[event]; ok {
			l.s.t.Errorf("%s: %s has the numbers %s and %s", sub.name, event, number, other)
		}
		byEvent[event], byNumber[number] = number, event
	}
	if err := rows.Err(); err != nil {
		l.s.t.Fatal(err)
	}
	for n := range len(byNumber) {
		if _, ok := byNumber[strconv.Itoa(n+1)]; !ok {
			l.s.t.Errorf("%s: no delivery on record has number %d of %d", sub.name, n+1, len(byNumber))
			break
		}
	}
	if n := l.s.number("SELECT coalesce((SELECT recorded FROM relay.sequences WHERE subscription_id = $1 AND ahead = '{}'), 0)", sub.id); n != len(byNumber) {
		l.s.t.Errorf("%s: the numbers are on record up to %d, want %d", sub.name, n, len(byNumber))
	}
	for _, a := range l.s.recv.arrivals(sub.name) {
		if want, ok := byEvent[a.event]; ok && a.number != want && !l.s.rescued {
			l.s.t.Errorf("%s: %s came as number %q and is on record as %s", sub.name, a.event, a.number, want)
		}
	}
}
