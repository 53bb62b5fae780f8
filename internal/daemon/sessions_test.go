package daemon_test

import (
	"strings"
	"testing"
)

// Somebody ends the relay's ordinary sessions, in the words of a shutdown. The server works, so
// the stream goes on.
func TestDaemon_KeepsTheStreamWhenItsOrdinarySessionsAreEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	const streaming = "SELECT coalesce(max(active_pid), 0) FROM pg_replication_slots WHERE slot_name = $1"
	pid := r.number(streaming, r.slot())
	for i := range 5 {
		r.eventually("a session is there to be ended", func() bool {
			return r.number(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()
				AND application_name LIKE 'relay%' AND backend_type = 'client backend'`) > 0
		})
		r.orders(i*5, i*5+5)
		r.eventually("rows arrive", func() bool { return len(rec.orderNumbers(t)) == i*5+5 })
		r.eventually("it listens again", func() bool {
			return r.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
				AND application_name = 'relay:' || $1 AND backend_type = 'client backend'`, r.slot()) > 0
		})
	}
	if now := r.number(streaming, r.slot()); now != pid || strings.Contains(d.log.String(), "replication connection lost") {
		t.Errorf("the stream was given up: it was process %d, it is %d", pid, now)
	}
	d.stop()
}
