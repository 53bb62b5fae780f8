package audit

import (
	"context"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/health"
)

// Window is what the stream has shown of the transactions between two markers.
type Window struct {
	From, To cdc.Snapshot
	LSN      cdc.LSN // commit of the transaction that carried the later marker
	// Forgotten tells that the Journal had to forget what came, so that there is nothing
	// to compare. From is zero then.
	Forgotten bool
	// Unknown is how many transactions are kept no longer, because the server has given out no
	// such ids and there are too many of them.
	Unknown int
	seen    []seen
	folded  cdc.Tally   // of transactions that are not among seen, all together
	ids     []uuid.UUID // that seen points into
}

// Result is what a comparison found.
type Result struct {
	Rows    int // rows of the window that stand in the table
	Missing []Gap
	// Vanished counts rows that the stream brought and the table has no more.
	Vanished int
}

// Gap is a transaction of which rows stand in the table and did not come through
// the stream.
type Gap struct {
	XID  uint64
	Rows int // in the table
	came map[uuid.UUID]struct{}
}

// Came tells whether a row of the transaction is known to have come through the
// stream.
func (g Gap) Came(id uuid.UUID) bool {
	_, ok := g.came[id]
	return ok
}

// Table is the outbox table, as the audit reads it.
type Table struct {
	Name    string // schema.table
	Columns Columns
	// StatementTimeout ends a statement that takes longer; 0: each takes as long as it takes.
	StatementTimeout time.Duration
}

// Beginner begins a transaction. A pgx connection or pool does.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// BeginReading begins a transaction in which the rows of the table are read, each
// once, also while rows are moved from one partition to another.
//
// A query of an ordinary transaction may look up the partitions before a move is
// committed and take its snapshot after, and then sees the moved rows nowhere. When the
// snapshot comes first, a condition on created_at may leave out the partition that still has
// them. Here the table is locked first, in the mode of any query, which a move waits for.
//
// Source: https://www.postgresql.org/docs/current/sql-lock.html
//
// A timeout of the role or the database does not count, the table's own does: what must be
// read takes as long as it takes, and a query that is ended each time would never be done.
//
// A role that row-level security binds gets an error here: rows that it does not see would be taken for rows that are not there.
func (t Table) BeginReading(ctx context.Context, db Beginner) (pgx.Tx, error) {
	tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	for _, q := range [...]string{
		"SET LOCAL row_security = off", // whatever a policy would hide is an error
		"LOCK TABLE " + t.Quoted() + " IN ACCESS SHARE MODE",
		"SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'", // since 17
		fmt.Sprintf("SET LOCAL statement_timeout = %d", t.StatementTimeout.Milliseconds()),
	} {
		if _, err := tx.Exec(ctx, q); err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx))
			return nil, err
		}
	}
	if err := t.seesAll(ctx, tx); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return nil, err
	}
	return tx, nil
}

// seesAll returns an error when row-level security binds the role that reads.
func (t Table) seesAll(ctx context.Context, tx pgx.Tx) error {
	var hidden, owner bool
	var role string
	if err := tx.QueryRow(ctx, "SELECT row_security_active(c.oid), pg_has_role(c.relowner, 'USAGE'), current_user::text FROM pg_class c WHERE c.oid = $1::text::regclass",
		t.Quoted()).Scan(&hidden, &owner, &role); err != nil {
		return err
	}
	if hidden {
		return health.NewFault(health.HiddenRows(t.Name, role, owner))
	}
	return nil
}

// Quoted is the name as SQL takes it.
func (t Table) Quoted() string { return pgx.Identifier(strings.SplitN(t.Name, ".", 2)).Sanitize() }

// ByIndex makes the queries of a transaction find a narrow window by the index. A plan for
// all of the table would be a mistake of the statistics, or of a plan that was kept from
// when the table was small.
func ByIndex(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL plan_cache_mode = force_custom_plan")
	return err
}

// BeginNarrow is BeginReading for queries of a narrow window: see ByIndex.
func (t Table) BeginNarrow(ctx context.Context, db Beginner) (pgx.Tx, error) {
	tx, err := t.BeginReading(ctx, db)
	if err != nil {
		return nil, err
	}
	if err := ByIndex(ctx, tx); err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return nil, err
	}
	return tx, nil
}

// Between is a condition on rows of the table: their transactions are shown by to
// and not by from. The first part of it is what the index can find: from the first that ran
// at from and has ended by to. A transaction that stays open for hours does not widen that.
//
// The snapshots are parameters $1 (to) and $2 (from, empty for none), both text.
func (t Table) Between() string {
	x := pgx.Identifier{t.Columns.XID}.Sanitize()
	return `(` + x + `::text)::bigint < (pg_snapshot_xmax($1::text::pg_snapshot)::text)::bigint
   AND ($2::text = '' OR (` + x + `::text)::bigint >= coalesce(
        (SELECT min((r::text)::bigint) FROM pg_snapshot_xip(nullif($2::text, '')::pg_snapshot) AS r WHERE pg_visible_in_snapshot(r, $1::text::pg_snapshot)),
        (pg_snapshot_xmax(nullif($2::text, '')::pg_snapshot)::text)::bigint))
   AND pg_visible_in_snapshot(` + x + `, $1::text::pg_snapshot)
   AND ($2::text = '' OR NOT pg_visible_in_snapshot(` + x + `, nullif($2::text, '')::pg_snapshot))`
}

// Among is Between for the transactions of a list alone, which is parameter $3, an
// array of text.
func (t Table) Among() string {
	return t.Between() + " AND " + pgx.Identifier{t.Columns.XID}.Sanitize() + "::text = ANY ($3::text[])"
}

// halves adds up the halves of the ids, as cdc.FingerprintHalves wants them.
const halves = `coalesce(sum(('x' || substr(h, 1, 16))::bit(64)::bigint), 0)::text,
       coalesce(sum(('x' || substr(h, 17, 16))::bit(64)::bigint), 0)::text`

// sums counts and hashes the rows of a window, by transaction or all together.
func (t Table) sums(byTransaction bool) string {
	key, group := "''", ""
	if byTransaction {
		key, group = "x", " GROUP BY x"
	}
	return `SELECT ` + key + `, count(*), ` + halves + `
  FROM (SELECT ` + pgx.Identifier{t.Columns.XID}.Sanitize() + `::text AS x, replace(` + pgx.Identifier{t.Columns.ID}.Sanitize() + `::text, '-', '') AS h
          FROM ` + t.Quoted() + ` WHERE ` + t.Between() + `) AS w` + group
}

// Compare compares what the stream has shown with the table. When the two differ and the
// Journal has added up what came, what is on record of slot tells one transaction from
// another, as in CompareRecorded.
func (t Table) Compare(ctx context.Context, db Beginner, slot string, w Window) (Result, error) {
	total := w.folded
	for _, s := range w.seen {
		total.Rows += s.Rows
		total.Sum += s.Sum
	}
	tx, err := t.BeginNarrow(ctx, db)
	if err != nil {
		return Result{}, fmt.Errorf("audit: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	all, err := t.read(ctx, tx, false, w)
	if err != nil {
		return Result{}, err
	}
	found := all[0] // count() returns a row in any case
	res := Result{Rows: int(found.Rows)}
	if found.Rows == total.Rows && found.Sum == total.Sum {
		return res, nil
	}
	if w.folded.Rows > 0 {
		res.Missing, err = t.byRecord(ctx, tx, slot, w.From, w.To)
		return res, err
	}
	each, err := t.read(ctx, tx, true, w)
	if err != nil {
		return Result{}, err
	}
	w.compare(&res, each)
	return res, nil
}

func (t Table) read(ctx context.Context, tx pgx.Tx, byTransaction bool, w Window) ([]cdc.Tally, error) {
	rows, err := tx.Query(ctx, t.sums(byTransaction), w.To.String(), w.From.String())
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (cdc.Tally, error) {
		var out cdc.Tally
		var xid, upper, lower string
		var n int64
		if err := row.Scan(&xid, &n, &upper, &lower); err != nil {
			return out, err
		}
		out.Rows = uint32(n) // #nosec G115 -- as many as a table of a few seconds has
		if xid != "" {
			var err error
			if out.XID, err = strconv.ParseUint(xid, 10, 64); err != nil {
				return out, err
			}
		}
		up, err := wrap(upper)
		if err != nil {
			return out, err
		}
		low, err := wrap(lower)
		out.Sum = cdc.FingerprintHalves(up, low)
		return out, err
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return list, nil
}

// recordedSums finds the transactions of a window of which the table has other rows than
// relay.accounted says. An entry of it is 28 bytes, see cdc.AppendTallies, and may stand
// there twice; a transaction may have several.
const recordedSums = `
SELECT t.key, t.n FROM (%s) AS t(key, n, upper, lower)
  LEFT JOIN (SELECT xid, sum(n) AS n, sum(fingerprint) AS fingerprint
               FROM (SELECT DISTINCT ('x' || encode(substr(entries, i, 8), 'hex'))::bit(64)::bigint AS commit_lsn,
                            ('x' || encode(substr(entries, i + 8, 8), 'hex'))::bit(64)::bigint AS xid,
                            ('x' || encode(substr(entries, i + 16, 4), 'hex'))::bit(32)::bigint AS n,
                            ('x' || encode(substr(entries, i + 20, 8), 'hex'))::bit(64)::bigint AS fingerprint
                       FROM (SELECT entries || '' AS entries FROM relay.accounted WHERE slot = $3 OFFSET 0) AS a, -- read each once, whole
                            generate_series(1, length(entries) - 27, 28) AS i) AS e GROUP BY xid) AS r
         ON r.xid = t.key::bigint
 WHERE r.xid IS NULL OR r.n <> t.n OR mod(t.lower::numeric + 31 * t.upper::numeric - r.fingerprint, 18446744073709551616) <> 0`

// CompareRecorded compares what is on record of a slot's transactions with the table, when a
// Journal had more to keep than it may. It names no rows: a transaction that differs counts
// as missing with all of its rows. Whatever came before the marker of to must be recorded.
func (t Table) CompareRecorded(ctx context.Context, db Beginner, slot string, from, to cdc.Snapshot) (Result, error) {
	tx, err := t.BeginNarrow(ctx, db)
	if err != nil {
		return Result{}, fmt.Errorf("audit: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	all, err := t.read(ctx, tx, false, Window{From: from, To: to})
	if err != nil {
		return Result{}, err
	}
	missing, err := t.byRecord(ctx, tx, slot, from, to)
	return Result{Rows: int(all[0].Rows), Missing: missing}, err
}

func (t Table) byRecord(ctx context.Context, tx pgx.Tx, slot string, from, to cdc.Snapshot) (missing []Gap, err error) {
	rows, err := tx.Query(ctx, fmt.Sprintf(recordedSums, t.sums(true)), to.String(), from.String(), slot)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var key string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&key, &n}, func() error {
		xid, err := strconv.ParseUint(key, 10, 64)
		missing = append(missing, Gap{XID: xid, Rows: n})
		return err
	}); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return missing, nil
}

// Whole returns the transactions of a list of which the table has exactly what the
// list says, among those that to shows and from does not. tx comes from
// BeginReading.
func (t Table) Whole(ctx context.Context, tx pgx.Tx, from, to cdc.Snapshot, list []cdc.Tally) (map[uint64]bool, error) {
	whole := make(map[uint64]bool)
	if len(list) == 0 {
		return whole, nil
	}
	sum := make(map[uint64]cdc.Tally, len(list))
	for _, l := range list {
		have := sum[l.XID]
		sum[l.XID] = cdc.Tally{XID: l.XID, Rows: have.Rows + l.Rows, Sum: have.Sum + l.Sum}
	}
	each, err := t.read(ctx, tx, true, Window{From: from, To: to})
	if err != nil {
		return nil, err
	}
	for _, row := range each {
		if have, ok := sum[row.XID]; ok && have.Rows == row.Rows && have.Sum == row.Sum {
			whole[row.XID] = true
		}
	}
	return whole, nil
}

// wrap cuts a sum of any size to 64 bits, as an addition without carry does.
func wrap(s string) (uint64, error) {
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return 0, fmt.Errorf("read sum %q", s)
	}
	return new(big.Int).And(n, new(big.Int).SetUint64(^uint64(0))).Uint64(), nil
}

// compare finds the transactions that differ.
func (w Window) compare(res *Result, table []cdc.Tally) {
	came := make(map[uint64][]seen, len(w.seen)) // several when a transaction carries another one's id
	for _, s := range w.seen {
		came[s.XID] = append(came[s.XID], s)
	}
	for _, t := range table {
		list := came[t.XID]
		delete(came, t.XID)
		g := Gap{XID: t.XID, Rows: int(t.Rows), came: make(map[uuid.UUID]struct{})}
		var stream cdc.Tally
		for _, s := range list {
			stream.Rows += s.Rows
			stream.Sum += s.Sum
			if s.n == int(s.Rows) {
				for _, id := range w.ids[s.at : s.at+s.n] {
					g.came[id] = struct{}{}
				}
			}
		}
		if stream.Rows == t.Rows && stream.Sum == t.Sum {
			continue
		}
		res.Missing = append(res.Missing, g)
		if stream.Rows > t.Rows {
			res.Vanished += int(stream.Rows - t.Rows)
		}
	}
	for _, list := range came {
		for _, s := range list {
			res.Vanished += int(s.Rows)
		}
	}
}
