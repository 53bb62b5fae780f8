package cdc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
)

// LSN is a position in the write-ahead log, as the server printed it. The
// package compares LSNs and never does arithmetic on them.
type LSN = pglogrepl.LSN

// ItemKind says which fields of an Item are set.
type ItemKind uint8

// The kinds of Item, in the order in which a transaction brings them.
const (
	// ItemBegin opens a transaction: CommitLSN, CommitTime, XID.
	ItemBegin ItemKind = iota + 1
	// ItemRow is an inserted row: Row.
	ItemRow
	// ItemMessage is a transactional logical message: Prefix, Content.
	ItemMessage
	// ItemCommit ends the transaction: CommitLSN, EndLSN, CommitTime.
	ItemCommit
	// ItemKeepalive is a position between two transactions up to which nothing
	// more will come: EndLSN.
	ItemKeepalive
)

// Item is one step of the stream.
type Item struct {
	Kind       ItemKind
	CommitLSN  LSN // begin of the commit record: names the transaction
	EndLSN     LSN // end of the commit record: what may be confirmed
	CommitTime time.Time
	XID        uint32
	Row        Row
	Prefix     string
	Content    []byte
}

// ErrMalformed is returned for bytes that are no valid pgoutput message. The
// stream stops there and nothing is confirmed.
var ErrMalformed = errors.New("malformed pgoutput message")

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }

// Decoder turns pgoutput messages (protocol version 1) into Items. It does no
// I/O, keeps the relations of one session, and copies everything that it
// returns out of the buffer that it is given. Not safe for concurrent use.
//
// Source: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
type Decoder struct {
	relations map[uint32]*Relation
	inTx      bool
	commitLSN LSN
	skipped   uint64
}

// NewDecoder returns a Decoder for one replication session.
func NewDecoder() *Decoder { return &Decoder{relations: make(map[uint32]*Relation)} }

// InTransaction tells whether a Begin came without its Commit.
func (d *Decoder) InTransaction() bool { return d.inTx }

// Skipped counts messages that carry nothing for an outbox (update, delete,
// truncate, origin, type) or whose type is unknown.
func (d *Decoder) Skipped() uint64 { return d.skipped }

// pgEpoch is the zero of PostgreSQL's timestamps.
var pgEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Commit times that mean something: a replication origin may give its transactions any, infinity too, and ids and partitions
// are made of them.
var (
	firstCommitTime = time.Unix(0, 0).UTC()
	lastCommitTime  = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
)

// pgTime is a commit time, or the nearest one that means something.
func pgTime(micros uint64) time.Time {
	n := int64(micros) // #nosec G115 -- signed on the wire
	t := time.Unix(pgEpoch.Unix()+n/1e6, n%1e6*1000).UTC()
	switch {
	case t.Before(firstCommitTime):
		return firstCommitTime
	case t.After(lastCommitTime):
		return lastCommitTime
	}
	return t
}

// Decode reads one message. ok is false when it yields no Item.
func (d *Decoder) Decode(msg []byte) (item Item, ok bool, err error) {
	if len(msg) == 0 {
		return Item{}, false, malformed("empty")
	}
	body := msg[1:]
	switch msg[0] {
	case 'B':
		return d.begin(body)
	case 'C':
		return d.commit(body)
	case 'R':
		return Item{}, false, d.relation(body)
	case 'I':
		return d.insert(body)
	case 'M':
		return d.message(body)
	default:
		d.skipped++
		return Item{}, false, nil
	}
}

func (d *Decoder) begin(b []byte) (Item, bool, error) {
	if len(b) < 20 {
		return Item{}, false, malformed("short begin")
	}
	if d.inTx {
		return Item{}, false, malformed("begin inside a transaction")
	}
	d.inTx = true
	d.commitLSN = LSN(binary.BigEndian.Uint64(b))
	return Item{
		Kind:       ItemBegin,
		CommitLSN:  d.commitLSN,
		CommitTime: pgTime(binary.BigEndian.Uint64(b[8:])),
		XID:        binary.BigEndian.Uint32(b[16:]),
	}, true, nil
}

func (d *Decoder) commit(b []byte) (Item, bool, error) {
	if len(b) < 25 {
		return Item{}, false, malformed("short commit")
	}
	if !d.inTx {
		return Item{}, false, malformed("commit without begin")
	}
	it := Item{
		Kind:       ItemCommit,
		CommitLSN:  LSN(binary.BigEndian.Uint64(b[1:])),
		EndLSN:     LSN(binary.BigEndian.Uint64(b[9:])),
		CommitTime: pgTime(binary.BigEndian.Uint64(b[17:])),
	}
	if it.CommitLSN != d.commitLSN {
		return Item{}, false, malformed(fmt.Sprintf("commit at %s of the transaction begun for %s", it.CommitLSN, d.commitLSN))
	}
	if it.EndLSN < it.CommitLSN {
		return Item{}, false, malformed(fmt.Sprintf("transaction end %s lies before its commit %s", it.EndLSN, it.CommitLSN))
	}
	d.inTx = false
	return it, true, nil
}

func cString(b []byte) (string, []byte, bool) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", nil, false
	}
	return string(b[:i]), b[i+1:], true
}

func (d *Decoder) relation(b []byte) error {
	if len(b) < 4 {
		return malformed("short relation")
	}
	rel := &Relation{ID: binary.BigEndian.Uint32(b)}
	var ok bool
	if rel.Schema, b, ok = cString(b[4:]); !ok {
		return malformed("relation without schema")
	}
	if rel.Name, b, ok = cString(b); !ok {
		return malformed("relation without name")
	}
	if rel.Schema == "" {
		rel.Schema = "pg_catalog" // the protocol sends an empty string for it
	}
	if len(b) < 3 {
		return malformed("short relation")
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	b = b[3:]
	rel.Columns = make([]Column, 0, min(n, 1600))
	for range n {
		if len(b) < 1 {
			return malformed("short relation column")
		}
		var c Column
		if c.Name, b, ok = cString(b[1:]); !ok || len(b) < 8 {
			return malformed("short relation column")
		}
		c.TypeOID = binary.BigEndian.Uint32(b)
		c.TypeMod = int32(binary.BigEndian.Uint32(b[4:])) // #nosec G115 -- signed on the wire
		b = b[8:]
		rel.Columns = append(rel.Columns, c)
	}
	d.relations[rel.ID] = rel
	return nil
}

func (d *Decoder) insert(b []byte) (Item, bool, error) {
	if !d.inTx {
		return Item{}, false, malformed("insert outside a transaction")
	}
	if len(b) < 7 || b[4] != 'N' {
		return Item{}, false, malformed("short insert")
	}
	rel := d.relations[binary.BigEndian.Uint32(b)]
	if rel == nil {
		return Item{}, false, malformed(fmt.Sprintf("insert into relation %d, which was not described", binary.BigEndian.Uint32(b)))
	}
	n := int(binary.BigEndian.Uint16(b[5:]))
	if n != len(rel.Columns) {
		return Item{}, false, malformed(fmt.Sprintf("%d values for the %d columns of %s.%s", n, len(rel.Columns), rel.Schema, rel.Name))
	}
	// One copy for all columns: the caller keeps the row, the buffer is reused.
	own := append([]byte(nil), b[7:]...)
	values := make([]Value, n)
	for i := range values {
		if len(own) < 1 {
			return Item{}, false, malformed("short tuple")
		}
		v := Value{Kind: own[0]}
		own = own[1:]
		switch v.Kind {
		case KindNull, KindUnchanged:
		case KindText, KindBinary:
			if len(own) < 4 {
				return Item{}, false, malformed("short tuple")
			}
			size := binary.BigEndian.Uint32(own)
			own = own[4:]
			if uint64(size) > uint64(len(own)) {
				return Item{}, false, malformed("tuple value longer than its message")
			}
			v.Data = own[:size:size]
			own = own[size:]
		default:
			return Item{}, false, malformed(fmt.Sprintf("tuple value of kind %q", v.Kind))
		}
		values[i] = v
	}
	return Item{Kind: ItemRow, CommitLSN: d.commitLSN, Row: Row{Relation: rel, Values: values}}, true, nil
}

func (d *Decoder) message(b []byte) (Item, bool, error) {
	if len(b) < 9 {
		return Item{}, false, malformed("short logical message")
	}
	transactional := b[0]&1 == 1
	prefix, rest, ok := cString(b[9:])
	if !ok || len(rest) < 4 {
		return Item{}, false, malformed("short logical message")
	}
	size := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if uint64(size) > uint64(len(rest)) {
		return Item{}, false, malformed("logical message longer than its frame")
	}
	// The other kind is sent even for transactions that roll back.
	if !transactional || !d.inTx {
		d.skipped++
		return Item{}, false, nil
	}
	return Item{Kind: ItemMessage, CommitLSN: d.commitLSN, Prefix: prefix, Content: append([]byte(nil), rest[:size]...)}, true, nil
}
