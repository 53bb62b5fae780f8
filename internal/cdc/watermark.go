package cdc

import (
	"fmt"
	"sync"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// Position is how far a stream is recorded: everything in transactions that
// end at or below End, and the first Rows rows of the transaction whose commit
// record begins at Partial (zero when there is none).
type Position struct {
	End     LSN
	Partial LSN
	Rows    int
}

// Covers tells whether row index of the transaction that commits at commit is
// recorded at p.
//
// A start or confirmation at X skips a transaction exactly when its commit
// record begins before X; End obeys the same comparison.
func (p Position) Covers(commit LSN, index int) bool {
	return commit < p.End || (commit == p.Partial && index < p.Rows)
}

// Ticket is one row's claim on the watermark. The zero Ticket belongs to no
// stream, and Done ignores it.
type Ticket struct {
	tx    *txState
	index int
}

// txState is one transaction (or keepalive) in the order of arrival.
type txState struct {
	commit    LSN
	end       LSN
	committed bool
	rows      int      // rows seen
	prefix    int      // first rows that are recorded without a hole
	done      []uint64 // bit set: row recorded
	backfill  bool
	tally     Tally   // the first; zero for none
	more      []Tally // the others: few transactions have any
}

func (t *txState) finished() bool { return t.committed && t.prefix == t.rows }

func (t *txState) set(i int) {
	t.done[i>>6] |= 1 << (i & 63)
	for t.prefix < t.rows && t.done[t.prefix>>6]&(1<<(t.prefix&63)) != 0 {
		t.prefix++
	}
}

// Watermark finds the end of the longest recorded prefix of the stream.
//
// It is a pure state machine: transactions go in in the order of arrival, each
// with its rows, rows are marked done in any order, and Position yields a place
// below which nothing is open. Position never decreases, and it only ever holds
// values that were put in. Safe for concurrent use.
type Watermark struct {
	mu      sync.Mutex
	queue   []*txState // unfinished, in stream order
	open    *txState   // begun, not committed; the last of queue
	end     LSN
	before  Position // recorded by an earlier leader; its Partial counts until end passes it
	arrived LSN      // end of the last transaction or keepalive that was put in

	tallies []Tally // of finished transactions, until Finished takes them
}

// NewWatermark returns a Watermark that stands at start.
func NewWatermark(start LSN) *Watermark { return &Watermark{end: start, arrived: start} }

// Remember tells what an earlier leader recorded up to p, whose End is where the
// Watermark starts. Position holds on to the rows of its partial transaction
// until they have come again: what is written before that must not take back
// what is written already.
func (w *Watermark) Remember(p Position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = p
}

// Begin opens the transaction whose commit record begins at commit. Transactions
// must come in commit order.
func (w *Watermark) Begin(commit LSN) error { return w.begin(commit, false) }

// BeginBackfill opens a pseudo transaction at the place where the stream begins,
// for rows that are read from the table. Their order is not the stream's, so
// Position never counts them.
func (w *Watermark) BeginBackfill(at LSN) error { return w.begin(at, true) }

func (w *Watermark) begin(commit LSN, backfill bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open != nil {
		return fmt.Errorf("transaction %s begins inside transaction %s", commit, w.open.commit)
	}
	if commit < w.arrived {
		return fmt.Errorf("transaction %s comes after position %s", commit, w.arrived)
	}
	w.open = &txState{commit: commit, backfill: backfill}
	w.queue = append(w.queue, w.open)
	return nil
}

// Row adds a row to the open transaction. The caller owes one Done for it.
func (w *Watermark) Row() (Ticket, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.open
	if t == nil {
		return Ticket{}, fmt.Errorf("row outside a transaction")
	}
	i := t.rows
	t.rows++
	if i>>6 >= len(t.done) {
		t.done = append(t.done, 0)
	}
	return Ticket{tx: t, index: i}, nil
}

// Commit closes the open transaction, which ends at end. Finished returns the
// tallies, of which copies are kept, once the transaction is wholly recorded.
func (w *Watermark) Commit(end LSN, tallies []Tally) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		return fmt.Errorf("commit %s without a transaction", end)
	}
	if end < w.open.commit || end < w.arrived {
		return fmt.Errorf("commit %s lies before position %s", end, max(w.arrived, w.open.commit))
	}
	w.open.end, w.open.committed = end, true
	if len(tallies) > 0 {
		w.open.tally = tallies[0]
		w.open.more = append(w.open.more, tallies[1:]...)
	}
	w.open = nil
	w.arrived = end
	w.advance()
	return nil
}

// Keepalive puts in a position between two transactions. It counts once all
// before it is recorded. Inside a transaction, or behind what has arrived, it
// says nothing and is ignored.
func (w *Watermark) Keepalive(pos LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open != nil || pos <= w.arrived {
		return
	}
	w.arrived = pos
	if len(w.queue) == 0 || faultpoint.Planted(faultpoint.KeepaliveOutOfOrder) {
		w.end = pos
		return
	}
	if last := w.queue[len(w.queue)-1]; last.rows == 0 && last.commit == last.end {
		last.commit, last.end = pos, pos // one keepalive entry is enough
		return
	}
	w.queue = append(w.queue, &txState{commit: pos, end: pos, committed: true})
}

// Done marks a row as recorded. A second Done for the same row changes nothing.
func (w *Watermark) Done(t Ticket) {
	if t.tx == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.tx.set(t.index)
	w.advance()
}

func (w *Watermark) advance() {
	n := 0
	for n < len(w.queue) && w.queue[n].finished() {
		w.end = w.queue[n].end
		if t := w.queue[n]; t.tally.Rows > 0 {
			w.tallies = append(append(w.tallies, t.tally), t.more...)
		}
		w.queue[n] = nil
		n++
	}
	if n > 0 {
		w.queue = w.queue[n:]
	}
}

// Position returns how far everything is recorded.
func (w *Watermark) Position() Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.position()
}

func (w *Watermark) position() Position {
	p := Position{End: w.end}
	if len(w.queue) > 0 && w.queue[0].prefix > 0 && !w.queue[0].backfill {
		p.Partial, p.Rows = w.queue[0].commit, w.queue[0].prefix
	}
	if b := w.before; b.Rows > 0 && b.Partial >= p.End && (p.Partial == 0 || p.Partial == b.Partial && p.Rows < b.Rows) {
		p.Partial, p.Rows = b.Partial, b.Rows
	}
	return p
}

// Finished returns how far everything is recorded, as Position does, and takes the
// tallies of the transactions up to there that no earlier call took.
func (w *Watermark) Finished() (Position, []Tally) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.tallies
	w.tallies = nil
	return w.position(), list
}

// Untaken is how many tallies Finished would take.
func (w *Watermark) Untaken() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.tallies)
}

// Arrived returns the end of the last transaction or keepalive that came in
// whole: where a new session of the same stream goes on.
func (w *Watermark) Arrived() LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.arrived
}

// Open returns the commit position and the number of rows of a transaction that
// began and has not committed, because the session broke inside it.
func (w *Watermark) Open() (commit LSN, rows int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		return 0, 0, false
	}
	return w.open.commit, w.open.rows, true
}

// Outstanding is the number of transactions that are not wholly recorded.
func (w *Watermark) Outstanding() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue)
}
