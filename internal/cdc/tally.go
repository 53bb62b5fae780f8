package cdc

import "encoding/binary"

// Tally is what the stream showed of one transaction: how many rows, and a
// fingerprint of their ids that does not depend on their order.
type Tally struct {
	Commit LSN    // where its commit begins
	XID    uint64 // as the rows say; several Tallies when they differ
	Rows   uint32
	Sum    uint64 // Fingerprint of the ids, added up without carry
}

// Fingerprint is an id's share of Tally.Sum. It is linear in the two halves of the
// id, so that a database can add the halves up and be compared.
func Fingerprint(id [16]byte) uint64 {
	return FingerprintHalves(binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:]))
}

// FingerprintHalves is Fingerprint of the sums of the upper and lower halves of
// ids, each without carry.
func FingerprintHalves(upper, lower uint64) uint64 { return lower + 31*upper }

// tallySize is how long a Tally is in AppendTallies.
const tallySize = 8 + 8 + 4 + 8

// AppendTallies appends tallies in the form that ParseTallies reads.
func AppendTallies(b []byte, list []Tally) []byte {
	for _, t := range list {
		b = binary.BigEndian.AppendUint64(b, uint64(t.Commit))
		b = binary.BigEndian.AppendUint64(b, t.XID)
		b = binary.BigEndian.AppendUint32(b, t.Rows)
		b = binary.BigEndian.AppendUint64(b, t.Sum)
	}
	return b
}

// ParseTallies reads what AppendTallies wrote; a rest that is no whole Tally is
// left out.
func ParseTallies(b []byte) []Tally {
	var list []Tally
	for ; len(b) >= tallySize; b = b[tallySize:] {
		list = append(list, Tally{Commit: LSN(binary.BigEndian.Uint64(b)), XID: binary.BigEndian.Uint64(b[8:]),
			Rows: binary.BigEndian.Uint32(b[16:]), Sum: binary.BigEndian.Uint64(b[20:])})
	}
	return list
}
