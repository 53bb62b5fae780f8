package deliver

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func emptyBatch() *pgx.Batch { return &pgx.Batch{} }

func TestRestart_AfterACrashContinuesFromTheTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", failing)
	var sent []*entry
	for range 30 {
		sent = append(sent, l.send("k1", "k2", "k3")...)
	}
	l.quiet()
	l.kill()
	w.sink.on("a.test", ok)
	next := w.lead()
	next.replay()
	sent = append(sent, next.send("k1", "k2")...) // behind what waits
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	w.inKeyOrder("a.test", sent...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
}

func TestRestart_SkipsWhatWasRecordedAboveTheWatermark(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	w.subscribe("b.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
	held := w.commit("held", "k1")
	w.sink.on("a.test", only(held[0], hold(nil)))
	l.take(held...)
	sent := l.send("k1", "k2", "k3")
	// Five deliveries of a and four and one of b are recorded; only a's first is open.
	eventually(t, "the others are recorded", func() bool { return w.ended(StatusDelivered) == 9 })
	if l.stream.confirmed().End != l.stream.start.End {
		t.Fatal("confirmed beyond an open delivery")
	}
	l.kill()
	w.sink.on("a.test", ok)
	next := w.lead()
	next.replay()
	next.quiet()
	w.inKeyOrder("a.test", append(held, sent...)...)
	w.inKeyOrder("b.test", append(held, sent...)...)
	if n := w.ended(StatusDelivered); n != 10 {
		t.Errorf("%d deliveries are recorded, want 10", n)
	}
	after := next.send("k9")
	next.quiet()
	if next.p.settled.Len() != 0 {
		t.Error("the settled deliveries are remembered although the stream is past them")
	}
	w.inKeyOrder("b.test", append(append(held, sent...), after...)...)
}

func TestRestart_ResumesInsideATransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead(func(o *Options, _ *RecorderOptions) { o.HandoverAfter = time.Minute })
	keys := make([]string, 40)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%d", i)
	}
	rows := w.commit(keys...)
	w.sink.on("a.test", only(rows[25], hold(nil)))
	l.take(rows...)
	eventually(t, "the others are recorded", func() bool { return w.ended(StatusDelivered) == 39 })
	if n := w.count("SELECT partial_rows FROM relay.progress"); n != 25 {
		t.Errorf("%d rows of the transaction are known to be recorded, want 25", n)
	}
	l.kill()
	w.sink.on("a.test", ok)
	next := w.lead()
	next.replay()
	next.quiet()
	// Confirmed is also what became a row because it took long, as on a busy machine.
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) >= len(rows) })
	w.inKeyOrder("a.test", rows...)
}

func TestRestore_HealsLanesWhoseHeadWent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", failing)
	sent := l.send("k1", "k1", "k1", "k2")
	eventually(t, "all wait", func() bool { return w.parked() == 4 })
	l.stop(patience)
	// As a crash leaves it between the delivery of a head and the promotion of the next.
	w.exec("DELETE FROM relay.parked WHERE event_id = $1", sent[0].f.EventID)
	w.exec("UPDATE relay.parked SET next_attempt_at = NULL WHERE event_id = $1", sent[1].f.EventID)
	w.sink.on("a.test", ok)
	w.lead()
	eventually(t, "the rest arrives", func() bool { return len(w.sink.took("a.test")) == 3 })
	w.inKeyOrder("a.test", sent[1:]...)
}

// A hundred thousand rows of one key: a look from each of them at those before it would
// take longer than anybody waits for a take-over.
func TestRestore_HealsALongLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	w.exec(`INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, created_at)
SELECT $1, '0/1'::pg_lsn + g, 0, gen_random_uuid(), gen_random_uuid(), 7, now() FROM generate_series(1, 100000) AS g`, id)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := w.pool.Exec(ctx, sqlHeal); err != nil {
		t.Fatal(err)
	}
	if at := w.text("SELECT string_agg(commit_lsn::text, ' ') FROM relay.parked WHERE next_attempt_at IS NOT NULL"); at != "0/2" {
		t.Errorf("rows at %s are due, want the first", at)
	}
}

func TestRestore_CancelsRowsWhoseSubscriptionWasRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", failing)
	l.send("k1", "k1")
	l.quiet()
	l.stop(patience)
	w.exec("DELETE FROM relay.subscriptions WHERE id = $1", id)
	w.lead()
	eventually(t, "the rows are cancelled", func() bool { return w.parked() == 0 && w.ended(StatusCancelled) == 2 })
}

func TestRestore_LeavesADisabledSubscriptionsRowsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.subscribe("a.test")
	l := w.lead()
	l.setActive(id, false)
	sent := l.send("k1", "k1")
	l.quiet()
	l.stop(patience)
	next := w.lead()
	sent = append(sent, next.send("k1")...)
	next.quiet()
	if n := w.parked(); n != 3 {
		t.Errorf("%d rows, want 3", n)
	}
	next.setActive(id, true)
	w.arrived("a.test", sent...)
}

func TestRestart_HandedOverAttemptIsDueWhenItMustHaveEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	timeout := func(o *Options, _ *RecorderOptions) { o.Timeout = 200 * time.Millisecond }
	l := w.lead(timeout)
	w.sink.on("a.test", hold(nil))
	sent := l.send("k1", "k1")
	eventually(t, "both are parked", func() bool { return w.parked() == 2 })
	l.kill()
	w.sink.on("a.test", ok)
	w.lead(timeout)
	w.arrived("a.test", sent...)
}

func TestRecorder_TriesABatchAgainWhenItsConnectionIsEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", failFirst(1))
	// Not one of the pool's, which may have been ended the time before.
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var sent []*entry
	for range 20 {
		sent = append(sent, l.send("k1", "k2", "k3")...)
		if _, err := conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	l.quiet()
	w.inKeyOrder("a.test", sent...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
}

func TestRecorder_OutlastsAServerThatIsAway(t *testing.T) {
	t.Parallel()
	c := pgtest.NewCluster(t)
	url, err := c.CreateDatabase(t.Context(), "relay")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	w := newWorldAt(t, url)
	w.subscribe("a.test")
	l := w.lead()
	w.sink.on("a.test", failFirst(1))
	sent := l.send("k1", "k2")
	l.quiet()
	if err := c.Stop(t.Context(), pgcluster.Immediate); err != nil {
		t.Fatal(err)
	}
	sent = append(sent, l.send("k1", "k2", "k3")...)
	eventually(t, "a batch has failed", func() bool { return l.errorCount() > 0 })
	before := l.stream.confirmed()
	if before.End >= sent[len(sent)-1].tx.end {
		t.Error("confirmed without a database")
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.quiet()
	eventually(t, "all arrive", func() bool { return len(w.sink.took("a.test")) == len(sent) })
	w.inKeyOrder("a.test", sent...)
	eventually(t, "the table is empty", func() bool { return w.parked() == 0 })
	if n := w.ended(StatusDelivered); n != len(sent) {
		t.Errorf("%d deliveries are recorded, want %d", n, len(sent))
	}
}
