package daemon_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// mixture is a run of random steps, all of them by one goroutine: what it does follows from
// the seed, and when the relay sees it does not.
type mixture struct {
	*rig
	rnd       *rand.Rand
	sessions  []*pgx.Conn
	open      [][]int // numbers that are written in a session's open transaction
	prepared  map[string][]int
	names     int // of prepared transactions
	next      int
	committed map[int]bool
}

func (m *mixture) on(i int, sql string, args ...any) {
	m.t.Helper()
	if _, err := m.sessions[i].Exec(context.Background(), sql, args...); err != nil {
		m.t.Fatalf("%s: %v", sql, err)
	}
}

func (m *mixture) insert(i, rows int) (numbers []int) {
	m.t.Helper()
	for range rows {
		m.on(i, `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o' || $1 % 5,
			'sales_order.confirmed', json_build_object('order_id', 'o' || $1 % 5, 'order_number', $1::text, 'amount', '1', 'currency', 'EUR'))`, m.next)
		numbers = append(numbers, m.next)
		m.next++
	}
	return numbers
}

// write goes on with a transaction of one of the sessions.
func (m *mixture) write() {
	i := m.rnd.IntN(len(m.sessions))
	if m.open[i] == nil {
		m.on(i, "BEGIN")
		m.open[i] = []int{}
	}
	m.open[i] = append(m.open[i], m.insert(i, 1+m.rnd.IntN(3))...)
	if m.rnd.IntN(3) == 0 {
		m.on(i, "SAVEPOINT s")
		numbers := m.insert(i, 1+m.rnd.IntN(3))
		if m.rnd.IntN(2) == 0 {
			m.on(i, "ROLLBACK TO s")
		} else {
			m.on(i, "RELEASE s")
			m.open[i] = append(m.open[i], numbers...)
		}
	}
	if m.rnd.IntN(3) > 0 {
		m.end(i)
	}
}

func (m *mixture) end(i int) {
	switch {
	case m.open[i] == nil:
		return
	case m.rnd.IntN(6) == 0:
		m.on(i, "ROLLBACK")
	case m.rnd.IntN(4) == 0:
		m.names++
		name := fmt.Sprint("t", m.names)
		m.on(i, "PREPARE TRANSACTION '"+name+"'")
		m.prepared[name] = m.open[i]
	default:
		m.on(i, "COMMIT")
		m.commit(m.open[i])
	}
	m.open[i] = nil
}

func (m *mixture) commit(numbers []int) {
	for _, n := range numbers {
		m.committed[n] = true
	}
}

// endPrepared ends one of the prepared transactions, which is not always the same for a seed.
func (m *mixture) endPrepared() {
	for name, numbers := range m.prepared {
		if m.rnd.IntN(4) == 0 {
			m.exec("ROLLBACK PREPARED '" + name + "'")
		} else {
			m.exec("COMMIT PREPARED '" + name + "'")
			m.commit(numbers)
		}
		delete(m.prepared, name)
		return
	}
}

func (m *mixture) endAll() {
	for i := range m.sessions {
		m.end(i)
	}
	for len(m.prepared) > 0 {
		m.endPrepared()
	}
}

// try runs what may fail, because somebody has the slot or it is gone already.
func (m *mixture) try(sql string, args ...any) {
	_, _ = m.conn.Exec(context.Background(), sql, args...)
}

// damage does one of the things that take rows out of the stream.
func (m *mixture) damage() {
	switch m.rnd.IntN(5) {
	case 0:
		m.try("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL", m.slot())
		m.try("SELECT pg_drop_replication_slot($1)", m.slot())
	case 1:
		m.try("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL", m.slot())
		m.try("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", m.slot())
	case 2:
		m.try("DROP PUBLICATION relay")
	case 3:
		m.try("ALTER PUBLICATION relay DROP TABLE outbox.events")
		m.insertAlone()
		m.try("ALTER PUBLICATION relay ADD TABLE outbox.events")
	case 4:
		m.try("ALTER PUBLICATION relay DROP TABLE outbox.events") // until the relay looks
	}
}

func (m *mixture) insertAlone() {
	for i := range m.sessions {
		if m.open[i] == nil {
			m.commit(m.insert(i, 2))
			return
		}
	}
}

// Savepoints, two-phase commits, stops of the relay, slots that go or are moved, publications
// that change: whatever comes after what, each committed row arrives, and no other.
func TestDaemon_LosesNothingInARandomMixture(t *testing.T) {
	t.Parallel()
	// Of its own: a slot is not made before every transaction of the cluster that is open has ended.
	cluster := pgtest.NewCluster(t, pgcluster.Options{Settings: map[string]string{"max_prepared_transactions": "50"}})
	for _, seed := range []uint64{1, 11} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			url, err := cluster.CreateDatabase(t.Context(), fmt.Sprint("mixture", seed))
			if err != nil {
				t.Fatal(err)
			}
			r := newRigOn(t, url, quickMarkers)
			rec := newReceiver(t)
			rec.setAnswer(func(_ arrival, n int) int {
				if n%11 == 0 {
					return 503
				}
				return 200
			})
			r.subscribe("acme", rec.URL, "*")
			m := &mixture{rig: r, rnd: rand.New(rand.NewPCG(seed, 8)), prepared: make(map[string][]int), committed: make(map[int]bool)}
			for range 4 {
				m.sessions = append(m.sessions, r.session())
			}
			m.open = make([][]int, len(m.sessions))
			d := r.start()
			for range 250 {
				switch k := m.rnd.IntN(100); {
				case k < 78:
					m.write()
				case k < 85:
					m.endPrepared()
				case k < 89: // a rescue waits for all that is open
					m.endAll()
					r.eventually("the relay streams", func() bool { return d.Status().Ready })
				case k < 94:
					d.stop()
					if m.rnd.IntN(2) == 0 {
						m.damage()
						m.insertAlone()
					}
					d = r.launch()
				default:
					m.damage()
				}
			}
			m.endAll()
			d.stop()
			d = r.start()
			r.eventuallyWithin(time.Minute, "all arrive", func() bool {
				seen := rec.orderNumbers(t)
				for n := range m.committed {
					if seen[n] == 0 {
						return false
					}
				}
				return true
			})
			r.audited(d)
			d.stop()
			for n := range rec.orderNumbers(t) {
				if !m.committed[n] {
					t.Errorf("order %d was never committed", n)
				}
			}
			rec.mustVerify(t)
			t.Logf("%d rows committed, %d arrivals, incidents: %s", len(m.committed), len(rec.arrivals()),
				r.text("SELECT coalesce(string_agg(kind || ' ' || n, ', '), 'none') FROM (SELECT kind, count(*) AS n FROM relay.incidents GROUP BY 1) AS i"))
		})
	}
}
