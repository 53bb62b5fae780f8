package daemon_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-relay/relay/internal/deliver"
)

// A receiver needs longer than the others have, and nobody waits for it but itself.
func TestDaemon_GivesASubscriptionTheTimeoutOfItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_DELIVER_TIMEOUT=1s", "RELAY_DELIVER_HEADER_TIMEOUT=500ms", "RELAY_DELIVER_CONNECT_TIMEOUT=1s", "RELAY_DELIVER_MAX_TIMEOUT=1m")
	answer := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		select {
		case <-answer:
		case <-req.Context().Done():
		}
	}))
	t.Cleanup(slow.Close)
	rec := newReceiver(t)
	own, others := r.subscribe("acme", slow.URL+"/own", "*"), r.subscribe("acme", slow.URL+"/others", "*")
	r.subscribe("globex", rec.URL, "*")
	r.exec("UPDATE relay.subscriptions SET timeout = 59000 WHERE id = $1", own)
	d := r.start()
	r.order("acme", "o1", 1)
	r.order("globex", "o1", 1)
	r.eventually("one without has no more time than the configuration gives", func() bool {
		return r.number("SELECT count(*) FROM relay.parked WHERE subscription_id = $1 AND attempts >= 2 AND last_error LIKE 'timeout:%'", others) == 1
	})
	r.eventually("the others' events arrive", func() bool { return len(rec.arrivals()) == 1 })
	if n := r.number("SELECT count(*) FROM relay.parked WHERE subscription_id = $1 AND attempts = 0", own); n != 1 {
		t.Errorf("%d deliveries with a timeout of their own wait for their first answer, want 1", n)
	}
	close(answer)
	r.eventually("it is taken at its first attempt", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1 AND status = 'DELIVERED' AND attempts = 1", own) == 1
	})
	d.stop()
}

// The endpoint fails and is active. Somebody mends it and says so.
func TestDaemon_EnablingAnActiveSubscriptionSendsWhatWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, "RELAY_DELIVER_RETRY_SCHEDULE=0s,3h", "RELAY_DELIVER_BREAKER_FIRST_PROBE=1h", "RELAY_DELIVER_BREAKER_MAX_PROBE=1h")
	rec := newReceiver(t)
	rec.setAnswer(func(arrival, int) int { return http.StatusInternalServerError })
	id := r.subscribe("acme", rec.URL, "*")
	d := r.start()
	orders := []string{"o1", "o2", "o3", "o4", "o5", "o6"}
	for i, o := range orders {
		r.order("acme", o, i)
	}
	r.eventually("it fails, and all wait", func() bool {
		return r.number("SELECT count(*) FROM relay.failing WHERE circuit_open") == 1 && r.number("SELECT count(*) FROM relay.parked") == len(orders)
	})
	rec.setAnswer(nil)
	db, err := pgxpool.New(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := (deliver.Subscriptions{DB: db}).SetActive(t.Context(), uuid.MustParse(id), true, ""); err != nil {
		t.Fatal(err)
	}
	r.eventually("all are sent", func() bool {
		return r.number("SELECT count(*) FROM relay.deliveries WHERE status = 'DELIVERED'") == len(orders)
	})
	if n := r.number("SELECT count(*) FROM relay.failing"); n != 0 {
		t.Error("it counts as failing")
	}
	d.stop()
}
