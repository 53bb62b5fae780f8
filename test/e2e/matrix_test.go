//go:build matrix

package e2e_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// pair is a stage on a primary with a standby that has its slots.
type pair struct {
	*stage
	primary, standby *pgcluster.Cluster
}

func newPair(t *testing.T, major int) *pair {
	t.Helper()
	primary := pgtest.NewCluster(t, pgcluster.Options{BinDir: pgtest.BinDir(t, major)})
	s := newStageOn(t, primary)
	t.Cleanup(func() { s.db.Close() })
	standby := pgtest.NewStandby(t, primary, pgcluster.StandbyOptions{SyncSlots: true})
	// An order that leads to the old primary first.
	s.env = append(s.env, "RELAY_DATABASE_URL="+pgcluster.PairURL(s.slot, primary, standby), "RELAY_CDC_SILENCE_TIMEOUT=5s",
		"RELAY_CDC_STATUS_INTERVAL=1s")
	return &pair{stage: s, primary: primary, standby: standby}
}

// switchOver stops the primary, when the standby has all of it, and promotes the standby.
func (p *pair) switchOver() {
	p.t.Helper()
	pgtest.WaitSlotSynced(p.t, p.primary, p.standby, p.slot, p.slot)
	if err := p.primary.Stop(p.t.Context(), pgcluster.Fast); err != nil {
		p.t.Fatal(err)
	}
	pgtest.Promote(p.t, p.standby)
	p.useServer(p.standby)
}

// useServer makes the test look at another server.
func (s *stage) useServer(c *pgcluster.Cluster) {
	s.t.Helper()
	s.db.Close()
	s.cluster, s.url, s.stopped = c, c.URL(s.slot), true
	var err error
	if s.db, err = pgxpool.New(s.t.Context(), s.url); err != nil {
		s.t.Fatal(err)
	}
}

// eachMajor runs a test on the majors that synchronise slots.
func eachMajor(t *testing.T, f func(t *testing.T, major int)) {
	for _, major := range []int{17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) { f(t, major) })
	}
}

func TestRelay_GoesOnAfterASwitchOver(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		p := newPair(t, major)
		all := p.subscribe("all", "acme", "*")
		l := newLedger(p.stage, "acme", 10)
		r := p.start()
		for k := range l.keys {
			l.add(k, 5)
		}
		p.switchOver()
		for k := range l.keys {
			l.add(k, 5)
		}
		l.settle(patience, all)
		if repeats := l.check(nil, all); repeats != 0 {
			t.Errorf("%d repeats", repeats)
		}
		l.books(all)
		eventually(t, "it is ready", func() bool { return r.httpCode("/readyz") == http.StatusOK })
		r.terminate()
	})
}

func TestRelay_DoesNotReadFromAnOldPrimary(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		p := newPair(t, major)
		all := p.subscribe("all", "acme", "*")
		l := newLedger(p.stage, "acme", 10)
		r := p.start()
		l.add(0, 5)
		l.settle(patience, all)
		p.switchOver()
		l.add(1, 5)
		l.settle(patience, all)
		l.books(all)

		// It comes back as if nothing had happened, and takes writes.
		if err := p.primary.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		old, err := pgxpool.New(t.Context(), p.primary.URL(p.slot))
		if err != nil {
			t.Fatal(err)
		}
		defer old.Close()
		if _, err := old.Exec(t.Context(), emit, l.tenant, l.keys[2], 5, 20); err != nil {
			t.Fatal(err)
		}
		p.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'relay%'")
		eventually(t, "it refuses the old primary", func() bool { return r.state() == "wrong_server" })
		if code := r.httpCode("/readyz"); code != http.StatusServiceUnavailable {
			t.Errorf("/readyz answers %d", code)
		}
		l.add(3, 5)
		old.Close()
		if err := p.primary.Stop(t.Context(), pgcluster.Immediate); err != nil {
			t.Fatal(err)
		}
		l.settle(patience, all)
		l.check(nil, all) // what the old primary took is in no ledger of the new one: it must not have arrived
		r.terminate()
	})
}

func TestRelay_WaitsForAStandbyThatPostgreSQLWaitsFor(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		p := newPair(t, major)
		all := p.subscribe("all", "acme", "*")
		l := newLedger(p.stage, "acme", 10)
		r := p.start()
		p.exec("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
		p.exec("SELECT pg_reload_conf()")
		l.add(0, 5)
		l.settle(patience, all)
		if err := p.standby.Stop(t.Context(), pgcluster.Fast); err != nil {
			t.Fatal(err)
		}
		for k := range l.keys {
			l.add(k, 2)
		}
		began, lost := time.Now(), r.log.Count("replication connection lost")
		eventually(t, "three seconds have passed", func() bool { return time.Since(began) > 3*time.Second })
		if n := p.recv.count("all"); n != 5 {
			t.Errorf("%d rows have arrived though the standby is down, want 5", n)
		}
		if n := r.log.Count("replication connection lost") - lost; n > 2 {
			t.Errorf("%d reconnections meanwhile", n)
		}
		if err := p.standby.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.settle(patience, all)
		if repeats := l.check(nil, all); repeats != 0 {
			t.Errorf("%d repeats", repeats)
		}
		l.books(all)
		r.terminate()
	})
}

func TestRelay_RescuesASlotThatWasIdleForTooLong(t *testing.T) {
	s := newStageOn(t, pgtest.NewCluster(t, pgcluster.Options{BinDir: pgtest.BinDir(t, 18),
		Settings: map[string]string{"idle_replication_slot_timeout": "1s"}}))
	t.Cleanup(s.db.Close)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start()
	l.add(0, 10)
	l.settle(patience, all)
	l.books(all)
	r.terminate()
	l.add(1, 10)
	eventually(t, "the slot is invalid", func() bool {
		s.exec("CHECKPOINT")
		return s.number("SELECT count(*) FROM pg_replication_slots WHERE invalidation_reason = 'idle_timeout'") == 1
	})
	l.add(2, 10)
	r = s.start()
	l.add(3, 10)
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all)
	r.terminate()
}

func TestRelay_GoesOnAfterTheServerWentBackInTime(t *testing.T) {
	for name, o := range map[string]pgcluster.RestoreOptions{
		"snapshot of the volume":  {Slots: true},
		"without slots":           {},
		"on a new timeline":       {NewTimeline: true},
		"with slots and timeline": {Slots: true, NewTimeline: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newOwnStage(t)
			all := s.subscribe("all", "acme", "*")
			l := newLedger(s, "acme", 10)
			r := s.start()
			for k := range l.keys {
				l.add(k, 5)
			}
			l.settle(patience, all)
			l.books(all)
			backup := pgtest.Backup(t, s.cluster)
			// Events that are sent, and that the restored database never had.
			s.insert("acme", "phantom", customer(""))
			s.insert("acme", "phantom", customer(""))
			eventually(t, "they arrive", func() bool { return s.recv.types("all")["customer.created"] == 2 })
			eventually(t, "they are recorded", func() bool { return s.number("SELECT count(*) FROM relay.deliveries") == 52 })
			s.db.Reset()
			s.stopped = true
			pgtest.Restore(t, s.cluster, backup, o)
			for k := range l.keys {
				l.add(k, 5)
			}
			l.settle(patience, all)
			eventually(t, "it is ready", func() bool { return r.httpCode("/readyz") == http.StatusOK })
			phantoms, repeats := 0, 0
			seen := make(map[string]bool)
			for _, a := range s.recv.arrivals("all") {
				if a.typ == "customer.created" {
					phantoms++
				} else if seen[a.event] {
					repeats++
				}
				seen[a.event] = true
			}
			if phantoms != 2 {
				t.Errorf("%d arrivals of what the database lost, want 2", phantoms)
			}
			if repeats != 0 {
				t.Errorf("%d repeats", repeats)
			}
			r.terminate()
		})
	}
}
