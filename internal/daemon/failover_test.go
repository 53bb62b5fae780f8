package daemon_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// pair is a primary with a standby, and a rig whose URL leads to the one that takes
// writes.
type pair struct {
	*rig
	primary, standby *pgcluster.Cluster
	rec              *receiver
	database         string
}

// newPair makes one with a subscription for everything. Rows are written to the primary
// until lead.
func newPair(t *testing.T, bin string, o pgcluster.StandbyOptions, env ...string) *pair {
	t.Helper()
	p := &pair{primary: pgtest.NewCluster(t, pgcluster.Options{BinDir: bin}), database: "app"}
	if _, err := p.primary.CreateDatabase(t.Context(), p.database); err != nil {
		t.Fatal(err)
	}
	o.Database = p.database
	p.standby = pgtest.NewStandby(t, p.primary, o)
	p.rig = newRigOn(t, pgcluster.PairURL(p.database, p.primary, p.standby), append([]string{quickMarkers}, env...)...)
	p.rec = newReceiver(t)
	p.subscribe("acme", p.rec.URL, "*")
	return p
}

// crash stops a server as a power cut does.
func (p *pair) crash(c *pgcluster.Cluster) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Stop(ctx, pgcluster.Immediate); err != nil {
		p.t.Fatal(err)
	}
}

// follow connects the rig's own connection to the server that takes writes now.
func (p *pair) follow() {
	p.t.Helper()
	p.eventually("somebody takes writes", func() bool {
		conn, err := pgx.Connect(context.Background(), p.url)
		if err != nil {
			return false
		}
		p.conn = conn
		p.t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return true
	})
}

// numbers are the order numbers in the table, ascending.
func (r *rig) numbers() []int {
	r.t.Helper()
	rows, err := r.conn.Query(context.Background(), "SELECT (payload ->> 'order_number')::int AS n FROM outbox.events ORDER BY n")
	if err != nil {
		r.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

// mustHaveAll fails unless each row that is in the table has arrived. It returns the
// numbers that arrived and are not there, and how many arrivals were repeats.
func (r *rig) mustHaveAll(rec *receiver) (phantoms []int, repeats int) {
	r.t.Helper()
	seen := rec.orderNumbers(r.t)
	for _, n := range r.numbers() {
		if seen[n] == 0 {
			r.t.Errorf("order %d is in the table and has not arrived", n)
		}
	}
	there := r.numbers()
	for n, times := range seen {
		repeats += times - 1
		if !slices.Contains(there, n) {
			phantoms = append(phantoms, n)
		}
	}
	rec.mustVerify(r.t)
	return phantoms, repeats
}

func TestFailover_WithoutTheSlotIsRescued(t *testing.T) {
	t.Parallel()
	p := newPair(t, "", pgcluster.StandbyOptions{})
	d := p.start()
	p.orders(0, 60)
	p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 60 })
	p.audited(d)
	pgtest.WaitCaughtUp(t, p.primary, p.standby)
	p.crash(p.primary)
	pgtest.Promote(t, p.standby)
	p.follow()
	p.orders(60, 90)
	p.eventuallyWithin(time.Minute, "the new rows arrive", func() bool { return len(p.rec.orderNumbers(t)) == 90 })
	p.audited(d)
	phantoms, repeats := p.mustHaveAll(p.rec)
	if len(phantoms) > 0 || repeats > 0 {
		t.Errorf("phantoms %v, %d repeats of what was on record", phantoms, repeats)
	}
	if what := p.text("SELECT string_agg(detail, '; ') FROM relay.incidents"); !strings.Contains(what, "does not exist") {
		t.Errorf("incidents: %s", what)
	}
}

// The new primary lacks the last rows of the old one, which had been sent. Nothing that it
// has is skipped, and the old primary is not read when it comes back.
func TestFailover_ThatLostATailSkipsNothingOfTheNewHistory(t *testing.T) {
	t.Parallel()
	p := newPair(t, "", pgcluster.StandbyOptions{})
	d := p.start()
	p.orders(0, 40)
	p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 40 })
	p.audited(d)
	pgtest.WaitCaughtUp(t, p.primary, p.standby)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.standby.Stop(ctx, pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	p.orders(40, 50) // the tail
	p.eventually("the tail arrives", func() bool { return len(p.rec.arrivals()) == 50 })
	p.crash(p.primary)
	if err := p.standby.Start(ctx); err != nil {
		t.Fatal(err)
	}
	pgtest.Promote(t, p.standby)
	p.follow()
	p.orders(100, 130)
	p.eventuallyWithin(time.Minute, "the new rows arrive", func() bool { return p.rec.orderNumbers(t)[129] > 0 })
	p.audited(d)
	phantoms, repeats := p.mustHaveAll(p.rec)
	slices.Sort(phantoms)
	if want := []int{40, 41, 42, 43, 44, 45, 46, 47, 48, 49}; !slices.Equal(phantoms, want) {
		t.Errorf("phantoms %v, want %v: events whose commit the failover took back", phantoms, want)
	}
	if repeats > 0 {
		t.Errorf("%d repeats of what was on record", repeats)
	}

	// The URL leads to the old primary first.
	before := len(p.rec.arrivals())
	if err := p.primary.Start(ctx); err != nil {
		t.Fatal(err)
	}
	old, err := pgx.Connect(t.Context(), p.primary.URL(p.database))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close(context.Background())
	if _, err := old.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload) VALUES ('acme', 'sales_order', 'o',
		'sales_order.confirmed', '{"order_id": "o", "order_number" : "999", "amount": "1", "currency": "EUR"}')`); err != nil {
		t.Fatal(err)
	}
	p.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", p.slot())
	p.eventually("the relay says what it found", func() bool {
		s := d.Status()
		return s.State == "wrong_server" && strings.Contains(s.Detail, "old primary")
	})
	if n := len(p.rec.arrivals()) - before; n > 0 {
		t.Errorf("%d rows of the old primary were sent", n)
	}
}

func TestBackup_RestoredInPlaceLosesNothingOfWhatIsInIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		restore pgcluster.RestoreOptions
	}{
		{"with its slots", pgcluster.RestoreOptions{Slots: true}},
		{"without slots", pgcluster.RestoreOptions{}},
		{"without slots, on a new timeline", pgcluster.RestoreOptions{NewTimeline: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.NewCluster(t)
			url, err := cluster.CreateDatabase(t.Context(), "app")
			if err != nil {
				t.Fatal(err)
			}
			p := &pair{rig: newRigOn(t, url, quickMarkers), primary: cluster, rec: newReceiver(t)}
			p.subscribe("acme", p.rec.URL, "*")
			d := p.start()
			p.orders(0, 30)
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 30 })
			p.audited(d)
			d.stop()
			p.orders(30, 40) // committed, in the backup, and not sent when it was made
			backup := pgtest.Backup(t, cluster)
			d = p.start()
			p.orders(40, 50) // lost with the server
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 50 })
			pgtest.Restore(t, cluster, backup, c.restore)
			p.follow()
			p.orders(50, 60)
			p.eventuallyWithin(time.Minute, "the new rows arrive", func() bool { return p.rec.orderNumbers(t)[59] > 0 })
			p.audited(d)
			phantoms, repeats := p.mustHaveAll(p.rec)
			if len(phantoms) != 10 || repeats > 20 {
				t.Errorf("phantoms %v, %d repeats; want the ten that were lost, and at most those sent since the backup again", phantoms, repeats)
			}
			t.Logf("%d repeats; incidents: %s", repeats, p.text("SELECT coalesce(string_agg(kind || ': ' || detail, '; '), 'none') FROM relay.incidents"))
			d.stop()
		})
	}
}

// The relay lives through the restore and holds a batch that it has not written: its
// positions and transaction ids belong to a history that is gone, and new rows get
// the same ids.
func TestBackup_RestoredUnderALivingRelayLosesNothing(t *testing.T) {
	t.Parallel()
	for _, slots := range []bool{true, false} {
		t.Run(fmt.Sprintf("slots %v", slots), func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.NewCluster(t)
			url, err := cluster.CreateDatabase(t.Context(), "app")
			if err != nil {
				t.Fatal(err)
			}
			interval := "1500ms" // what is lost is not recorded yet
			if slots {
				interval = "50ms" // or it is, and nothing is left to be written
			}
			p := &pair{rig: newRigOn(t, url, quickMarkers, "RELAY_DELIVER_RECORD_INTERVAL="+interval), primary: cluster, rec: newReceiver(t)}
			p.subscribe("acme", p.rec.URL, "*")
			d := p.start()
			p.orders(0, 20)
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 20 })
			p.audited(d)
			backup := pgtest.Backup(t, cluster)
			p.orders(20, 60) // delivered, and gone with the restore
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) >= 60 })
			if slots {
				p.eventually("they are recorded", func() bool { return p.number("SELECT count(*) FROM relay.deliveries") >= 60 })
			}
			pgtest.Restore(t, cluster, backup, pgcluster.RestoreOptions{Slots: slots})
			p.follow()
			p.orders(100, 200)
			p.eventuallyWithin(time.Minute, "the new rows arrive", func() bool {
				seen := p.rec.orderNumbers(t)
				for n := 100; n < 200; n++ {
					if seen[n] == 0 {
						return false
					}
				}
				return true
			})
			p.audited(d)
			p.mustHaveAll(p.rec)
			t.Logf("incidents: %s", p.text("SELECT coalesce(string_agg(kind || ': ' || detail, '; '), 'none') FROM relay.incidents"))
			d.stop()
		})
	}
}
