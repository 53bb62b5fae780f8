package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/config"
)

// What a relay runs under is what it was started or reloaded with, also for a term that begins later: a file that somebody is
// working on is not read, and what needs a restart waits for one.
func TestDaemon_KeepsItsCatalogAndItsMappingUntilTheyAreReloaded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const shipments = "events:\n  - name: shipment.sent\n    description: It left.\n    schema: {type: object, required: [shipment_id]}\n"
	write(shipments)
	r := newRig(t, "RELAY_CATALOG_FILES="+file)
	rec := newReceiver(t)
	r.subscribe("acme", rec.URL, "*")
	largest := "1MiB"
	r.reload = func() (*config.Config, error) {
		return config.Load(config.LoadOptions{Environ: append(r.env, "RELAY_OUTBOX_MAX_PAYLOAD="+largest)})
	}
	d := r.start()
	sent := 0
	ship := func(when string) {
		t.Helper()
		sent++
		r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'shipment', $1, 'sent',
			json_build_object('shipment_id', $1::text, 'label', repeat('x', 2000)))`, fmt.Sprint(sent))
		r.eventually("a shipment arrives "+when, func() bool {
			return slices.ContainsFunc(rec.arrivals(), func(a arrival) bool { return strings.Contains(a.Body, fmt.Sprintf(`"shipment_id" : "%d"`, sent)) })
		})
	}
	ship("at first")

	write("events: [{name: nonsense")
	if err := d.Reload(); err == nil {
		t.Error("a broken catalog was taken")
	}
	ship("after a reload that was refused")
	epoch := d.Status().Epoch
	r.exec("UPDATE relay.progress SET epoch = nextval('relay.epochs')")
	r.order("other", "o", 1) // what is recorded tells the leader that its term is over
	r.eventually("a new term begins", func() bool { s := d.Status(); return s.Ready && s.Epoch > epoch })
	ship("in a new term")

	write(shipments)
	largest = "1KiB"
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	ship("when another largest payload waits for a restart")
	if n := r.number("SELECT count(*) FROM relay.quarantine"); n != 0 {
		t.Errorf("%d rows in quarantine", n)
	}
}
