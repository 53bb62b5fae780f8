package e2e_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The encoding of a database, and what it or a role sets for sessions, change nothing of what is matched, sent and recorded.
func TestRelay_KeepsLettersInADatabaseOfAnyEncoding(t *testing.T) {
	t.Parallel()
	for encoding, letters := range map[string]string{"LATIN1": "Müller & Söhne", "EUC_JP": "東京商店", "SQL_ASCII": "Müller 東京", "UTF8": "Müller 東京 €"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			s := newStageIn(t, encoding)
			others := "LATIN1"
			if encoding == "EUC_JP" {
				others = "SJIS" // there is no conversion to LATIN1
			}
			s.exec("ALTER DATABASE " + pgx.Identifier{s.slot}.Sanitize() + " SET client_encoding = '" + others + "'")
			s.exec("ALTER DATABASE " + pgx.Identifier{s.slot}.Sanitize() + " SET statement_timeout = '1s'")
			s.exec("ALTER DATABASE " + pgx.Identifier{s.slot}.Sanitize() + " SET idle_session_timeout = '1s'")
			s.db.Reset() // what follows speaks UTF-8 by itself
			tenant := letters
			all := s.subscribeByCommand("all", tenant, "*")
			insert := func(key string) {
				t.Helper()
				conn, err := pgx.Connect(t.Context(), s.url+"&client_encoding=UTF8")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close(context.Background()) }()
				payload, err := json.Marshal(map[string]string{"customer_id": key, "customer_name": letters})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
					VALUES ($1, 'customer', $2, 'customer.created', $3)`, tenant, key, string(payload)); err != nil {
					t.Fatal(err)
				}
			}
			insert("before " + letters)
			r := s.start()
			eventually(t, "what came before the slot arrives", func() bool { return len(s.recv.arrivals(all.name)) == 1 })
			s.recv.set("all", behaviour{status: 503, body: letters + " ☃"})
			insert("refused " + letters)
			eventually(t, "an attempt with a strange answer is on record", func() bool {
				return s.number("SELECT count(*) FROM relay.parked WHERE attempts > 0") == 1
			})
			s.recv.set("all", behaviour{status: 200})
			insert("after " + letters)
			eventually(t, "all arrive", func() bool { return s.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == 3 })
			for _, a := range s.recv.arrivals(all.name) {
				var event struct {
					Data struct {
						Name string `json:"customer_name"`
					} `json:"data"`
				}
				if err := json.Unmarshal(a.raw, &event); err != nil || event.Data.Name != letters {
					t.Errorf("%s arrived, want the name %s (%v)", a.raw, letters, err)
				}
			}
			s.command("audit", "--from", "1h")
			if n := s.number("SELECT count(*) FROM relay.quarantine"); n != 0 {
				t.Errorf("%d rows in quarantine", n)
			}
			if n := r.log.Count("idle-session timeout") + r.log.Count("statement timeout"); n != 0 {
				t.Errorf("%d sessions or statements were ended by a timeout of the database", n)
			}
			r.terminate()
		})
	}
}
