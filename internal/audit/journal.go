package audit

import (
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/outbox-relay/relay/internal/cdc"
)

// maxIDs bounds the ids that a Journal keeps. Beyond, rows are only counted and
// hashed, and a transaction of which some rows are missing is delivered whole.
const maxIDs = 50_000

// ManyRows is so many rows that the next marker should not wait for its time: the
// ids of twice as many are kept.
const ManyRows = maxIDs / 2

// keepEach is how many transactions are kept one by one. A relay that was away for
// an hour finds more than it can hold before the first marker; those that the marker
// will show are only added up then, and are on record in relay.accounted.
const keepEach = 20_000

// maxTransactions bounds what a Journal keeps when no marker comes to an end, some
// hundred bytes each. Beyond, it forgets and begins anew with the next marker.
const maxTransactions = 500_000

// maxUnknown bounds the transactions that are left over although the server has given out no
// such ids: their rows were restored from another cluster, or their writer made ids up. Most
// of them no snapshot will ever show.
const maxUnknown = 1000

// seen is what the stream has shown of one transaction.
type seen struct {
	cdc.Tally
	at, n int // its rows' ids are ids[at:at+n]; fewer than Rows when they were not kept
}

// Journal keeps what the stream has shown since the last marker. Row, Commit and
// Marker are called in stream order by one goroutine; the rest is safe for others.
type Journal struct {
	reader *RowReader

	mu       sync.Mutex
	most     int // transactions that are kept
	baseline cdc.Snapshot
	open     []seen      // of the transaction that is coming in
	done     []seen      // of those that have, in stream order
	tallies  []cdc.Tally // that Commit has returned last
	ids      []uuid.UUID // of open and done, one after another
	rows     int         // since the last marker came
	overflow bool        // it has forgotten what came since the baseline
	uncut    bool        // a marker has come, and Cut has not been called since
	beyond   bool        // it has forgotten what came since that marker
	blind    bool        // a row had no id or transaction id that can be read

	expected string
	coming   cdc.Snapshot  // of the expected marker; zero while it is not known
	folded   cdc.Tally     // of transactions that coming shows, all together
	foldAt   int           // so many in done make another look worth while
	came     chan struct{} // closed when the expected marker has come
	upTo     int           // what came before it in done
	lsn      cdc.LSN
	before   int    // what had come when it was not emitted yet
	own      uint64 // id of the transaction that emitted it; 0 until Emitted
}

// NewJournal returns a Journal that begins behind the marker of baseline, the zero
// Snapshot for none, with the transactions that are recorded since.
func NewJournal(columns Columns, baseline cdc.Snapshot, recorded []cdc.Tally) *Journal {
	j := &Journal{reader: NewRowReader(columns), most: maxTransactions}
	j.Reset(baseline)
	j.done = make([]seen, 0, len(recorded))
	for _, t := range recorded {
		if !baseline.Visible(t.XID) {
			j.done = append(j.done, seen{Tally: t})
		}
	}
	return j
}

// Keep changes how many transactions are kept before the Journal forgets.
func (j *Journal) Keep(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.most = n
}

// Reset forgets everything and begins behind another baseline.
func (j *Journal) Reset(baseline cdc.Snapshot) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.baseline, j.open, j.done, j.ids, j.rows, j.expected, j.upTo, j.before = baseline, nil, nil, nil, 0, "", 0, 0
	j.coming, j.folded = cdc.Snapshot{}, cdc.Tally{}
}

// Baseline is the snapshot behind which the Journal begins.
func (j *Journal) Baseline() cdc.Snapshot {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.baseline
}

// Overflowed tells whether the Journal has had to forget what came since the last
// marker. The next one has nothing to be compared with then.
func (j *Journal) Overflowed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.overflow
}

// Rows is how many rows have come since the last marker did.
func (j *Journal) Rows() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.rows
}

// Blind tells whether rows came that cannot be audited: the table lacks a column
// of transaction ids, or its ids are no UUIDs.
func (j *Journal) Blind() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.blind
}

// Row notes a row of the open transaction, which has the id writer. It reports whether the row names another transaction, and
// whether it is known to have come in that: an UPDATE that moves a row to another partition brings it again. It counts once.
func (j *Journal) Row(row cdc.Row, writer uint32) (other, again bool) {
	id, xid, ok := j.reader.Read(row)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rows++
	if !ok {
		j.blind = true
		return false, false
	}
	other = uint32(xid) != writer // #nosec G115 -- the low half, which is what the stream calls a transaction by
	if other && j.hasCome(id, xid) {
		return true, true
	}
	// Rows of one transaction carry one id, unless they were restored: then there may be
	// as many as rows, and an id may come twice.
	if n := len(j.open); n == 0 || j.open[n-1].XID != xid {
		j.open = append(j.open, seen{Tally: cdc.Tally{XID: xid}, at: len(j.ids)})
	}
	s := &j.open[len(j.open)-1]
	s.Rows++
	s.Sum += cdc.Fingerprint(id)
	if len(j.ids) < maxIDs && s.at+s.n == len(j.ids) {
		j.ids = append(j.ids, id)
		s.n++
	}
	return other, false
}

// hasCome reports whether a row is among those of the last transactions, as far as they are kept one by one. mu is held.
func (j *Journal) hasCome(id uuid.UUID, xid uint64) bool {
	for i := max(0, len(j.done)-keepEach); i < len(j.done); i++ {
		if s := &j.done[i]; s.XID == xid && slices.Contains(j.ids[s.at:s.at+s.n], id) {
			return true
		}
	}
	return false
}

// Commit ends the open transaction, whose commit begins at lsn, and returns what it
// showed, until the next call.
func (j *Journal) Commit(lsn cdc.LSN) []cdc.Tally {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.open) == 0 {
		return nil
	}
	j.tallies = j.tallies[:0]
	for i := range j.open {
		j.open[i].Commit = lsn
		j.tallies = append(j.tallies, j.open[i].Tally)
	}
	j.done = append(j.done, j.open...)
	j.open = j.open[:0]
	if j.fold(); len(j.done) > j.most {
		j.done, j.ids, j.upTo, j.before, j.baseline, j.overflow = nil, nil, 0, 0, cdc.Snapshot{}, true
		j.beyond = j.uncut
		j.folded = cdc.Tally{}
	}
	return j.tallies
}

// Expect names the marker that is to come, and returns a channel that is closed
// when it has. One that was expected before does not count any more.
func (j *Journal) Expect(number string) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.expected, j.came = number, make(chan struct{})
	j.before, j.own, j.coming, j.uncut, j.beyond = len(j.done), 0, cdc.Snapshot{}, false, false
	return j.came
}

// Emitted tells by which transaction the expected marker was emitted, and its snapshot,
// before it comes or after. Whatever had come before has ids below.
func (j *Journal) Emitted(xid uint64, snapshot cdc.Snapshot) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.own, j.coming, j.foldAt = xid, snapshot, keepEach
	j.fold()
}

// fold adds up the transactions that the expected marker will show, when there are
// many. What a marker shows was committed before it, so it comes before it too.
func (j *Journal) fold() {
	if j.expected == "" || j.coming.IsZero() || len(j.done) <= j.foldAt {
		return
	}
	var rest []seen
	before := 0
	for i, s := range j.done {
		switch {
		case j.baseline.Visible(s.XID):
		case j.coming.Visible(s.XID):
			j.folded.Rows += s.Rows
			j.folded.Sum += s.Sum
		default:
			if rest = append(rest, s); i < j.before {
				before++
			}
		}
	}
	j.before = before
	j.keep(rest)
	j.foldAt = keepEach + 2*len(rest) // not for each of those that it does not show
}

// keep drops all transactions but rest and the open one. Their ids move together,
// into a slice of their own.
func (j *Journal) keep(rest []seen) {
	var ids []uuid.UUID
	for _, list := range [][]seen{rest, j.open} {
		for i := range list {
			s := &list[i]
			at := len(ids)
			ids = append(ids, j.ids[s.at:s.at+s.n]...)
			s.at = at
		}
	}
	j.done, j.ids = rest, ids
}

// Marker notes that a marker came, in a transaction that commits at lsn.
func (j *Journal) Marker(number string, lsn cdc.LSN) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if number == "" || number != j.expected {
		return
	}
	j.expected, j.upTo, j.lsn, j.rows, j.uncut = "", len(j.done), lsn, 0, true
	close(j.came)
}

// Cut takes what came before the last marker and is shown by its snapshot. What
// came before and is not shown yet stays, and is returned as leftOver.
func (j *Journal) Cut(snapshot cdc.Snapshot) (w Window, leftOver []cdc.Tally) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w = Window{From: j.baseline, To: snapshot, LSN: j.lsn, Forgotten: j.overflow, ids: j.ids, folded: j.folded}
	var rest []seen
	unknown := 0
	for i, s := range j.done {
		foreign := i < j.before && j.own != 0 && s.XID >= j.own
		if foreign {
			unknown++
		}
		switch {
		case j.baseline.Visible(s.XID):
			// The writer has set a transaction id of its own.
		case foreign && unknown > maxUnknown:
			w.Unknown++
		case i < j.upTo && snapshot.Visible(s.XID):
			w.seen = append(w.seen, s)
		default:
			if i < j.upTo {
				leftOver = append(leftOver, s.Tally)
			}
			rest = append(rest, s)
		}
	}
	j.keep(rest) // the window has the ids that there were
	j.baseline, j.upTo, j.before, j.overflow, j.folded = snapshot, 0, 0, j.beyond, cdc.Tally{}
	if j.overflow { // also behind the marker: the next window has nothing to be compared with either
		j.baseline = cdc.Snapshot{}
	}
	j.uncut, j.beyond = false, false
	return w, leftOver
}
