package e2e_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/test/output"
)

func TestRelay_LosesNothingWhenKilledInsideATransaction(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_DELIVER_WINDOW_EVENTS=100")
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start()
	const each = 300
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for _, key := range l.keys {
		if _, err := tx.Exec(t.Context(), emit, "acme", key, each, 20_000); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var faults []fault
	for _, at := range []int{100, 600} {
		eventually(t, "rows have arrived", func() bool { return s.recv.count("all") >= at })
		if n := s.recv.count("all"); n > 2_500 {
			t.Fatalf("%d rows have arrived: this is not the middle any more", n)
		}
		r.kill()
		faults = append(faults, fault{time.Now(), recordWindow})
		r = s.start()
	}
	l.settle(patience, all)
	l.check(faults, all)
	l.books(all)
	r.terminate()
}

func TestRelay_RepeatsWhatWasOnTheWireWhenKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_DELIVER_TIMEOUT=30s", "RELAY_DELIVER_HANDOVER_AFTER=20s")
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 12)
	r := s.start()
	l.add(0, 1)
	l.settle(patience, all)
	l.books(all) // it is recorded: the kill does not repeat it
	s.recv.set("all", behaviour{status: answerHang})
	for k := range l.keys {
		l.add(k, 2)
	}
	eventually(t, "attempts are on the wire", func() bool { return s.recv.inFlight("all") > 0 })
	r.kill()
	eventually(t, "the receiver notices", func() bool { return s.recv.inFlight("all") == 0 })
	onWire := s.recv.arrivals("all")[1:]
	s.recv.set("all", behaviour{status: http.StatusOK})
	r = s.start()
	l.settle(patience, all)
	l.check(nil, all) // same id, same bytes, and none that was taken comes again
	if got, want := len(s.recv.arrivals("all")), len(l.rows())+len(onWire); got != want {
		t.Errorf("%d requests, want %d: one for each row, and %d that were on the wire", got, want, len(onWire))
	}
	l.books(all)
	r.terminate()
}

func TestRelay_RepeatsWhatWasNotRecordedWhenKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_DELIVER_RECORD_INTERVAL=10s", "RELAY_DELIVER_RECORD_BATCH=500")
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 40)
	r := s.start()
	for k := range l.keys {
		l.add(k, 1)
	}
	l.settle(patience, all)
	r.kill()
	killed := time.Now()
	recorded := s.number("SELECT count(*) FROM relay.deliveries")
	r = s.start()
	eventually(t, "what was not recorded comes again", func() bool {
		return len(s.recv.arrivals("all")) == 2*len(l.keys)-recorded
	})
	l.add(0, 1)
	l.settle(patience, all)
	if repeats := l.check([]fault{{killed, time.Minute}}, all); repeats != len(l.keys)-recorded {
		t.Errorf("%d repeats, want the %d that were not recorded", repeats, len(l.keys)-recorded)
	}
	if recorded == len(l.keys) {
		t.Error("all were recorded before the kill: the test shows nothing")
	}
	r.terminate()
}

func TestRelay_RepeatsNothingThatWasConfirmedWhenKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start()
	for range 3 {
		for k := range l.keys {
			l.add(k, 2)
		}
		head := s.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
		l.settle(patience, all)
		l.books(all)
		eventually(t, "all is confirmed", func() bool { return s.confirmed() >= head })
		r.kill()
		r = s.start()
	}
	l.add(0, 1)
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

func TestRelay_EndsAtOnceAtTheSecondSignal(t *testing.T) {
	t.Parallel()
	s := newStage(t, "RELAY_DELIVER_TIMEOUT=30s", "RELAY_DELIVER_HANDOVER_AFTER=20s", "RELAY_DELIVER_DRAIN_TIMEOUT=40s")
	all := s.subscribe("all", "acme", "*")
	s.recv.set("all", behaviour{status: answerHang})
	l := newLedger(s, "acme", 12)
	r := s.start()
	for k := range l.keys {
		l.add(k, 2)
	}
	eventually(t, "attempts are on the wire", func() bool { return s.recv.inFlight("all") > 0 })
	r.signal(syscall.SIGTERM)
	eventually(t, "it drains", func() bool { return r.log.Count(`"state":"draining"`) == 1 })
	r.signal(syscall.SIGTERM)
	eventuallyWithin(t, 20*time.Second, "it has ended before its drain time", r.ended)
	if r.code != -1 {
		t.Errorf("it ended with code %d, want by the signal", r.code)
	}
	s.recv.set("all", behaviour{status: http.StatusOK})
	r = s.start()
	l.settle(patience, all)
	l.check(nil, all)
	l.books(all)
	r.terminate()
}

// `relay migrate` waits for a lock in the middle of a migration, and is killed there.
func TestMigrate_LeavesNothingHalfDoneWhenKilled(t *testing.T) {
	t.Parallel()
	url, err := sharedCluster(t).CreateDatabase(t.Context(), "e2e_migrate_killed")
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*pgx.Conn, 2) // one with a lock, one that looks
	for i := range conns {
		if conns[i], err = pgx.Connect(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close(context.Background())
	}
	number := func(sql string) (n int) {
		t.Helper()
		if err := conns[1].QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return n
	}
	run := func(sql string) {
		t.Helper()
		if _, err := conns[0].Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	// A table that the first migration makes too: it waits until this transaction has ended.
	run("CREATE SCHEMA outbox")
	run("BEGIN")
	run("CREATE TABLE outbox.events_default ()")
	env := []string{"RELAY_DATABASE_URL=" + url}
	r := spawn(t, relayBinary, env, "migrate")
	eventually(t, "the migration waits", func() bool {
		return number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") > 0
	})
	r.kill()
	run("ROLLBACK")
	eventually(t, "its session is gone", func() bool {
		return number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == len(conns)
	})
	if n := number("SELECT count(*) FROM pg_class WHERE relnamespace = 'outbox'::regnamespace"); n != 0 {
		t.Errorf("%d relations of the broken migration are left", n)
	}
	cmd := exec.CommandContext(t.Context(), relayBinary, "migrate")
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.TempDir())
	out := output.New(t, "relay migrate")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the next run: %v\n%s", err, out)
	}
	run(`SELECT outbox.emit('acme', 'customer.created', 'c1', '{"customer_id":"c1"}')`)
}
