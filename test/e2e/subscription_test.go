package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestRelay_NeverMissesARowCommittedRightAfterItsSubscription(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	r := s.start()
	const rounds = 60
	var subs []*subscription
	var ledgers []*ledger
	for i := range rounds {
		tenant := fmt.Sprintf("tenant-%02d", i)
		l := newLedger(s, tenant, 1)
		l.add(0, 1)
		subscribe := s.subscribe
		if i%6 == 0 {
			subscribe = s.subscribeByCommand
		}
		sub := subscribe("only-"+tenant, tenant, "sales_order.*")
		l.add(0, 1)
		subs, ledgers = append(subs, sub), append(ledgers, l)
	}
	for i, sub := range subs {
		rows := ledgers[i].rows()
		eventually(t, "the row of "+sub.tenant+" arrives", func() bool { return s.recv.has(sub.name, rows[1].event) })
	}
	r.terminate()
	for i, sub := range subs {
		// The row before the subscription may come too: it was handled when the subscription was there.
		got := s.recv.arrivals(sub.name)
		if rows := ledgers[i].rows(); got[len(got)-1].event != rows[1].event || len(got) > 2 || len(got) == 2 && got[0].event != rows[0].event {
			t.Errorf("%s: %d rows have arrived, want the second, at most after the first", sub.tenant, len(got))
		}
	}
}

func TestRelay_HoldsBackWhatADeactivatedSubscriptionWants(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	control := s.subscribe("control", "acme", "*")
	switched := s.subscribe("switched", "acme", "*")
	s.recv.set("switched", behaviour{status: http.StatusOK, delay: 20 * time.Millisecond})
	s.recv.set("control", behaviour{status: http.StatusOK, delay: 20 * time.Millisecond})
	l := newLedger(s, "acme", 20)
	r := s.start()
	l.write(1, 600)
	eventually(t, "both get rows", func() bool { return s.recv.count("control") > 50 && s.recv.count("switched") > 50 })
	s.exec("UPDATE relay.subscriptions SET active = false WHERE id = $1", switched.id)
	l.wait()
	l.settle(patience, control)
	eventually(t, "the rest waits", func() bool {
		waiting := len(l.rows()) - s.recv.count("switched")
		return waiting > 0 && s.number("SELECT count(*) FROM relay.parked") == waiting
	})
	// One more row goes to the other subscription alone.
	before := len(s.recv.arrivals("switched"))
	l.add(0, 1)
	l.settle(patience, control)
	if n := len(s.recv.arrivals("switched")) - before; n != 0 {
		t.Fatalf("%d attempts began after the subscription was deactivated", n)
	}
	s.exec("UPDATE relay.subscriptions SET active = true WHERE id = $1", switched.id)
	l.settle(patience, switched)
	if repeats := l.check(nil, control, switched); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(control, switched)
	r.terminate()
}

func TestRelay_CancelsWhatARemovedSubscriptionWaitsFor(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	kept := s.subscribe("kept", "acme", "*")
	removed := s.subscribe("removed", "acme", "*")
	s.recv.set("removed", behaviour{status: http.StatusServiceUnavailable})
	l := newLedger(s, "acme", 10)
	r := s.start()
	for k := range l.keys {
		l.add(k, 3)
	}
	eventually(t, "its deliveries wait", func() bool { return s.number("SELECT count(*) FROM relay.parked") == 30 })
	s.exec("DELETE FROM relay.subscriptions WHERE id = $1", removed.id)
	eventually(t, "they are cancelled", func() bool {
		return s.number("SELECT count(*) FROM relay.deliveries WHERE subscription_id = $1 AND status = 'CANCELLED'", removed.id) == 30 &&
			s.number("SELECT count(*) FROM relay.parked") == 0
	})
	s.recv.set("removed", behaviour{status: http.StatusOK})
	for k := range l.keys {
		l.add(k, 1)
	}
	l.settle(patience, kept)
	l.check(nil, kept)
	r.terminate()
	if n := s.recv.count("removed"); n != 0 {
		t.Errorf("%d rows were taken after the subscription was removed", n)
	}
}

// The stream brings a transaction before queries see it; here for as long as the commit waits for a standby that
// does not exist.
func TestRelay_WaitsUntilItSeesTheSubscriptionThatTheStreamTellsOf(t *testing.T) {
	t.Parallel()
	s := newStageOn(t, pgtest.NewCluster(t, pgcluster.Options{
		Settings: map[string]string{"synchronous_standby_names": "nobody", "synchronous_commit": "local"},
	}))
	t.Cleanup(s.db.Close)
	l := newLedger(s, "acme", 1)
	r := s.start()
	conn, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "SET synchronous_commit = on"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "INSERT INTO relay.subscriptions (tenant_id, url, events, secret) VALUES ('acme', $1, '{*}', $2)",
			s.recv.url("late"), receiverSecret)
		done <- err
	}()
	const waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
	eventually(t, "the commit waits", func() bool { return s.number("SELECT count(*) "+waiting) == 1 })
	l.add(0, 1)
	head := s.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
	eventually(t, "the row is sent", func() bool {
		return s.number("SELECT coalesce(max(sent_lsn - '0/0'), 0)::bigint FROM pg_stat_replication") >= head
	})
	s.exec("SELECT pg_cancel_backend(pid) " + waiting) // ends the wait, not the commit
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.settle(patience, &subscription{name: "late", tenant: "acme", events: []string{"*"}})
	r.terminate()
}
