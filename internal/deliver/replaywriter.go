package deliver

import "encoding/json"

// replayTally is what one batch does for one replay.
type replayTally struct {
	last                       *ReplayStep // nil: it has not read on
	readAll                    bool
	queued, skipped            int64
	skips                      []ReplaySkip // the first of them
	delivered, dead, cancelled int64
}

// replays queues how far replays have come with this batch, and the ends of
// those that are cancelled.
func (w *writer) replays(ops []op) {
	tallies := make(map[int64]*replayTally)
	var ids []int64
	of := func(id int64) *replayTally {
		t := tallies[id]
		if t == nil {
			t = &replayTally{}
			tallies[id] = t
			ids = append(ids, id)
		}
		return t
	}
	var ends []*op
	for i := range ops {
		o := &ops[i]
		switch o.kind {
		case opPark, opReplay:
			if o.replay == nil {
				continue
			}
			t := of(o.replay.Replay)
			t.last = o.replay
			t.readAll = t.readAll || o.replay.ReadAll
			t.skipped += int64(len(o.replay.Skipped))
			t.skips = append(t.skips, o.replay.Skipped[:min(len(o.replay.Skipped), MaxReplaySkips-len(t.skips))]...)
			if o.kind == opPark {
				t.queued++
				if o.referenced() { // nothing of it is left to end
					t.dead++
				}
			}
		case opUpdate:
			if o.referenced() && o.d.flight.Replay != 0 {
				of(o.d.flight.Replay).dead++
			}
		case opEnded:
			if o.d.flight.Replay == 0 {
				continue
			}
			switch t := of(o.d.flight.Replay); o.status {
			case StatusDelivered:
				t.delivered++
			case StatusDead:
				t.dead++
			default:
				t.cancelled++
			}
		case opReplayCancel:
			ends = append(ends, o)
		}
	}
	if len(ids) > 0 {
		w.replayProgress(ids, tallies)
	}
	for _, o := range ends {
		w.freesBodies = true
		w.batch.Queue(sqlReplayCancel, o.replay.Replay, o.text, cancelRows).QueryRow(moreThan(cancelRows, o))
	}
}

func (w *writer) replayProgress(ids []int64, tallies map[int64]*replayTally) {
	n := len(ids)
	moved, readAll, cursorID := make([]bool, n), make([]bool, n), make([]string, n)
	key, queued, skipped := make([]int64, n), make([]int64, n), make([]int64, n)
	delivered, dead, cancelled := make([]int64, n), make([]int64, n), make([]int64, n)
	skips := make([]string, n)
	for i, id := range ids {
		t := tallies[id]
		skips[i] = skipsText(t.skips)
		if t.last != nil {
			moved[i], key[i], cursorID[i] = true, t.last.Cursor.Key, t.last.Cursor.ID
		}
		readAll[i], queued[i], skipped[i] = t.readAll, t.queued, t.skipped
		delivered[i], dead[i], cancelled[i] = t.delivered, t.dead, t.cancelled
	}
	w.batch.Queue(sqlReplayProgress, ids, moved, key, cursorID, readAll, queued, skipped, delivered, dead, cancelled, skips, MaxReplaySkips)
}

// skipsText is a list of skips as relay.replays keeps it.
func skipsText(list []ReplaySkip) string {
	if len(list) == 0 {
		return "[]"
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "[]" // strings can always be written
	}
	return string(text)
}
