package daemon_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/migrate"
)

// ofOneTenant is a policy as applications with many tenants have it: who has set no tenant sees no row.
const ofOneTenant = `ALTER TABLE outbox.events ENABLE ROW LEVEL SECURITY;
	CREATE POLICY of_tenant ON outbox.events USING (tenant_id = current_setting('app.tenant', true))`

// commands is what the commands of operators have: the configuration, and connections of its role.
func (r *rig) commands() (*config.Config, *pgxpool.Pool) {
	r.t.Helper()
	cfg, err := config.Load(config.LoadOptions{Environ: r.env})
	if err != nil {
		r.t.Fatal(err)
	}
	pool, err := pgxpool.New(r.t.Context(), cfg.Database.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(pool.Close)
	return cfg, pool
}

func TestRowSecurity_NothingIsTakenForReadWhileItHidesRows(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	role := r.asRole("REPLICATION")
	r.own(role)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	force := func(yes bool) {
		if yes {
			r.exec("ALTER TABLE outbox.events FORCE ROW LEVEL SECURITY")
		} else {
			r.exec("ALTER TABLE outbox.events NO FORCE ROW LEVEL SECURITY")
		}
	}
	refused := func(d *running) {
		t.Helper()
		r.mustTell(d, health.Misconfigured, "ALTER ROLE "+role+" BYPASSRLS")
		if s := d.Status(); !strings.Contains(s.Remedy, "ALTER TABLE outbox.events NO FORCE ROW LEVEL SECURITY") || !strings.Contains(s.Detail, "outbox.events") {
			t.Errorf("it says %s; %s", s.Detail, s.Remedy)
		}
	}
	r.order("acme", "o1", 1) // before the first start
	r.exec(ofOneTenant)
	force(true)
	d := r.launch()
	refused(d)
	if n := r.number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", r.slot()); n != 0 {
		t.Error("a slot was made all the same")
	}
	force(false) // its owner is free of it then
	r.eventually("the row from before the first start arrives", func() bool { return d.Status().Ready && len(rec.arrivals()) == 1 })

	force(true)
	refused(d)
	cfg, pool := r.commands()
	if gap, err := daemon.ReadGap(t.Context(), pool, cfg); err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("a dry run of the rescue says %+v, %v", gap, err)
	}
	o, err := daemon.AuditOptions(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o.From, o.To = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if report, err := audit.MakeReport(t.Context(), pool, o); err == nil || !strings.Contains(err.Error(), "BYPASSRLS") {
		t.Errorf("the audit says %+v, %v", report, err)
	}
	force(false)
	r.eventually("it clears by itself", func() bool { return d.Status().Ready })
	d.stop()

	r.exec("SELECT pg_drop_replication_slot($1)", r.slot())
	r.order("acme", "o1", 2) // in the gap
	force(true)
	d = r.launch()
	refused(d)
	force(false)
	r.eventually("the row of the gap arrives", func() bool { return d.Status().Ready && len(rec.arrivals()) == 2 })
	r.eventually("the rescue ends with one row read", func() bool {
		return r.number("SELECT count(*) FROM relay.incidents WHERE rows_read = 1 AND ended_at IS NOT NULL") == 1
	})
}

func TestRowSecurity_TheRoleThatReplicatesIsLookedAtToo(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	role := "stream_" + r.slot()
	r.exec("CREATE ROLE " + role + " LOGIN REPLICATION; GRANT USAGE ON SCHEMA relay, outbox TO " + role +
		"; GRANT ALL ON ALL TABLES IN SCHEMA relay, outbox TO " + role + "; GRANT ALL ON ALL SEQUENCES IN SCHEMA relay TO " + role)
	t.Cleanup(func() {
		_, _ = r.conn.Exec(context.Background(), "DROP OWNED BY "+role)
		_, _ = r.conn.Exec(context.Background(), "DROP ROLE "+role)
	})
	r.env = append(r.env, "RELAY_DATABASE_REPLICATION_URL="+withUser(t, r.url, role))
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	r.order("acme", "o1", 1)
	r.exec(ofOneTenant)
	d := r.launch()
	r.mustTell(d, health.Misconfigured, "ALTER ROLE "+role+" BYPASSRLS")
	r.exec("ALTER ROLE " + role + " BYPASSRLS")
	r.eventually("the row from before the first start arrives", func() bool { return d.Status().Ready && len(rec.arrivals()) == 1 })
}

func TestSource_AShapeThatCannotWorkMakesTheStreamWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.order("acme", "o0", 1)
	r.eventually("the first row arrives", func() bool { return len(rec.arrivals()) == 1 })
	r.exec("ALTER TABLE outbox.events RENAME COLUMN event_type TO eventtype")
	for n := range 3 {
		r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, eventtype, payload) VALUES ('acme', 'sales_order', $1,
			'sales_order.confirmed', '{"order_id": "o1", "order_number": "1", "amount": "1500.00", "currency": "EUR"}')`, fmt.Sprint("o", n))
	}
	behind := r.text("SELECT pg_current_wal_insert_lsn()::text")
	r.mustTell(d, health.Misconfigured, "set outbox.columns.event_type to eventtype")
	r.exec("SELECT pg_logical_emit_message(true, 'nobody', 'x')")
	if n := r.number("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d rows in quarantine", n)
	}
	if now := d.Status().Confirmed; r.number("SELECT count(*) WHERE $1::text::pg_lsn >= $2::text::pg_lsn", now, behind) != 0 {
		t.Errorf("the stream went on to %s, behind the rows at %s", now, behind)
	}
	r.exec("ALTER TABLE outbox.events RENAME COLUMN eventtype TO event_type")
	r.order("acme", "o9", 9)
	r.eventually("it goes on by itself", func() bool { return d.Status().Ready && len(rec.arrivals()) == 2 })
	// In the WAL those have the shape that the table had.
	r.eventually("the rows of meanwhile are in quarantine", func() bool {
		return r.number("SELECT count(*) FROM relay.quarantine WHERE reason = 'unmapped_column'") == 3
	})
	r.exec("INSERT INTO relay.requests (kind, target) SELECT 'retry_quarantine', id::text FROM relay.quarantine")
	r.eventually("they are read from the table again", func() bool {
		return len(rec.arrivals()) == 5 && r.number("SELECT count(*) FROM relay.quarantine") == 0
	})
	rec.mustVerify(t)
}

func TestSource_AnIDThatIsNoUUIDIsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_OUTBOX_TABLE=public.messages")
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	r.exec(`CREATE TABLE messages (id bigserial, tenant_id text, aggregate_type text, aggregate_id text, event_type text, payload jsonb, headers jsonb,
		created_at timestamptz DEFAULT now(), xid xid8 DEFAULT pg_current_xact_id())`)
	r.exec(`INSERT INTO messages (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o1',
		'sales_order.confirmed', '{"order_id": "o1", "order_number": "1", "amount": "1500.00", "currency": "EUR"}')`)
	d := r.launch()
	r.mustTell(d, health.Misconfigured, "ALTER TABLE public.messages ADD COLUMN event_id uuid NOT NULL DEFAULT gen_random_uuid()")
	d.stop()
	r.exec("ALTER TABLE public.messages ADD COLUMN event_id uuid NOT NULL DEFAULT gen_random_uuid()")
	r.env = append(r.env, "RELAY_OUTBOX_COLUMNS_ID=event_id")
	r.start()
	r.eventually("the row arrives", func() bool { return len(rec.arrivals()) == 1 })
	if n := r.number("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d rows in quarantine", n)
	}
}

// Its rows were inserted into a table that is in no publication.
func TestAudit_FindsThePartitionThatWasFilledBeforeItWasAttached(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	r.exec("UPDATE relay.subscriptions SET created_at = now() - interval '1 year'")
	d := r.start()
	r.exec(`CREATE TABLE outbox.filled (LIKE outbox.events INCLUDING DEFAULTS);
		INSERT INTO outbox.filled (tenant_id, aggregate_type, aggregate_id, event_type, payload, created_at) VALUES ('acme', 'sales_order', 'o1',
		'sales_order.confirmed', '{"order_id": "o1", "order_number": "1", "amount": "1500.00", "currency": "EUR"}', now() - interval '20 days')`)
	r.audited(d)
	r.exec("DO $$ BEGIN EXECUTE format('ALTER TABLE outbox.events ATTACH PARTITION outbox.filled FOR VALUES FROM (%L) TO (%L)', now() - interval '21 days', now() - interval '19 days'); END $$")
	cfg, pool := r.commands()
	o, err := daemon.AuditOptions(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o.From, o.To = time.Now().Add(-30*24*time.Hour), time.Now()
	report, err := audit.MakeReport(t.Context(), pool, o)
	if err != nil || report.Missing != 1 || len(rec.arrivals()) != 0 {
		t.Errorf("the audit says %+v, %v", report, err)
	}
}

func TestSource_AnOutboxThatWasDroppedAndMadeAgainGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.order("acme", "o1", 1)
	r.eventually("the row arrives", func() bool { return len(rec.arrivals()) == 1 })
	r.audited(d)
	for n, live := range []bool{false, true} {
		if !live {
			d.stop()
		}
		r.exec("DROP SCHEMA outbox CASCADE")
		if live {
			r.mustTell(d, health.Misconfigured, "`relay migrate`")
		}
		report, err := migrate.Up(t.Context(), r.url)
		if err != nil || !slices.Contains(report.Restored, "table outbox.events") {
			t.Fatalf("migrate: %+v, %v", report, err)
		}
		if !live {
			d = r.launch()
		}
		r.eventually("the relay is ready", func() bool { return d.Status().Ready })
		r.order("acme", "o1", 2+n)
		r.eventually("what is written from now on arrives", func() bool { return len(rec.arrivals()) == 2+n })
	}
	if n := r.number("SELECT count(*) FROM relay.incidents WHERE detail LIKE 'table outbox.events was dropped and made again: rows of the old one%'"); n < 1 {
		t.Error("no incident says what is lost")
	}
}
