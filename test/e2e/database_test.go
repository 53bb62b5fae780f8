package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// All connection slots are taken by others, those of the relay too. That its sessions were ended looks like a stop of
// PostgreSQL, so it lets the stream go, and it cannot come back without an ordinary connection.
func TestRelay_OutlastsAServerWithoutConnectionSlots(t *testing.T) {
	t.Parallel()
	s := newStageOn(t, pgtest.NewCluster(t, pgcluster.Options{Settings: map[string]string{"max_connections": "20"}}))
	t.Cleanup(s.db.Close)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.start()
	l.add(0, 1)
	l.settle(patience, all)
	l.books(all)

	mine := s.connect()
	s.db.Reset() // its slots are taken too
	hogs := make(chan *pgx.Conn, 100)
	hogging, release := context.WithCancel(t.Context())
	hogged := make(chan struct{})
	go func() {
		defer close(hogged)
		for hogging.Err() == nil {
			if c, err := pgx.Connect(hogging, s.url); err == nil {
				hogs <- c
			}
		}
	}()
	const others = "FROM pg_stat_activity WHERE application_name LIKE 'relay%' AND backend_type = 'client backend'"
	eventually(t, "the relay has no connection left but its stream", func() bool {
		var ended, all int
		err := mine.QueryRow(t.Context(), "SELECT (SELECT count(pg_terminate_backend(pid)) "+others+
			"), (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')").Scan(&ended, &all)
		if err != nil {
			t.Fatal(err)
		}
		return ended == 0 && all == 20
	})
	for k := range l.keys {
		if _, err := mine.Exec(t.Context(), emit, l.tenant, l.keys[k], 2, 20); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the relay is refused a connection", func() bool { return r.log.Count("53300") > 0 })
	if code := r.httpCode("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d", code)
	}
	release()
	<-hogged
	close(hogs)
	for c := range hogs {
		_ = c.Close(t.Context())
	}
	l.settle(patience, all)
	s.stopped = true
	l.books(all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

// connect opens a connection of the test.
func (s *stage) connect() *pgx.Conn {
	s.t.Helper()
	c, err := pgx.Connect(s.t.Context(), s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func TestRelay_WaitsForAWalsender(t *testing.T) {
	t.Parallel()
	s := newStageOn(t, pgtest.NewCluster(t, pgcluster.Options{Settings: map[string]string{"max_wal_senders": "1"}}))
	t.Cleanup(s.db.Close)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 1)
	other, err := pgconn.Connect(t.Context(), s.url+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	r := s.launch()
	eventually(t, "it says what is missing", func() bool {
		_, status := r.get("/status")
		return strings.Contains(status, "pg_out_of_resources") && strings.Contains(status, "raise max_wal_senders")
	})
	_ = other.Close(t.Context())
	r.awaitReady()
	l.add(0, 1)
	l.settle(patience, all)
	r.terminate()
}

func TestRelay_SaysWhenItsLoginIsRefusedAndGoesOnWhenItIsNot(t *testing.T) {
	t.Parallel()
	s := newOwnStage(t)
	s.exec("CREATE ROLE app LOGIN REPLICATION PASSWORD 'one'")
	s.exec(`DO $$ DECLARE o text; BEGIN
		FOR o IN SELECT format('SCHEMA %I', nspname) FROM pg_namespace WHERE nspname IN ('relay', 'outbox')
			UNION ALL SELECT format('TABLE %s', oid::regclass) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text IN ('relay', 'outbox')
			UNION ALL SELECT format('FUNCTION %s', oid::regprocedure) FROM pg_proc WHERE pronamespace::regnamespace::text IN ('relay', 'outbox')
		LOOP EXECUTE 'ALTER ' || o || ' OWNER TO app'; END LOOP; END $$`)
	s.exec("GRANT CREATE ON DATABASE " + s.slot + " TO app")
	s.exec("GRANT ALL ON ALL SEQUENCES IN SCHEMA relay TO app")
	s.exec("GRANT SELECT ON ALL TABLES IN SCHEMA public TO app") // the record of migrations
	hba := filepath.Join(s.cluster.DataDir(), "pg_hba.conf")
	text, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, hba, "host all app 127.0.0.1/32 scram-sha-256\n"+string(text))
	s.exec("SELECT pg_reload_conf()")
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 2)
	r := s.start("RELAY_DATABASE_URL=" + strings.Replace(s.url, "postgres@", "app:one@", 1))
	l.add(0, 1)
	l.settle(patience, all)

	cut := func() { s.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'") }
	refused := func(what string) {
		t.Helper()
		eventually(t, what, func() bool { return r.state() == "misconfigured" })
		l.add(1, 1)
		before := strings.Count(s.cluster.LogTail(100_000), "FATAL")
		began := time.Now()
		eventually(t, "three seconds have passed", func() bool { return time.Since(began) > 3*time.Second })
		if n := strings.Count(s.cluster.LogTail(100_000), "FATAL") - before; n > 60 {
			t.Errorf("%d logins were refused in three seconds", n)
		}
		if r.ended() {
			t.Fatal("the relay has ended")
		}
	}
	s.exec("ALTER ROLE app PASSWORD 'two'")
	cut()
	refused("it says that its password is refused")
	s.exec("ALTER ROLE app PASSWORD 'one'")
	l.settle(patience, all)

	s.exec("ALTER ROLE app NOREPLICATION")
	cut()
	refused("it says that it may not replicate")
	s.exec("ALTER ROLE app REPLICATION")
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

func TestRelay_WaitsForALockOnWhatIsParked(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	healthy := s.subscribe("healthy", "acme", "*")
	failing := s.subscribe("failing", "acme", "*")
	s.recv.set("failing", behaviour{status: http.StatusServiceUnavailable})
	l := newLedger(s, "acme", 10)
	r := s.start()
	eventually(t, "it has looked at what is parked", func() bool { return r.log.Count("rows from before the slot are delivered") == 1 })
	locker := s.connect()
	for _, sql := range []string{"BEGIN", "LOCK TABLE relay.parked IN ACCESS EXCLUSIVE MODE"} {
		if _, err := locker.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for k := range l.keys {
		l.add(k, 3)
	}
	l.settle(patience, healthy) // who is healthy does not wait
	eventually(t, "somebody waits for the lock", func() bool {
		return s.number("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'relay.parked'::regclass AND database = (SELECT oid FROM pg_database WHERE datname = current_database())") > 0
	})
	at := s.confirmed()
	for k := range l.keys {
		l.add(k, 1)
	}
	l.settle(patience, healthy)
	if now := s.confirmed(); now != at {
		t.Errorf("the slot moved from %d to %d although nothing could be parked", at, now)
	}
	if _, err := locker.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slot moves", func() bool { return s.confirmed() > at })
	s.recv.set("failing", behaviour{status: http.StatusOK})
	l.settle(patience, failing)
	if repeats := l.check(nil, healthy, failing); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(healthy, failing)
	r.terminate()
}

// Recording fails as the loser of a deadlock or of a serialisation conflict does.
func TestRelay_RecordsAgainAfterDeadlocksAndConflicts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	s.exec(`CREATE SEQUENCE conflicts; GRANT USAGE ON SEQUENCE conflicts TO PUBLIC`)
	s.exec(`CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		CASE nextval('conflicts') % 5
			WHEN 1 THEN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
			WHEN 2 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';
			ELSE RETURN NULL;
		END CASE; END $$`)
	s.exec("CREATE TRIGGER lose AFTER INSERT ON relay.deliveries FOR EACH STATEMENT EXECUTE FUNCTION lose()")
	r := s.start("RELAY_LOG_LEVEL=debug") // which tells each try
	l.write(2, 1_500)
	l.wait()
	l.settle(patience, all)
	l.books(all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	for _, code := range []string{"40001", "40P01"} {
		if r.log.Count(code) == 0 {
			t.Errorf("no recording failed with %s", code)
		}
	}
	r.terminate()
}

func TestRelay_FollowsManySmallTransactions(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "sales_order.*")
	l := newLedger(s, "acme", 50)
	r := s.start()
	// A procedure commits faster than a client could; most rows are another tenant's.
	s.exec(`CREATE PROCEDURE many(n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..n LOOP
		INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('other', 'customer', i::text, 'customer.created', json_build_object('customer_id', i::text));
		COMMIT; END LOOP; END $$`)
	l.write(1, 1_000)
	const each = 10_000
	done := make(chan error, 2)
	for range cap(done) {
		conn := s.connect()
		go func() {
			_, err := conn.Exec(t.Context(), "SET synchronous_commit = off")
			if err == nil {
				_, err = conn.Exec(t.Context(), fmt.Sprintf("CALL many(%d)", each))
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	l.wait()
	head := s.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
	l.settle(patience, all)
	eventually(t, "the slot has caught up", func() bool { return s.confirmed() >= head })
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}
