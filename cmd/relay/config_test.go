package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestConfigCheck_NamesTheFileItFoundGood(t *testing.T) {
	call(t, "config", "check").exits(0).quiet().says("ok (no file, defaults and environment)")
	file := write(t, "relay.yaml", "version: 1\ndeliver:\n  timeout: 5s\n")
	call(t, "config", "check", "--config", file).exits(0).quiet().says("ok (" + file + ")")
	var got struct {
		OK   bool
		File string
	}
	call(t, "config", "check", "--config", file, "-o", "json").exits(0).decode(&got)
	if !got.OK || got.File != file {
		t.Errorf("got %+v", got)
	}
}

func TestConfigCheck_ReadsTheCatalogToo(t *testing.T) {
	catalog := write(t, "types.yaml", "events:\n  - name: shipment.sent\n    schema: {type: nonsense}\n")
	for _, args := range [][]string{{"config", "check"}, {"events"}} {
		call(t, append(args, "--set", "catalog.files="+catalog)...).exits(exitConfig).complains(catalog + ":")
	}
}

func TestConfigCheck_ReadsTheCertificatesToo(t *testing.T) {
	junk := write(t, "ca.pem", "no certificate")
	call(t, "config", "check", "--set", "egress.ca_file="+junk).exits(exitConfig).complains("egress.ca_file", junk)
}

func TestConfigPrint_HidesPasswords(t *testing.T) {
	const url = "postgres://me:hunter2@db/app"
	for _, form := range []string{"text", "json"} {
		r := call(t, "config", "print", "-o", form, "--database-url", url).exits(0).quiet().says("postgres://me:", "db/app", "flag --database-url")
		if strings.Contains(r.out, "hunter2") {
			t.Errorf("-o %s shows the password:\n%s", form, r.out)
		}
	}
	var got struct{ Values, Origins map[string]any }
	call(t, "config", "print", "-o", "json").exits(0).decode(&got)
	if got.Values["deliver"] == nil || got.Origins["deliver.timeout"] == nil {
		t.Errorf("got %+v", got)
	}
}

func TestConfigSchema_IsJSON(t *testing.T) {
	r := call(t, "config", "schema").exits(0).quiet().says("$schema", "deliver")
	if !json.Valid([]byte(r.out)) {
		t.Errorf("not JSON: %.200s", r.out)
	}
}

func TestEvents_ListsFieldsOfBuiltInAndOwnTypes(t *testing.T) {
	catalog := write(t, "types.yaml", `events:
  - name: shipment.sent
    description: A shipment left.
    schema: {type: object, required: [shipment_id], properties: {weight: {type: number}}}
    example: {shipment_id: "s1"}
  - name: note.taken
    description: Anything goes.
    schema: {}
`)
	own := []string{"--set", "catalog.files=" + catalog}
	r := call(t, append([]string{"events"}, own...)...).exits(0).quiet()
	for line := range strings.Lines(r.out) {
		f := strings.Fields(line)
		want := map[string]string{
			"EVENT":                 "REQUIRED OPTIONAL",
			"sales_order.cancelled": "order_id,order_number reason",
			"payment.failed":        "payment_id,invoice_id,amount,currency error_code,reason",
			"shipment.sent":         "shipment_id weight",
			"note.taken":            "- -",
		}[f[0]]
		if want != "" && f[1]+" "+f[2] != want {
			t.Errorf("%s: got %s %s, want %s", f[0], f[1], f[2], want)
		}
	}
	r.says("sales_order.cancelled", "payment.failed", "shipment.sent", "note.taken")
	var got struct{ Items []eventType }
	call(t, append([]string{"events", "-o", "json"}, own...)...).exits(0).quiet().decode(&got)
	if len(got.Items) != 9 {
		t.Fatalf("%d types, want 9", len(got.Items))
	}
	first, last := got.Items[0], got.Items[7]
	if first.Name != "payment.received" || len(first.Required) != 4 || len(first.Optional) != 2 || !json.Valid(first.Schema) ||
		len(first.Example) == 0 || first.File != "" {
		t.Errorf("built-in: %+v", first)
	}
	if last.Name != "shipment.sent" || last.File != catalog || last.Description != "A shipment left." {
		t.Errorf("own: %+v", last)
	}
}
