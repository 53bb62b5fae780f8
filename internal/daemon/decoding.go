package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/outbox-relay/relay/internal/health"
)

// mostPatience is how often the silence timeout is doubled at most.
const mostPatience = 5

// noteSilence lets patience grow while connections are given up that have brought nothing: each new one makes the server begin
// again with what it was silent about.
func (d *Daemon) noteSilence(silent, moved bool) {
	if silent && !moved {
		d.silences.Add(1)
	} else {
		d.silences.Store(0)
	}
}

// senderAtWork asks PostgreSQL whether a walsender computes, reads or writes. One that waits for us, or for WAL, would have
// answered. The session has the role of the stream, which sees its own processes.
//
// Source: https://www.postgresql.org/docs/current/monitoring-stats.html#WAIT-EVENT-TABLE
func (d *Daemon) senderAtWork(ctx context.Context, pid uint32) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := d.direct(ctx)
	if err != nil {
		return false // nobody is there, as far as can be told
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var busy bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_replication_slots s ON s.active_pid = a.pid
		WHERE a.pid = $1 AND s.slot_name = $2 AND a.state IS NOT NULL AND coalesce(a.wait_event_type, '') NOT IN ('Activity', 'Client'))`,
		int64(pid), d.cfg().CDC.Slot).Scan(&busy)
	return err == nil && busy
}

// lookAtDecoding says that the server is silent because it works.
func (l *leader) lookAtDecoding() {
	stream := l.stream.Load()
	if stream == nil {
		return // the loss of the connection is told
	}
	since := stream.AtWorkSince()
	if since.IsZero() {
		if l.decoding {
			l.decoding = false
			l.d.board.Clear(health.PartDecoding)
		}
		return
	}
	l.decoding = true
	l.d.board.Raise(health.PartDecoding, health.Condition{State: health.Degraded,
		Sentence: fmt.Sprintf("the server is decoding a large transaction, and has sent nothing since %s", since.UTC().Format(time.RFC3339)),
		Remedy:   "wait; a larger logical_decoding_work_mem makes it faster (ALTER SYSTEM SET logical_decoding_work_mem = '256MB', SELECT pg_reload_conf()), and smaller transactions on other tables avoid it"})
}
