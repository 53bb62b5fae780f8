package daemon_test

import (
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/health"
)

// part is the condition of a part, as /status shows it.
func (d *running) part(name string) health.Report {
	for _, c := range d.Status().Conditions {
		if c.Part == name {
			return c
		}
	}
	return health.Report{}
}

func TestPartitions_WhatKeepsThemFromBeingMadeIsACondition(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("DO $$ BEGIN EXECUTE format('CREATE TABLE outbox.events_p%s (id int)', to_char(now() AT TIME ZONE 'UTC' + interval '1 day', 'YYYYMMDD')); END $$")
	d := r.launch()
	r.mustTell(d, health.Degraded, "a table has the name that the partition would get")
	if c := d.part(health.PartPartitions); !strings.Contains(c.Sentence, "partitions of outbox.events are not maintained") {
		t.Errorf("the condition is %+v", c)
	}
}

func TestPartitions_ThoseOfPartmanAreLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// What the relay sees of the extension is the table that it is configured by.
	r.exec("CREATE SCHEMA partman; CREATE TABLE partman.part_config (parent_table text PRIMARY KEY); INSERT INTO partman.part_config VALUES ('outbox.events')")
	d := r.start()
	r.eventually("it says so", func() bool {
		return strings.Contains(d.part(health.PartPartitions).Sentence, "pg_partman looks after the partitions of outbox.events")
	})
	if !d.Status().Ready {
		t.Error("the relay is not ready")
	}
	if n := r.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox.events'::regclass"); n != 1 {
		t.Errorf("%d partitions beside the default one were made", n-1)
	}
}

func TestQuarantine_MoreThanAShareOfTheRowsIsACondition(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	d := r.start()
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'acme', 'sales_order', 'o1', 'sales_order.unheard_of', '{}' FROM generate_series(1, 60)`)
	r.mustTell(d, health.Degraded, "`relay quarantine list`")
	if c := d.part(health.PartQuarantine); !strings.Contains(c.Sentence, "more than 10 % of the rows") || !strings.Contains(c.Sentence, "because of unknown_type") {
		t.Errorf("the condition is %+v", c)
	}
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'acme', 'sales_order', 'o1', 'sales_order.confirmed', '{"order_id": "o1", "order_number": "1", "amount": "1500.00", "currency": "EUR"}' FROM generate_series(1, 1000)`)
	r.eventually("it clears again", func() bool { return d.Status().Ready })
}
