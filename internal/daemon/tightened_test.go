package daemon_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/api"
	"github.com/outbox-relay/relay/internal/audit"
	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/outbox"
)

// Whether a row is an event is decided once, when it is taken in. A catalog or a limit that is tightened later takes no event
// back, and one that is loosened makes no event of a row that was refused.
func TestCatalog_ThatIsChangedLeavesEventsAloneThatWereTakenIn(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	write := func(types string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("events:\n"+types), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const sent = "  - {name: shipment.sent, description: It left., schema: {type: object, required: [id%s]}}\n"
	write(fmt.Sprintf(sent, "") + "  - {name: shipment.lost, description: It is gone., schema: {type: object}}\n")
	r := newRig(t, "RELAY_CATALOG_FILES="+file)
	first, late := newReceiver(t), newReceiver(t)
	r.subscribe("acme", first.URL, "*")
	largest := "1MiB"
	load := func() (*config.Config, error) {
		return config.Load(config.LoadOptions{Environ: append(r.env[:len(r.env):len(r.env)], "RELAY_OUTBOX_MAX_PAYLOAD="+largest)})
	}
	r.reload = load
	d := r.start()
	insert := func(id, event, payload string) string {
		t.Helper()
		return r.text(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			VALUES ('acme', 'shipment', $1, $2, $3) RETURNING id::text`, id, event, payload)
	}
	insert("s1", "sent", `{"id": "1", "label": "`+strings.Repeat("x", 2000)+`"}`)
	insert("s2", "shipment.lost", `{"id": "2"}`)
	kept := insert("s3", "sent", `{"carrier": "sea"}`)
	thrown := insert("s4", "sent", `{"carrier": "air"}`)
	r.eventually("the events arrive", func() bool { return len(first.arrivals()) == 2 })
	r.eventually("the others are kept", func() bool { return r.number("SELECT count(*) FROM relay.quarantine") == 2 })
	if err := (outbox.Quarantine{DB: r.pool()}).Discard(context.Background(), int64(r.number("SELECT id FROM relay.quarantine WHERE event_id = $1", thrown))); err != nil {
		t.Fatal(err)
	}
	r.handled()

	// One type asks for more and for less, the other one is gone, and what is allowed is smaller than what was delivered.
	write(strings.Replace(fmt.Sprintf(sent, ", carrier"), "id, ", "", 1) + "  - {name: shipment.found, description: It is back., schema: {type: object}}\n")
	largest = "1KiB"
	d.stop()
	r.env = append(r.env, "RELAY_OUTBOX_MAX_PAYLOAD="+largest)
	d = r.start()
	if n := r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'"); n != 2 {
		t.Fatalf("%d deliveries", n)
	}

	var list struct{ Items []struct{ ID string } }
	bearer := r.tenantToken("acme")
	r.get(d, bearer, "/deliveries", &list)
	for _, item := range list.Items {
		var one struct {
			Event   string
			Request struct{ Body map[string]any }
		}
		if r.get(d, bearer, "/deliveries/"+item.ID, &one); one.Request.Body["type"] != one.Event {
			t.Errorf("the API shows the body %.100v of a delivered %s", one.Request.Body, one.Event)
		}
	}

	sub := r.subscribe("acme", late.URL, "shipment.*")
	found := r.count(load, sub)
	ids := []string{kept, thrown}
	slices.Sort(ids)
	if got := skipped(found.Skips); found.Rows != 4 || found.Skipped != 2 || !slices.Equal(got, ids) {
		t.Errorf("a dry run finds %d rows and skips %v, want 4 and %v", found.Rows, got, ids)
	}
	for _, s := range found.Skips {
		if want := map[string]string{kept: "quarantined", thrown: "discarded"}[s.EventID]; s.Reason != want || !strings.Contains(s.Detail, "invalid_payload: ") {
			t.Errorf("%s is skipped: %s, %s; want %s", s.EventID, s.Reason, s.Detail, want)
		}
	}
	id := r.replay(sub, 1000)
	r.replayDone(id)
	var bodies [2][]string
	for i, rec := range []*receiver{first, late} {
		for _, a := range rec.arrivals() {
			bodies[i] = append(bodies[i], a.Body)
		}
		slices.Sort(bodies[i])
	}
	if !slices.Equal(bodies[0], bodies[1]) {
		t.Errorf("the replay brought %d bodies, %d were delivered before, or they differ", len(bodies[1]), len(bodies[0]))
	}
	record, err := deliver.Replays{DB: r.pool()}.Get(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got := skipped(record.Skips); record.Skipped != 2 || !slices.Equal(got, ids) || record.Detail != nil {
		t.Errorf("the replay skipped %d rows, %v, detail %v; want %v", record.Skipped, got, record.Detail, ids)
	}

	// A replay that can only skip says that it delivered nothing.
	r.exec("UPDATE relay.subscriptions SET filter = NULL, events = '{shipment.sent}' WHERE id::text = $1", sub)
	r.exec("DELETE FROM outbox.events WHERE aggregate_id IN ('s1', 's2')")
	r.eventually("the change is taken in", func() bool { return r.count(load, sub).Rows == 2 })
	id = r.replay(sub, 1000)
	r.replayDone(id)
	if record, err = (deliver.Replays{DB: r.pool()}).Get(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	if record.Delivered != 0 || record.Detail == nil || !strings.Contains(*record.Detail, "nothing was delivered") {
		t.Errorf("a replay that delivered %d says %v", record.Delivered, record.Detail)
	}
	var shown struct{ Items []api.Replay }
	r.get(d, bearer, "/replays", &shown)
	if len(shown.Items) != 2 || shown.Items[0].Detail == nil || len(shown.Items[0].Skips) != 2 {
		t.Errorf("the API shows %+v", shown.Items)
	}
	d.stop()
}

// A report leaves no delivery out because its event would not pass today.
func TestAudit_CountsEventsThatTheCatalogWouldRefuseByNow(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	write := func(required string) *outbox.Catalog {
		t.Helper()
		if err := os.WriteFile(file, []byte("events: [{name: shipment.sent, description: It left., schema: {type: object, required: ["+required+"]}}]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := outbox.NewCatalog(file)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	write("")
	r := newRig(t, "RELAY_CATALOG_FILES="+file)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	d := r.start()
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		VALUES ('acme', 'shipment', 's1', 'sent', '{}'), ('acme', 'shipment', 's2', 'sent', '{}')`)
	r.eventually("they arrive", func() bool { return len(rec.arrivals()) == 2 })
	r.audited(d)
	d.stop()
	r.exec("DELETE FROM relay.deliveries WHERE aggregate_id = 's2'") // a loss, as far as anybody can tell
	r.exec("UPDATE relay.subscriptions SET created_at = created_at - interval '1 hour'")
	cfg, err := config.Load(config.LoadOptions{Environ: r.env})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := audit.MakeReport(context.Background(), r.pool(), audit.ReportOptions{Slot: cfg.CDC.Slot, From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour),
		Mapping: outbox.MappingOptions{Table: cfg.Outbox.Table, Columns: outbox.DefaultColumns()}, Catalog: write("carrier"), Records: true})
	if err != nil {
		t.Fatal(err)
	}
	if rep.NoEvents != 0 || rep.Recorded != 1 || rep.Missing != 1 {
		t.Errorf("no events %d, recorded %d, missing %d; want 0, 1, 1: %+v", rep.NoEvents, rep.Recorded, rep.Missing, rep)
	}
}

func skipped(list []deliver.ReplaySkip) []string {
	ids := []string{}
	for _, s := range list {
		ids = append(ids, s.EventID)
	}
	slices.Sort(ids)
	return ids
}
