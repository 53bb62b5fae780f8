package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// asRole lets the relay run as a role of its own that owns its objects, and returns the name of that role. The rig's own
// connection stays that of the superuser.
func (r *rig) asRole(attributes string) string {
	r.t.Helper()
	role := "role_" + r.slot()
	r.exec("CREATE ROLE " + role + " LOGIN " + attributes)
	r.t.Cleanup(func() {
		_, _ = r.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = r.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	r.env = append(r.env, "RELAY_DATABASE_URL="+withUser(r.t, r.url, role))
	return role
}

// own gives a role what `relay migrate` would have left it.
func (r *rig) own(role string) {
	r.t.Helper()
	r.exec(`DO $$ DECLARE o record; BEGIN
		EXECUTE format('GRANT CREATE ON DATABASE %I TO ` + role + `', current_database());
		EXECUTE 'ALTER SCHEMA relay OWNER TO ` + role + `'; EXECUTE 'ALTER SCHEMA outbox OWNER TO ` + role + `';
		FOR o IN SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace::regnamespace::text IN ('relay', 'outbox') AND c.relkind IN ('r', 'p', 'v') LOOP
			EXECUTE format('ALTER TABLE %s OWNER TO ` + role + `', o.name); END LOOP;
		FOR o IN SELECT c.oid::regclass AS name FROM pg_class c LEFT JOIN pg_depend d ON d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass
			WHERE c.relnamespace::regnamespace::text IN ('relay', 'outbox') AND c.relkind = 'S' AND d.objid IS NULL LOOP
			EXECUTE format('ALTER SEQUENCE %s OWNER TO ` + role + `', o.name); END LOOP;
		FOR o IN SELECT p.oid::regprocedure AS name FROM pg_proc p WHERE p.pronamespace::regnamespace::text IN ('relay', 'outbox') LOOP
			EXECUTE format('ALTER FUNCTION %s OWNER TO ` + role + `', o.name); END LOOP; END $$`)
}

func withUser(t *testing.T, url, role string) string {
	t.Helper()
	_, rest, ok := strings.Cut(url, "@")
	if !ok {
		t.Fatalf("no user in %s", url)
	}
	return "postgres://" + role + "@" + rest
}

func (d *running) get(t *testing.T, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + d.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// mustTell wants a state, and part of the remedy, in every place that tells of it.
func (r *rig) mustTell(d *running, state health.State, remedy string) {
	r.t.Helper()
	var missing []string // a relay that begins anew passes through other states: all is asked again
	defer func() {
		if r.t.Failed() {
			r.t.Logf("not as wanted: %s", strings.Join(missing, "; "))
		}
	}()
	r.eventually("every place tells the state "+string(state)+", remedy "+remedy, func() bool {
		missing = nil
		if s := d.Status(); s.State != state || !strings.Contains(s.Remedy, remedy) || s.Ready {
			missing = append(missing, fmt.Sprintf("status: %+v", s))
		}
		if code, body := d.get(r.t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, remedy) {
			missing = append(missing, fmt.Sprintf("/readyz: %d %s", code, body))
		}
		var status struct {
			Conditions []health.Report `json:"conditions"`
		}
		if _, body := d.get(r.t, "/status"); json.Unmarshal([]byte(body), &status) != nil || len(status.Conditions) == 0 || !strings.Contains(status.Conditions[0].Remedy, remedy) {
			missing = append(missing, "/status: "+body)
		}
		if _, body := d.get(r.t, "/metrics"); !strings.Contains(body, `relay_state{state="`+string(state)+`"} 1`) {
			missing = append(missing, "relay_state")
		}
		if !strings.Contains(d.log.String(), remedy) {
			missing = append(missing, "the log")
		}
		return len(missing) == 0
	})
}

func TestHealth_AnIdleRelayNoticesARevokedRight(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	role := r.asRole("REPLICATION")
	r.own(role)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	for _, revoked := range []struct{ what, remedy string }{
		{"INSERT, UPDATE ON relay.progress", "GRANT INSERT, UPDATE ON relay.progress TO " + role},
		{"ALL ON relay.parked, relay.bodies", "GRANT SELECT, INSERT, UPDATE, DELETE ON relay.bodies, relay.parked TO " + role},
		{"SELECT ON relay.subscriptions", "GRANT SELECT ON relay.subscriptions TO " + role},
		{"USAGE ON SEQUENCE relay.epochs", "GRANT USAGE ON SEQUENCE relay.epochs TO " + role},
		{"SELECT ON outbox.events", "GRANT SELECT ON outbox.events TO " + role},
	} {
		r.exec("REVOKE " + revoked.what + " FROM " + role)
		r.mustTell(d, health.Misconfigured, revoked.remedy)
		r.exec(d.Status().Remedy)
		r.eventually("it clears by itself", func() bool { return d.Status().Ready })
	}
	r.order("acme", "o1", 1)
	r.eventually("it is delivered and recorded", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == 1
	})
}

func TestHealth_WhatIsDeliveredAndNotRecordedMakesItNotReady(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	role := r.asRole("REPLICATION")
	r.own(role)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.exec("REVOKE UPDATE ON relay.progress FROM " + role)
	r.order("acme", "o1", 1)
	r.mustTell(d, health.Misconfigured, "GRANT UPDATE ON relay.progress TO "+role)
	r.exec("GRANT UPDATE ON relay.progress TO " + role)
	r.eventually("it is recorded, and all is well", func() bool {
		return d.Status().Ready && r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == 1
	})
}

// A batch that hangs brings no error.
func TestHealth_ABatchThatHangsMakesItNotReady(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.order("acme", "o0", 1)
	r.eventually("it is at work", func() bool { return r.number("SELECT count(*) FROM relay.deliveries") == 1 })
	tx, err := r.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT FROM relay.progress FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	other, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.Background()) }()
	if _, err := other.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o1',
		'sales_order.confirmed', '{"order_id": "o1", "order_number": "1", "amount": "1500.00", "currency": "EUR"}')`); err != nil {
		t.Fatal(err)
	}
	r.mustTell(d, health.RecordingStalled, "pg_blocking_pids")
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is ready again", func() bool { return d.Status().Ready })
}

func TestHealth_ADroppedSchemaIsNoticedOnAnIdleOutboxAndMended(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	d := r.start()
	r.exec("DROP SCHEMA relay, outbox CASCADE; DROP PUBLICATION relay")
	r.mustTell(d, health.Misconfigured, "run `relay migrate`")
	if _, err := migrate.Up(t.Context(), r.url); err != nil {
		t.Fatal(err)
	}
	r.eventually("it begins again by itself", func() bool { return d.Status().Ready })
	r.subscribe("acme", rec.URL, "*")
	r.order("acme", "o1", 1)
	r.eventually("it delivers", func() bool { return len(rec.arrivals()) > 0 })
}

func TestHealth_ADroppedOutboxTableIsNoticed(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_CDC_RECOVERY=manual")
	d := r.start()
	r.exec("ALTER TABLE outbox.events RENAME TO events_away")
	r.mustTell(d, health.Misconfigured, "outbox.table")
	r.exec("ALTER TABLE outbox.events_away RENAME TO events")
	r.eventually("it is ready again", func() bool { return d.Status().Ready })
}

func TestHealth_ADatabaseThatTakesNoWritesIsNoticedWhenIdle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start()
	r.exec("ALTER DATABASE " + r.conn.Config().Database + " SET default_transaction_read_only = on")
	r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'relay'")
	r.mustTell(d, health.ReadOnly, "RESET default_transaction_read_only")
	r.exec("SET default_transaction_read_only = off")
	r.exec("ALTER DATABASE " + r.conn.Config().Database + " RESET default_transaction_read_only")
	r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'relay'")
	r.eventually("it is ready again", func() bool { return d.Status().Ready })
}

func TestHealth_ARoleThatMayOnlyReplicateIsTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	role := "only_" + r.slot()
	r.exec("CREATE ROLE " + role + " LOGIN REPLICATION")
	t.Cleanup(func() {
		_, _ = r.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = r.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	r.env = append(r.env, "RELAY_DATABASE_REPLICATION_URL="+withUser(r.t, r.url, role))
	d := r.launch()
	r.mustTell(d, health.Misconfigured, "TO "+role)
}

func TestHealth_AServerThatIsNotSetUpIsToldWithItsStatement(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		setting, value string
		state          health.State
		remedy         string
	}{
		{"max_replication_slots", "0", health.OutOfResources, "ALTER SYSTEM SET max_replication_slots = 1"},
		{"wal_level", "replica", health.Misconfigured, "ALTER SYSTEM SET wal_level = 'logical', then restart PostgreSQL"},
	} {
		t.Run(tc.setting, func(t *testing.T) {
			t.Parallel()
			c := pgtest.NewCluster(t, pgcluster.Options{Settings: map[string]string{tc.setting: tc.value}})
			url, err := c.CreateDatabase(t.Context(), "app")
			if err != nil {
				t.Fatal(err)
			}
			r := newRigOn(t, url)
			d := r.launch()
			r.mustTell(d, tc.state, tc.remedy)
			if n := r.number("SELECT count(*) FROM pg_publication"); n != 0 {
				t.Error("a publication was made on a server that cannot have the slot")
			}
		})
	}
}
