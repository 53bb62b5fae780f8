package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/outbox"
)

// quarantined puts rows into quarantine by hand and returns their numbers.
func (s *stage) quarantined(n int) []string {
	s.t.Helper()
	var numbers []string
	for i := range n {
		numbers = append(numbers, s.text(`INSERT INTO relay.quarantine (commit_lsn, row_index, committed_at, reason, detail, tenant_id, event_type, raw)
			VALUES ('0/5', $1, '2026-01-02T03:04:05Z', 'unknown_type', 'event type "x.y" is not in the catalog', 'acme', 'x.y', '{"columns": []}') RETURNING id::text`, i))
	}
	return numbers
}

func TestQuarantine_IsListedShownAndDiscarded(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.relay("quarantine", "list", "-o", "json").exits(0).says(`"items": []`)
	q := s.quarantined(3)
	s.relay("quarantine", "list").exits(0).quiet().says("ID", "REASON", "unknown_type", "acme", "x.y", "2026-01-02 03:04:05.000Z", "not in the catalog")
	var list struct{ Items []outbox.Quarantined }
	s.relay("quarantine", "list", "--limit", "2", "-o", "json").exits(0).quiet().decode(&list)
	if len(list.Items) != 2 || list.Items[0].Reason != "unknown_type" || *list.Items[1].TenantID != "acme" || list.Items[1].RowIndex != 1 {
		t.Errorf("got %+v", list)
	}
	s.relay("quarantine", "show", q[0]).exits(0).quiet().says("row 0 of the transaction at 0/5", `{"columns": []}`)
	var one struct {
		outbox.Quarantined
		Row map[string]any
	}
	s.relay("quarantine", "show", q[0], "-o", "json").exits(0).quiet().decode(&one)
	if one.Row["columns"] == nil || one.Reason != "unknown_type" {
		t.Errorf("got %+v", one)
	}
	s.relay("quarantine", "discard", q[0]).exits(exitUsage).complains(q[0]+" (x.y of acme, unknown_type)", "add --yes")
	s.relay("quarantine", "discard", q[0], "--dry-run", "-o", "json").exits(0).quiet().says(`"dry_run": true`)
	s.relay("quarantine", "discard", q[0], "--yes").exits(0).quiet().says("discarded " + q[0])
	var done struct{ Discarded []int }
	s.relay("quarantine", "discard", q[1], "--yes", "-o", "json").exits(0).decode(&done)
	if len(done.Discarded) != 1 {
		t.Errorf("got %+v", done)
	}
	for _, args := range [][]string{{"show", q[0]}, {"discard", q[0], "--yes"}, {"retry", q[0]}} {
		s.relay(append([]string{"quarantine"}, args...)...).exits(exitFailed).complains("quarantined row "+q[0], "no such quarantined row")
	}
	if n := s.text("SELECT count(*)::text FROM relay.quarantine"); n != "1" {
		t.Errorf("%s rows are left, want 1", n)
	}
}

func TestQuarantineShow_NamesTypes(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	q := s.quarantined(1)
	s.exec(`UPDATE relay.quarantine SET raw = convert_to('{"columns":[{"name":"id","type":2950,"text":"a \"type\":25"},'
		'{"name":"amount","type":1700,"modifier":655366,"null":true},{"name":"gone","type":4000000000,"null":true}]}', 'UTF8')`)
	want := []string{`{"name":"id","type":"uuid","text":"a \"type\":25"}`, `"type":"numeric(10,2)"`, `"type":4000000000`}
	s.relay("quarantine", "show", q[0]).exits(0).quiet().says(want...)
	s.relay("quarantine", "show", q[0], "-o", "json").exits(0).quiet().says(`"type": "uuid"`, `"type": "numeric(10,2)"`)
}

func TestQuarantineShow_ShowsBytesThatAreNoRow(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	q := s.quarantined(1)
	s.exec(`UPDATE relay.quarantine SET raw = '\x1b5b324a'`)
	s.relay("quarantine", "show", q[0]).exits(0).says("\uFFFD[2J")
	s.relay("quarantine", "show", q[0], "-o", "json").exits(0).says(`"row": "G1sySg=="`)
}

func TestQuarantineRetry_LeavesTheRequestWhenNoRelayRuns(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.quarantined(3)
	s.relay("quarantine", "retry", "--all", "--wait", "0s").exits(0).says("asked for").complains("3 noted; no relay")
	if n := s.text("SELECT count(*)::text FROM relay.requests WHERE kind = 'retry_quarantine'"); n != "3" {
		t.Errorf("%s requests, want 3", n)
	}
}

func TestQuarantineRetry_ReleasesWhatIsAnEventNowAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	recv := newReceiver(t, http.StatusOK)
	s.subscribe("acme", recv.URL)
	d := s.start()
	const insert = `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'x', 'y', $1, '{"id": 1}')`
	s.exec(insert, "shipment.sent")
	s.exec(insert, "shipment.lost")
	s.eventually("both are kept", func() bool { return s.text("SELECT count(*)::text FROM relay.quarantine") == "2" })
	s.relay("quarantine", "retry", "--all", "--wait", "20s").exits(0).quiet().says("stays: unknown_type: ")
	s.set = append(s.set, "--set", "catalog.files="+write(t, "types.yaml",
		"events:\n  - name: shipment.sent\n    description: A shipment left.\n    schema: {type: object}\n"))
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []answer }
	s.relay("quarantine", "retry", "--all", "--wait", "20s", "-o", "json").exits(0).quiet().decode(&list)
	if len(list.Items) != 2 || list.Items[0].Result != "released" || !strings.HasPrefix(list.Items[1].Result, "stays: unknown_type") {
		t.Errorf("got %+v", list)
	}
	s.eventually("the released one arrives", func() bool { types, _ := recv.got(); return len(types) == 1 && types[0] == "shipment.sent" })
}
