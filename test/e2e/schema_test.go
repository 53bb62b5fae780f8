package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// A publication of all tables brings the relay's own rows back to it.
func TestRelay_PassesOverTheRowsOfOtherTables(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	s.exec("CREATE PUBLICATION relay FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root = true)")
	r := s.start()
	for k := range l.keys {
		l.add(k, 3)
	}
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('acme', 'unknown', '1', 'unknown.type', '{}')`)
	l.settle(patience, all)
	l.books(all)
	head := s.number("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
	eventually(t, "the slot catches up with what the relay itself writes", func() bool { return s.confirmed() >= head })
	if n := s.number("SELECT count(*) FROM relay.quarantine"); n != 1 {
		t.Errorf("%d rows are quarantined, want the one of the unknown type", n)
	}
	if r.log.Count("publishes all tables") == 0 {
		t.Error("the log does not warn of the publication")
	}
	_, metrics := r.get("/metrics")
	if strings.Contains(metrics, "\nrelay_foreign_rows_total 0\n") || !strings.Contains(metrics, "\nrelay_foreign_rows_total ") {
		t.Error("rows of other tables are not counted")
	}
	l.check(nil, all)
	r.terminate()
}

func TestRelay_TakesNewColumnsUnderLoad(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 20)
	r := s.start()
	l.write(2, 2_000)
	for i := range 5 {
		eventually(t, "rows have arrived", func() bool { return s.recv.count("all") >= 200*(i+1) })
		s.exec(fmt.Sprintf("ALTER TABLE outbox.events ADD COLUMN note_%d text DEFAULT 'x'", i))
	}
	s.exec("ALTER TABLE outbox.events DROP COLUMN note_2")
	l.wait()
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all)
	r.terminate()
}

func TestRelay_KeepsRowsThatLackANeededColumn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	r := s.start()
	insert := func(column, key string) {
		t.Helper()
		s.exec(fmt.Sprintf(`INSERT INTO outbox.events (%s, aggregate_type, aggregate_id, event_type, payload)
			VALUES ('acme', 'customer', '%s', 'customer.created', '{"customer_id":"%s","customer_name":"n"}')`, column, key, key))
	}
	insert("tenant_id", "before")
	s.exec("ALTER TABLE outbox.events RENAME COLUMN tenant_id TO renamed")
	insert("renamed", "meanwhile")
	s.exec("ALTER TABLE outbox.events RENAME COLUMN renamed TO tenant_id")
	insert("tenant_id", "after")
	eventually(t, "the rows around it arrive", func() bool { return s.recv.count("all") == 2 })
	eventually(t, "the row is kept", func() bool {
		return s.number("SELECT count(*) FROM relay.quarantine WHERE reason = 'unmapped_column' AND detail LIKE '%tenant_id%'") == 1
	})
	raw := s.command("quarantine", "show", fmt.Sprint(s.number("SELECT id FROM relay.quarantine")))
	for _, want := range []string{"meanwhile", "renamed", "acme"} {
		if !strings.Contains(raw, want) {
			t.Errorf("what is kept does not show %s: %s", want, raw)
		}
	}
	r.terminate()
}

func TestRelay_StopsWhenTheOutboxIsReplaced(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 1)
	r := s.start()
	l.add(0, 1)
	eventually(t, "it arrives", func() bool { return s.recv.count("all") == 1 })
	s.exec("ALTER TABLE outbox.events RENAME TO events_old")
	s.exec(`INSERT INTO outbox.events_old (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('acme', 'customer', 'c', 'customer.created', '{"customer_id":"c","customer_name":"n"}')`)
	s.exec("CREATE TABLE outbox.events (LIKE outbox.events_old INCLUDING DEFAULTS)")
	// PostgreSQL tells of the new name only when it describes the table anew.
	eventually(t, "the row of the renamed table arrives or is kept", func() bool {
		return s.recv.count("all")+s.number("SELECT count(*) FROM relay.quarantine WHERE reason = 'unexpected_table'") == 2
	})
	r.terminate()
	r = s.launch("RELAY_CDC_RECOVERY=manual")
	eventually(t, "it says that the new table is not published", func() bool { return r.state() == "publication_incomplete" })
	if code := r.httpCode("/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", code)
	}
	if r.log.Count("ALTER PUBLICATION") == 0 {
		t.Error("the log does not say what to type")
	}
	r.terminate()
}

// change runs a statement that meets rows in another order than the maintenance of partitions does, which moves them, so
// that one of the two may have to give way.
func (s *stage) change(sql string) {
	s.t.Helper()
	for {
		_, err := s.db.Exec(context.Background(), sql)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "40P01" {
			continue
		}
		if err != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
		return
	}
}

func TestRelay_DeliversRowsThatAreChangedOrRemovedAfterTheirCommit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	failing := s.subscribe("failing", "acme", "*")
	s.recv.set("failing", behaviour{status: http.StatusServiceUnavailable})
	l := newLedger(s, "acme", 10)
	r := s.start()
	for round := range 3 {
		for k := range l.keys {
			l.add(k, 4)
			switch round {
			case 0:
				s.exec("DELETE FROM outbox.events")
			case 1:
				s.change(`UPDATE outbox.events SET payload = '{"changed":true}', tenant_id = 'other'`)
			default:
				s.exec("TRUNCATE outbox.events")
			}
		}
	}
	l.settle(patience, all)
	s.recv.set("failing", behaviour{status: http.StatusOK})
	l.settle(patience, failing)
	if repeats := l.check(nil, all, failing); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all, failing)
	r.terminate()
}
