package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// insert commits one customer.created row; columns come behind the usual ones.
func (s *stage) insert(tenant, key, payload string, more ...string) {
	s.t.Helper()
	columns, values := "", ""
	for i := 0; i+1 < len(more); i += 2 {
		columns += ", " + more[i]
		values += ", " + more[i+1]
	}
	s.exec(fmt.Sprintf(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload%s)
		VALUES ($1, 'customer', $2, 'customer.created', $3%s)`, columns, values), tenant, key, payload)
}

func customer(more string) string { return `{"customer_id":"c","customer_name":"n"` + more + `}` }

func TestRelay_KeepsPayloadsThatAreTooLargeAndDeliversTheOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	r := s.start("RELAY_OUTBOX_MAX_PAYLOAD=1MiB")
	large := strings.Repeat("x", 1<<20-1000)
	s.insert("acme", "fits", customer(`,"customer_email":"`+large+`"`))
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'acme', 'customer', 'too large', 'customer.created',
		       format('{"customer_id":"c","customer_name":"n","customer_email":"%s"}', repeat('x', 50 << 20))::json`)
	s.insert("acme", "after", customer(""))
	eventually(t, "the others arrive", func() bool { return s.recv.count("all") == 2 })
	eventually(t, "the large one is kept", func() bool {
		return s.number("SELECT count(*) FROM relay.quarantine WHERE reason = 'too_large'") == 1
	})
	if n := s.number("SELECT octet_length(raw) FROM relay.quarantine"); n < 50<<20 {
		t.Errorf("%d bytes of it are kept", n)
	}
	r.terminate()
}

func TestRelay_BelievesTheTenantOfTheColumn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("of-acme", "acme", "*")
	s.subscribe("of-globex", "globex", "*")
	r := s.start()
	s.insert("acme", "1", customer(`,"tenant_id":"globex"`))
	s.insert("unknown", "1", customer(`,"tenant_id":"globex"`))
	s.insert("globex", "2", customer(""))
	eventually(t, "each gets its own", func() bool { return s.recv.count("of-acme") == 1 && s.recv.count("of-globex") == 1 })
	r.terminate()
	for _, name := range []string{"of-acme", "of-globex"} {
		for _, a := range s.recv.arrivals(name) {
			if "of-"+a.tenant != name {
				t.Errorf("an event of %s arrived at %s", a.tenant, name)
			}
		}
	}
	if n := len(s.recv.arrivals("of-globex")); n != 1 {
		t.Errorf("%d events arrived at globex, want 1", n)
	}
}

// A writer that uses an id twice has written two events; who compares ids takes them for one.
func TestRelay_DeliversBothRowsOfOneID(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	sub := s.subscribe("all", "acme", "*")
	r := s.start()
	const id = "'0190b6f0-7c1e-7cc2-9d35-4a3e6d2f8b11'"
	s.insert("acme", "1", customer(`,"customer_phone":"1"`), "id", id)
	s.insert("acme", "1", customer(`,"customer_phone":"2"`), "id", id)
	s.insert("acme", "1", customer(`,"customer_phone":"3"`))
	eventually(t, "all rows arrive", func() bool { return len(s.recv.arrivals("all")) == 3 })
	for i, a := range s.recv.arrivals("all") {
		if !strings.Contains(string(a.raw), fmt.Sprintf(`"customer_phone":"%d"`, i+1)) {
			t.Errorf("request %d is %s", i, a.raw)
		}
	}
	eventually(t, "all are recorded", func() bool {
		return s.number("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1", sub.id) == 3
	})
	r.terminate()
}

func TestRelay_TakesEventTimesOfAnyCentury(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	r := s.start()
	for i, at := range []string{"1970-01-01", "1066-10-14", "2999-12-31 23:59:59.999999", "9999-12-31"} {
		s.insert("acme", fmt.Sprint(i), customer(""), "created_at", "'"+at+"'")
	}
	eventually(t, "all arrive", func() bool { return s.recv.count("all") == 4 })
	if code := r.httpCode("/metrics"); code != http.StatusOK {
		t.Errorf("/metrics answers %d", code)
	}
	if n := s.number("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d rows are quarantined", n)
	}
	r.terminate()
}

func TestRelay_MovesAlongWithWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	r := s.start()
	for range 3 {
		s.exec("CREATE TABLE other (n int)")
		s.exec("INSERT INTO other VALUES (1)")
		s.exec("DROP TABLE other")
		s.exec("BEGIN; SAVEPOINT a; ROLLBACK TO a; COMMIT")
		head := s.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
		eventually(t, "the slot moves", func() bool { return s.confirmed() >= head })
	}
	r.terminate()
}

// In a database without an encoding a writer can store bytes that are no text. PostgreSQL cannot send such a row, and never will.
func TestRelay_StopsAtARowThatPostgreSQLCannotSend(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	name := s.slot + "_ascii"
	s.exec("CREATE DATABASE " + name + " TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
	url := strings.Replace(s.url, "/"+s.slot+"?", "/"+name+"?", 1)
	env := []string{"RELAY_DATABASE_URL=" + url, "RELAY_CDC_SLOT=" + name}
	migrated := spawn(t, relayBinary, append(s.env[:len(s.env):len(s.env)], env...), "migrate")
	migrated.awaitExit(0)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	r := s.start(env...)
	// The bytes never pass through this client: it speaks UTF-8.
	if _, err := conn.Exec(t.Context(), `DO $$ BEGIN EXECUTE convert_from('\x494e5345525420494e544f206f7574626f782e6576656e7473202874656e616e745f69642c206167677265676174655f747970652c206167677265676174655f69642c206576656e745f747970652c207061796c6f6164292056414c554553202827ff', 'SQL_ASCII')
		|| $q$', 'customer', '1', 'customer.created', '{"customer_id":"c","customer_name":"n"}')$q$; END $$`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says that a row cannot be decoded", func() bool { return r.state() == "decode_poison" })
	eventually(t, "it is not ready", func() bool { return r.httpCode("/readyz") == http.StatusServiceUnavailable })
	began := time.Now()
	eventually(t, "a while has passed", func() bool { return time.Since(began) > 3*time.Second })
	if n := r.log.Count("replication connection lost"); n > 60 {
		t.Errorf("%d connections in three seconds", n)
	}
	r.terminate()
	if _, err := conn.Exec(t.Context(), "SELECT pg_drop_replication_slot('"+name+"')"); err != nil {
		t.Error(err)
	}
}
