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

// Who reloads wants to know what it came to.
func TestReload_SaysWhatTookEffectAndWhatWaitsForARestart(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("events:\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const sent, lost, found = "  - {name: shipment.sent, description: It left., schema: {type: object}}\n",
		"  - {name: shipment.lost, description: It is gone., schema: {type: object}}\n",
		"  - {name: shipment.found, description: It is back., schema: {type: object}}\n"
	write(sent + lost)
	r := newRig(t, "RELAY_CATALOG_FILES="+file)
	var more []string
	r.reload = func() (*config.Config, error) {
		return config.Load(config.LoadOptions{Environ: append(r.env[:len(r.env):len(r.env)], more...)})
	}
	d := r.launch()
	// reload returns what it writes to the log.
	reload := func(env ...string) string {
		t.Helper()
		more = env
		before := len(d.log.String())
		if err := d.Reload(); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(d.log.String()[before:]) {
			if strings.Contains(line, "configuration re") || strings.Contains(line, "settings changed") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	for _, c := range []struct {
		name         string
		do           func()
		env          []string
		says, silent []string
		restart      []string
	}{
		{"nothing", func() {}, nil, []string{"nothing changed"}, []string{"changed="}, nil},
		{"a key that takes effect", func() {}, []string{"RELAY_REPLAY_RATE=7"}, []string{`msg="configuration reloaded" changed=[replay.rate]`},
			[]string{"restart", "types_"}, nil},
		{"a key that needs a restart", func() {}, []string{"RELAY_REPLAY_RATE=7", "RELAY_OUTBOX_RETENTION=100h"},
			[]string{`level=WARN msg="settings changed that take effect at the next start only" keys=[outbox.retention]`, "nothing took effect"},
			[]string{"reloaded", "changed="}, []string{"outbox.retention"}},
		{"one of each", func() {}, []string{"RELAY_REPLAY_RATE=8", "RELAY_OUTBOX_RETENTION=100h"},
			[]string{"changed=[replay.rate]", "keys=[outbox.retention]"}, nil, []string{"outbox.retention"}},
		{"what is in a catalog file", func() { write(strings.Replace(sent, "It left", "It has left", 1) + found) }, []string{"RELAY_REPLAY_RATE=8"},
			[]string{"types_added=[shipment.found]", "types_removed=[shipment.lost]", "types_changed=[shipment.sent]"}, []string{" changed=", "keys="}, nil},
	} {
		c.do()
		said := reload(c.env...)
		for _, want := range c.says {
			if !strings.Contains(said, want) {
				t.Errorf("%s: the log lacks %q:\n%s", c.name, want, said)
			}
		}
		for _, no := range c.silent {
			if strings.Contains(said, no) {
				t.Errorf("%s: the log has %q:\n%s", c.name, no, said)
			}
		}
		if got := d.Status().NeedsRestart; !slices.Equal(got, c.restart) {
			t.Errorf("%s: waiting for a restart %v, want %v", c.name, got, c.restart)
		}
	}
}
