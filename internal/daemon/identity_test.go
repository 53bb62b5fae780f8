package daemon_test

import (
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/cdc"
	"github.com/outbox-relay/relay/internal/health"
)

// otherTable makes a table like the outbox, which is none of the relay's.
const otherTable = `CREATE TABLE public.other_events (LIKE outbox.events INCLUDING ALL)`

// published lists the tables of the relay's publication.
func (r *rig) published() string {
	return r.text("SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY 1) FROM pg_publication_tables WHERE pubname = 'relay'")
}

// refused waits until a daemon is misconfigured and checks what it says.
func (r *rig) refused(d *running, want ...string) {
	r.t.Helper()
	r.eventually("the daemon refuses", func() bool { return d.Status().State == health.Misconfigured })
	detail := d.Status().Detail + d.Status().Remedy
	for _, w := range want {
		if !strings.Contains(detail, w) {
			r.t.Errorf("the status does not say %q: %s", w, detail)
		}
	}
}

func TestIdentity_AnotherCombinationIsRefusedAndMissesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	r.exec(otherTable)
	d := r.start()
	r.order("acme", "o1", 1)
	r.eventually("the row arrives", func() bool { return len(rec.arrivals()) == 1 })
	r.audited(d)
	d.stop()
	const picture = `SELECT (SELECT row_to_json(p)::text FROM relay.progress p) || (SELECT string_agg(s.slot_name || ' ' || s.confirmed_flush_lsn, ' ')
		FROM pg_replication_slots s WHERE s.database = current_database()) || (SELECT count(*) FROM pg_publication)`
	before := r.text(picture)
	env := r.env
	for name, c := range map[string]struct {
		env  string
		want []string
	}{
		"table":       {"RELAY_OUTBOX_TABLE=public.other_events", []string{"table outbox.events", "table public.other_events", "outbox.table"}},
		"publication": {"RELAY_CDC_PUBLICATION=others", []string{"publication relay", "publication others", "cdc.publication"}},
		"slot":        {"RELAY_CDC_SLOT=" + r.slot() + "_2", []string{"slot " + r.slot(), "slot " + r.slot() + "_2", "cdc.slot"}},
	} {
		r.env = append(append([]string(nil), env...), c.env)
		d := r.launch()
		r.refused(d, append(c.want, "relay identity move")...)
		r.order("acme", "o1", 2) // while the relay is started by mistake
		d.stop()
		if after := r.text(picture); after != before {
			t.Errorf("%s: %s\nwas %s\nby %s", name, after, before, d.log.String())
		}
		if got := r.published(); got != "outbox.events" {
			t.Errorf("%s: the publication has %s", name, got)
		}
	}
	r.env = env
	d = r.start()
	r.eventually("the rows of meanwhile arrive", func() bool { return len(rec.arrivals()) == 4 })
	r.audited(d)
	if n := d.metric(t, "relay_audit_missing_total"); n != 0 {
		t.Errorf("%d rows were missing", n)
	}
}

func TestIdentity_IsAdoptedOnceFromAnOlderRelay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(otherTable)
	r.start().stop()
	r.exec("UPDATE relay.progress SET database = NULL, database_oid = NULL, publication = NULL, outbox_table = NULL, outbox_oid = NULL")
	d := r.start()
	if got := strings.Count(d.log.String(), "identity recorded"); got != 1 {
		t.Errorf("told %d times", got)
	}
	d.stop()
	if got := r.text("SELECT concat_ws(' ', database = current_database(), publication, outbox_table, outbox_oid = 'outbox.events'::regclass) FROM relay.progress"); got != "t relay outbox.events t" {
		t.Errorf("on record: %s", got)
	}
	d = r.start()
	if strings.Contains(d.log.String(), "identity recorded") {
		t.Error("told again")
	}
	d.stop()
	r.env = append(r.env, "RELAY_OUTBOX_TABLE=public.other_events")
	r.refused(r.launch(), "outbox.events")
}

func TestIdentity_ARenamedTableIsTheSame(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	r.start().stop()
	r.order("acme", "o1", 1)
	r.exec("ALTER TABLE outbox.events RENAME TO messages")
	env := r.env
	d := r.launch()
	r.refused(d, "outbox.events", "outbox.messages")
	d.stop()
	r.env = append(env, "RELAY_OUTBOX_TABLE=outbox.messages")
	r.start()
	r.eventually("the row arrives", func() bool { return len(rec.arrivals()) == 1 })
	r.exec(`INSERT INTO outbox.messages (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT tenant_id, aggregate_type, aggregate_id, event_type, payload FROM outbox.messages`)
	r.eventually("the next one too", func() bool { return len(rec.arrivals()) == 2 })
	if got := r.text("SELECT outbox_table FROM relay.progress"); got != "outbox.messages" {
		t.Errorf("on record: %s", got)
	}
}

// A standby that knows better, because it is started with other settings or because the publication is being changed, has to
// wait for the slot like any other.
func TestStandby_ChangesNothingBeforeItLeads(t *testing.T) {
	t.Parallel()
	r := newRig(t, quickMarkers)
	r.exec(otherTable)
	r.start().stop()
	from, err := cdc.Connect(t.Context(), r.url, "holder")
	if err != nil {
		t.Fatal(err)
	}
	held, err := from.Start(t.Context(), cdc.StreamOptions{Slot: r.slot(), Publication: "relay"}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close(0)
	r.exec("ALTER PUBLICATION relay SET TABLE public.other_events")
	d := r.launch()
	r.eventually("it waits", func() bool { return strings.Contains(d.log.String(), "state=standby_waiting") })
	if got := r.published(); got != "public.other_events" {
		t.Errorf("the standby has changed the publication: %s", got)
	}
	r.exec("DROP PUBLICATION relay")
	another := r.launch()
	r.eventually("another one waits too", func() bool { return strings.Contains(another.log.String(), "state=standby_waiting") })
	another.stop()
	if n := r.number("SELECT count(*) FROM pg_publication"); n != 0 {
		t.Error("the standby has made the publication")
	}
	r.exec("CREATE PUBLICATION relay FOR TABLE public.other_events WITH (publish = 'insert', publish_via_partition_root = true)")
	_ = held.Close(0)
	r.eventually("it leads", func() bool { return d.Status().Ready })
	if got := r.published(); got != "outbox.events public.other_events" {
		t.Errorf("the leader has left %s in the publication", got)
	}
}

func TestStandby_WithAnotherTableChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(otherTable)
	leader := r.start()
	r.env = append(r.env, "RELAY_OUTBOX_TABLE=public.other_events")
	r.refused(r.launch(), "outbox.events", "public.other_events")
	if got := r.published(); got != "outbox.events" || !leader.Status().Ready {
		t.Errorf("the publication has %s, the leader is %+v", got, leader.Status())
	}
}
