package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
)

func TestRelay_LosesNothingWhenPostgreSQLCrashes(t *testing.T) {
	t.Parallel()
	s := newOwnStage(t)
	all := s.subscribe("all", "acme", "*")
	some := s.subscribe("some", "acme", "sales_order.confirmed")
	l := newLedger(s, "acme", 40)
	r := s.start()
	// A transaction that has written and stays open: the slot cannot move its restart beyond it, so a crash takes the
	// slot back to here.
	s.openTransaction("CREATE TABLE held_open ()")
	const rows = 6_000
	l.write(4, rows)
	var faults []fault
	crash := func(at int, alsoRelay bool) {
		eventually(t, fmt.Sprintf("%d rows have arrived", at), func() bool { return s.recv.count("all") >= at })
		if alsoRelay {
			r.kill()
			faults = append(faults, fault{time.Now(), recordWindow})
		}
		s.stopServer(t.Context(), pgcluster.Immediate)
		s.startServer()
		s.openTransaction("CREATE TABLE held_open ()") // the one before died in the crash
		if alsoRelay {
			r = s.start()
			return
		}
		eventually(t, "the relay is back by itself", func() bool { return r.httpCode("/readyz") == http.StatusOK })
	}
	crash(1_000, false) // the relay lives and remembers: no repeat is explained
	crash(2_500, true)  // both are gone: progress is all there is
	crash(4_000, false)
	l.wait()
	l.settle(patience, all, some)
	l.check(faults, all, some) // how many repeats a second is worth depends on the machine
	l.books(all, some)
	r.terminate()
}

// openTransaction begins a transaction in a session of its own, runs a statement in it, and leaves it open.
func (s *stage) openTransaction(sql string) {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	for _, q := range []string{"BEGIN", sql} {
		if _, err := conn.Exec(s.t.Context(), q); err != nil {
			s.t.Fatal(err)
		}
	}
}

func TestRelay_LetsPostgreSQLStopWhileAnEndpointHangs(t *testing.T) {
	t.Parallel()
	// An attempt hangs for longer than PostgreSQL is given to stop.
	s := newOwnStage(t, "RELAY_DELIVER_TIMEOUT=30s", "RELAY_DELIVER_HEADER_TIMEOUT=30s")
	all := s.subscribe("all", "acme", "*")
	hanging := s.subscribe("hanging", "acme", "sales_order.confirmed")
	s.recv.set("hanging", behaviour{status: answerHang})
	l := newLedger(s, "acme", 20)
	r := s.start()
	l.write(4, 3_000)
	eventually(t, "rows arrive and one endpoint hangs", func() bool {
		return s.recv.count("all") >= 1_000 && s.recv.inFlight("hanging") > 0
	})
	s.fastStop(25 * time.Second)
	if code := r.httpCode("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d while PostgreSQL is down", code)
	}
	s.startServer()
	eventually(t, "the relay is back by itself", func() bool { return r.httpCode("/readyz") == http.StatusOK })
	l.wait()
	l.settle(patience, all)
	s.recv.set("hanging", behaviour{status: http.StatusOK})
	l.settle(patience, hanging)
	if repeats := l.check(nil, all, hanging); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all, hanging)
	r.terminate()
}

// fastStop stops PostgreSQL as its service manager does.
func (s *stage) fastStop(limit time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	began := time.Now()
	s.stopServer(ctx, pgcluster.Fast)
	s.t.Logf("PostgreSQL stopped in %s", time.Since(began).Round(time.Millisecond))
}

func TestRelay_SaysThatItIsNotReadyWhilePostgreSQLIsDown(t *testing.T) {
	t.Parallel()
	s := newOwnStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 1)
	r := s.start()
	l.add(0, 1)
	l.settle(patience, all)
	s.fastStop(time.Minute) // idle
	eventually(t, "the relay is not ready", func() bool { return r.httpCode("/readyz") == http.StatusServiceUnavailable })
	if code := r.httpCode("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d while PostgreSQL is down", code)
	}
	s.startServer()
	eventually(t, "the relay is ready again", func() bool { return r.httpCode("/readyz") == http.StatusOK })
	l.add(0, 1)
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

// cutStream ends the walsender of the relay and waits until the relay has noticed.
func (s *stage) cutStream(r *relay) {
	s.t.Helper()
	before := r.log.Count("replication connection lost")
	n := s.number(`SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots
		WHERE slot_name = $1 AND active_pid IS NOT NULL`, s.slot)
	if n != 1 {
		s.t.Fatalf("%d walsenders ended, want 1", n)
	}
	eventually(s.t, "the relay notices", func() bool { return r.log.Count("replication connection lost") > before })
	eventually(s.t, "the relay streams again", func() bool { return r.httpCode("/readyz") == http.StatusOK })
}

func TestRelay_RepeatsNothingWhenItsConnectionIsCut(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	some := s.subscribe("some", "acme", "sales_order.confirmed")
	l := newLedger(s, "acme", 40)
	r := s.start()
	l.write(4, 5_000)
	for _, at := range []int{200, 1_000, 2_000, 3_000, 4_000} {
		eventually(t, fmt.Sprintf("%d rows have arrived", at), func() bool { return s.recv.count("all") >= at })
		s.cutStream(r)
	}
	l.wait()
	l.settle(patience, all, some)
	if repeats := l.check(nil, all, some); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all, some)
	r.terminate()
}

func TestRelay_RepeatsNothingWhenItsConnectionIsCutInsideATransaction(t *testing.T) {
	t.Parallel()
	// A small window and large rows: what is between the server and the window is a small part of the transaction.
	s := newStage(t, "RELAY_DELIVER_WINDOW_EVENTS=100")
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start()
	const each, padding = 300, 20_000
	began := time.Now()
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for _, key := range l.keys {
		if _, err := tx.Exec(t.Context(), emit, "acme", key, each, padding); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{100, 500, 1_000} {
		eventually(t, fmt.Sprintf("%d rows have arrived", at), func() bool { return s.recv.count("all") >= at })
		if n := s.recv.count("all"); n > 2_000 {
			t.Fatalf("%d of %d rows have arrived: this is not the middle any more", n, each*len(l.keys))
		}
		s.cutStream(r)
	}
	l.settle(patience, all)
	t.Logf("%d rows of %d bytes in one transaction, cut 3 times, took %s", each*len(l.keys), padding, time.Since(began).Round(time.Millisecond))
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all)
	r.terminate()
}
