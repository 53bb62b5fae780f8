package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// ledgerSchema is the shadow of the outbox, which the relay never touches, and a log of what comes and goes in the
// relay's table of waiting deliveries.
const ledgerSchema = `
CREATE SCHEMA ledger;
CREATE TABLE ledger.keys (tenant text, key text, seq bigint NOT NULL DEFAULT 0, PRIMARY KEY (tenant, key));
CREATE TABLE ledger.shadow (event_id uuid PRIMARY KEY, writer int NOT NULL, number int NOT NULL);
CREATE TABLE ledger.other (n bigint);
CREATE TABLE ledger.transitions (at timestamptz NOT NULL, op text NOT NULL, subscription_id uuid NOT NULL, event_id uuid NOT NULL);
CREATE FUNCTION ledger.parked_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ledger.transitions SELECT clock_timestamp(), TG_OP, subscription_id, event_id FROM changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER ledger_came AFTER INSERT ON relay.parked REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.parked_changed();
CREATE TRIGGER ledger_went AFTER DELETE ON relay.parked REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.parked_changed();`

const (
	sqlKey    = `UPDATE ledger.keys SET seq = seq + $3 WHERE tenant = $1 AND key = $2 RETURNING seq`
	sqlInsert = `
INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
SELECT $1, 'thing', $2, u.t, u.p::json FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS u(t, p, n) ORDER BY n
RETURNING id::text, created_at`
	sqlShadow = `INSERT INTO ledger.shadow SELECT e, $2, $3 FROM unnest($1::uuid[]) AS e`
	sqlWAL    = `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint`
)

// tenants are who writes, with their share of a hundred transactions. Nobody listens to the last one.
var tenants = []struct {
	name  string
	share int
}{{"acme", 40}, {"globex", 30}, {"Müller & <Söhne>", 20}, {"silent", 10}}

func keyName(i int) string { return fmt.Sprintf("k%02d", i) }

// writer commits transactions until ctx ends.
type writer struct {
	r      *runner
	id     int
	random *rand.Rand
	number int
	conn   *pgx.Conn
}

func (w *writer) run(ctx context.Context) {
	defer w.close()
	per := float64(w.r.opts.Writers) / w.r.opts.Rate * meanEvents // seconds a transaction
	next := time.Now()
	for {
		next = next.Add(time.Duration(per * (0.5 + w.random.Float64()) * float64(time.Second)))
		if behind := time.Since(next); behind > 0 {
			next = next.Add(behind) // it does not make up for the time that PostgreSQL was away
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		if w.conn == nil {
			conn, err := pgx.Connect(ctx, w.r.url)
			if err != nil {
				continue // the server is away
			}
			w.conn = conn
		}
		w.number++
		tx := history.Transaction{Writer: w.id, Number: w.number, Began: history.Now(), Outcome: history.Aborted}
		// A transaction that has begun is brought to its end: what becomes of it must be known.
		err := w.transaction(context.WithoutCancel(ctx), &tx)
		tx.Ended = history.Now()
		w.r.note(w.r.transactions.Add(tx))
		if err != nil {
			w.close()
		}
	}
}

func (w *writer) close() {
	if w.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.conn.Close(ctx)
		w.conn = nil
	}
}

// meanEvents is how many events a transaction has on average, roughly.
const meanEvents = 3.5

var errWanted = errors.New("rolled back on purpose")

// transaction runs one, and says in tx how it ended. An error means that the connection is of no use any more.
func (w *writer) transaction(ctx context.Context, tx *history.Transaction) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tenant := w.tenant()
	parts := 1 + w.random.IntN(2)
	size := 5
	if w.random.IntN(400) == 0 {
		parts, size, tx.How = 4, 150, "large"
	}
	keys := make([]int, parts)
	for i := range keys {
		keys[i] = w.random.IntN(w.r.opts.Keys)
	}
	slices.Sort(keys) // everybody locks in the same order
	keys = slices.Compact(keys)
	open, err := w.conn.Begin(ctx)
	if err != nil {
		return err
	}
	for _, k := range keys {
		n, undo := 1+w.random.IntN(size), w.random.IntN(12) == 0
		part := func(open pgx.Tx) error {
			if err := w.part(ctx, open, tx, tenant, keyName(k), n, undo); err != nil {
				return err
			}
			if undo {
				return errWanted
			}
			return nil
		}
		if undo || w.random.IntN(8) == 0 {
			err = pgx.BeginFunc(ctx, open, part) // a savepoint
		} else {
			err = part(open)
		}
		if err != nil && !errors.Is(err, errWanted) {
			return err
		}
	}
	if w.random.IntN(12) == 0 {
		tx.How = "pause"
		time.Sleep(time.Duration(w.random.IntN(400)) * time.Millisecond)
	}
	return w.finish(ctx, open, tx)
}

func (w *writer) tenant() string {
	n := w.random.IntN(100)
	for _, t := range tenants {
		if n -= t.share; n < 0 {
			return t.name
		}
	}
	return tenants[0].name
}

// part inserts events of one key.
func (w *writer) part(ctx context.Context, open pgx.Tx, tx *history.Transaction, tenant, key string, n int, undo bool) error {
	var seq int
	if err := open.QueryRow(ctx, sqlKey, tenant, key, n).Scan(&seq); err != nil {
		return err
	}
	events := make([]history.Event, n)
	texts, kinds := make([]string, n), make([]string, n)
	for i := range events {
		e := &events[i]
		*e = history.Event{Tenant: tenant, Key: key, Seq: seq - n + 1 + i, Type: types[w.random.IntN(len(types))], Undone: undo,
			Bad: w.random.IntN(200) == 0}
		kinds[i], texts[i] = e.Type, payload(w.random, e.Type, key, e.Seq, e.Bad)
	}
	rows, err := open.Query(ctx, sqlInsert, tenant, key, kinds, texts)
	if err != nil {
		return err
	}
	var created time.Time
	ids := make([]string, 0, n)
	var id string
	if _, err := pgx.ForEachRow(rows, []any{&id, &created}, func() error { ids = append(ids, id); return nil }); err != nil {
		return err
	}
	if len(ids) != n {
		return fmt.Errorf("%d rows were inserted, want %d", len(ids), n)
	}
	for i := range events {
		events[i].ID = ids[i]
		events[i].Body = hash(envelope(ids[i], events[i].Type, tenant, created, texts[i]))
	}
	tx.Events = append(tx.Events, events...)
	_, err = open.Exec(ctx, sqlShadow, ids, tx.Writer, tx.Number)
	return err
}

// finish ends a transaction in one of the ways in which writers do.
func (w *writer) finish(ctx context.Context, open pgx.Tx, tx *history.Transaction) error {
	switch n := w.random.IntN(200); {
	case n < 16:
		tx.How += " rollback"
		return open.Rollback(ctx)
	case n < 20:
		tx.How += " statement error"
		_, err := open.Exec(ctx, "SELECT 1/0")
		_ = open.Rollback(ctx)
		if err == nil {
			return errors.New("1/0 is no error")
		}
		return nil
	case n < 22:
		tx.How += " connection dropped before COMMIT"
		_ = w.conn.PgConn().Conn().Close()
		return errWanted
	}
	var low, high int64
	if err := open.QueryRow(ctx, sqlWAL).Scan(&low); err != nil {
		return err
	}
	tx.Low, tx.Outcome, tx.CommitSent = uint64(low), history.Unknown, history.Now()
	if w.random.IntN(100) == 0 {
		tx.How += " connection dropped after COMMIT"
		w.conn.PgConn().Frontend().SendQuery(&pgproto3.Query{String: "COMMIT"})
		_ = w.conn.PgConn().Frontend().Flush()
		_ = w.conn.PgConn().Conn().Close()
		return errWanted
	}
	if err := open.Commit(ctx); err != nil {
		return err
	}
	tx.Outcome = history.Committed
	if err := w.conn.QueryRow(ctx, sqlWAL).Scan(&high); err != nil {
		return err
	}
	tx.High = uint64(high)
	w.r.lastCommit.Store(high)
	return nil
}
