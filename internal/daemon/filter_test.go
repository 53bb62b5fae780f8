package daemon_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/config"
	"github.com/outbox-relay/relay/internal/daemon"
	"github.com/outbox-relay/relay/internal/outbox"
)

// amount commits an order of so much.
func (r *rig) amount(tenant, amount string) {
	r.t.Helper()
	r.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ($1, 'sales_order', 'o1',
		'sales_order.confirmed', json_build_object('order_id', 'o1', 'order_number', '1', 'amount', $2::text, 'currency', 'EUR'))`, tenant, amount)
}

// sums are the amounts that arrived.
func sums(list []arrival) string {
	var out []string
	for _, a := range list {
		_, rest, _ := strings.Cut(a.Body, `"amount" : "`)
		amount, _, _ := strings.Cut(rest, `"`)
		out = append(out, amount)
	}
	return strings.Join(out, " ")
}

func TestFilter_DecidesWhatIsDeliveredCountedReplayedAndTried(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all, large := newReceiver(t), newReceiver(t)
	r.subscribe("acme", all.URL, "*")
	sub := r.subscribe("acme", large.URL, "sales_order.*")
	r.exec(`UPDATE relay.subscriptions SET filter = '{"amount": {"$gte": 100}}' WHERE id = $1`, sub)
	r.start()
	for _, a := range []string{"99.99", "100.00", "20", "1000.5"} {
		r.amount("acme", a)
	}
	r.eventually("all arrive at the one without a filter", func() bool { return len(all.arrivals()) == 4 })
	r.eventually("two arrive at the other", func() bool { return sums(large.arrivals()) == "100.00 1000.5" })

	// A change holds for what is committed after it; what was before it has been read.
	r.exec(`UPDATE relay.subscriptions SET filter = '{"amount": {"$lt": 100}}' WHERE id = $1`, sub)
	r.amount("acme", "5")
	r.amount("acme", "500")
	r.eventually("the new filter holds", func() bool { return sums(large.arrivals()) == "100.00 1000.5 5" })
	r.handled()
	r.eventually("three deliveries are on record", func() bool { // rows that are being moved to a partition are seen a moment later
		return r.number("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1", sub) == 3
	})

	id := r.replay(sub, 100)
	if n := r.number("SELECT total FROM relay.replays WHERE id = $1", id); n != 3 {
		t.Errorf("a replay finds %d rows, want those of 99.99, 20 and 5", n)
	}
	r.replayDone(id)
	if _, queued, skipped, delivered := r.replayState(id); queued != 3 || skipped != 0 || delivered != 3 {
		t.Errorf("%d queued, %d skipped, %d delivered", queued, skipped, delivered)
	}
	if got := sums(large.arrivals()); got != "100.00 1000.5 5 99.99 20 5" {
		t.Errorf("arrived: %s", got)
	}

	cfg, err := config.Load(config.LoadOptions{Environ: r.env})
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := outbox.NewCatalog()
	if err != nil {
		t.Fatal(err)
	}
	latest, err := daemon.Retained{Settings: cfg, Catalog: catalog, DB: r.pool()}.Latest(context.Background(), "acme", 3)
	if err != nil {
		t.Fatal(err)
	}
	var payloads []string
	for _, e := range latest {
		payloads = append(payloads, fmt.Sprintf(`"amount" : "%s"`, sums([]arrival{{Body: string(e.Payload)}})))
	}
	if got := strings.Join(payloads, " "); got != `"amount" : "500" "amount" : "5" "amount" : "1000.5"` {
		t.Errorf("the latest are %s", got)
	}
}

// A filter that cannot be read lets everything through to the table and nothing to the endpoint. Once it is mended all that
// goes on, whatever the mended one says of it.
func TestFilter_ThatCannotBeReadHoldsEventsBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newReceiver(t)
	sub := r.subscribe("acme", rec.URL, "*")
	r.exec(`UPDATE relay.subscriptions SET filter = '{"amount": {"$at_least": 100}}' WHERE id = $1`, sub)
	d := r.start()
	r.amount("acme", "100.00")
	r.amount("acme", "1.00")
	r.eventually("both wait", func() bool { return r.number("SELECT count(*) FROM relay.parked WHERE subscription_id = $1", sub) == 2 })
	r.eventually("the log says why", func() bool { return d.log.Count("$at_least: no such operator") > 0 })
	if n := len(rec.arrivals()); n != 0 {
		t.Errorf("%d arrived", n)
	}
	r.exec(`UPDATE relay.subscriptions SET filter = '{"amount": {"$gte": 100}}' WHERE id = $1`, sub)
	r.eventually("what waited goes on", func() bool { return sums(rec.arrivals()) == "100.00 1.00" })
}
