package cdc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot tells which transactions were finished at one moment. The zero
// Snapshot shows none.
//
// Source: https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT
type Snapshot struct {
	Xmin, Xmax uint64   // below Xmin all were finished; at Xmax and above none
	Running    []uint64 // of those in between, the unfinished ones, ascending
}

// ParseSnapshot reads the text form of a pg_snapshot, xmin:xmax:xip,xip.
func ParseSnapshot(s string) (Snapshot, error) {
	bad := func() (Snapshot, error) { return Snapshot{}, fmt.Errorf("parse snapshot %q", s) }
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return bad()
	}
	var snap Snapshot
	var err1, err2 error
	snap.Xmin, err1 = strconv.ParseUint(parts[0], 10, 64)
	snap.Xmax, err2 = strconv.ParseUint(parts[1], 10, 64)
	if err1 != nil || err2 != nil || snap.Xmin == 0 || snap.Xmax < snap.Xmin {
		return bad()
	}
	if parts[2] == "" {
		return snap, nil
	}
	for x := range strings.SplitSeq(parts[2], ",") {
		v, err := strconv.ParseUint(x, 10, 64)
		if err != nil || v < snap.Xmin || v >= snap.Xmax ||
			len(snap.Running) > 0 && v <= snap.Running[len(snap.Running)-1] {
			return bad()
		}
		snap.Running = append(snap.Running, v)
	}
	return snap, nil
}

// IsZero tells whether s is the zero Snapshot.
func (s Snapshot) IsZero() bool { return s.Xmax == 0 }

// Visible tells whether transaction xid was finished, as
// pg_visible_in_snapshot does. One that was rolled back counts too: it left no
// rows.
func (s Snapshot) Visible(xid uint64) bool {
	if xid < s.Xmin {
		return true
	}
	if xid >= s.Xmax {
		return false
	}
	_, running := slices.BinarySearch(s.Running, xid)
	return !running
}

// String is the text form, which PostgreSQL reads; empty for the zero Snapshot.
func (s Snapshot) String() string {
	if s.IsZero() {
		return ""
	}
	b := strconv.AppendUint(nil, s.Xmin, 10)
	b = strconv.AppendUint(append(b, ':'), s.Xmax, 10)
	b = append(b, ':')
	for i, x := range s.Running {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return string(b)
}
