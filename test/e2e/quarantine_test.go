package e2e_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestRelay_QuarantinesWhatIsNoEventAndDeliversItAfterAFix(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	path := configFile(t, "version: 1\ncatalog:\n  files: []\n")
	r := s.start("RELAY_CONFIG=" + path)
	insert := func(tenant, key, event, payload string) {
		t.Helper()
		s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			VALUES ($1, $2, $3, $4, $5)`, tenant, strings.Split(event, ".")[0], key, event, payload)
	}
	good := func(key string) {
		t.Helper()
		insert("acme", key, "payment.received", `{"payment_id":"p","invoice_id":"`+key+`","amount":1500.00,"currency":"EUR"}`)
	}
	const issued = `{"invoice_id": "i1",  "total": 12345678901234567890.10}`
	good("a")
	insert("acme", "i1", "invoice.issued", issued)
	insert("acme", "b", "payment.received", `{"payment_id":"p","invoice_id":"b","currency":"EUR"}`)
	insert("", "c", "payment.received", `{"payment_id":"p","invoice_id":"c","amount":1,"currency":"EUR"}`)
	insert("acme", "d", "payment.Received", `{"payment_id":"p","invoice_id":"d","amount":1,"currency":"EUR"}`)
	good("e")
	eventually(t, "the good rows arrive", func() bool { return s.recv.count("all") == 2 })
	eventually(t, "the bad rows are kept", func() bool { return s.number("SELECT count(*) FROM relay.quarantine") == 4 })
	for _, want := range []struct {
		key, reason string
		rows        int
	}{{"invoice.issued", "unknown_type", 1}, {"payment.Received", "unknown_type", 1}, {"payment.received", "invalid_payload", 1}} {
		n := s.number("SELECT count(*) FROM relay.quarantine WHERE event_type = $1 AND reason = $2 AND detail <> '' AND tenant_id = 'acme'",
			want.key, want.reason)
		if n != want.rows {
			t.Errorf("%d rows of %s are quarantined as %s, want %d", n, want.key, want.reason, want.rows)
		}
	}

	kept := fmt.Sprint(s.number("SELECT id FROM relay.quarantine WHERE event_type = 'invoice.issued'"))
	retry := func() {
		t.Helper()
		s.command("quarantine", "retry", kept)
		eventually(t, "the request is carried out", func() bool { return s.number("SELECT count(*) FROM relay.requests") == 0 })
	}
	retry() // too early
	if n := s.number("SELECT count(*) FROM relay.quarantine WHERE event_type = 'invoice.issued'"); n != 1 {
		t.Fatalf("%d rows are kept after a retry without a fix, want 1", n)
	}
	catalog := filepath.Join(filepath.Dir(path), "invoices.yaml")
	rewrite(t, catalog, `events:
  - name: invoice.issued
    description: An invoice was issued.
    schema: {type: object, required: [invoice_id, total], properties: {total: {type: number}}}
`)
	rewrite(t, path, "version: 1\ncatalog:\n  files: [invoices.yaml]\n")
	r.signal(syscall.SIGHUP)
	eventually(t, "the catalog is in force", func() bool { return r.log.Count("configuration reloaded") == 1 })
	insert("acme", "i2", "invoice.issued", issued)
	eventually(t, "a new row of the type arrives", func() bool { return s.recv.count("all") == 3 })
	retry()
	eventually(t, "the kept row arrives", func() bool { return s.recv.count("all") == 4 })
	for _, a := range s.recv.arrivals("all") {
		if a.typ == "invoice.issued" && a.data != hash([]byte(issued)) {
			t.Errorf("%s arrived, want the data %s", a.raw, issued)
		}
	}
	if got := fmt.Sprint(s.recv.types("all")); got != "map[invoice.issued:2 payment.received:2]" {
		t.Errorf("%s arrived", got)
	}
	eventually(t, "the kept row is gone", func() bool { return s.number("SELECT count(*) FROM relay.quarantine") == 3 })
	r.terminate()
}
