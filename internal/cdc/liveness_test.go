package cdc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestStream_ReportsAllThreePositionsToTheServer(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.insert("one")
	c := o.consume(0)
	end := c.wants("one")[0].commit.EndLSN
	if err := c.stream.Confirm(end); err != nil {
		t.Fatal(err)
	}
	var got string
	eventually(t, "three positions of "+end.String(), func() bool {
		err := o.db.QueryRow(t.Context(), `SELECT concat_ws(' ', write_lsn, flush_lsn, replay_lsn, application_name)
			FROM pg_stat_replication WHERE pid = $1`, o.slotState().ActivePID).Scan(&got)
		return err == nil && got == fmt.Sprintf("%s %s %s cdc-test", end, end, end)
	})
}

func TestStream_ReceiptAloneConfirmsNothing(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	before := o.slotState().ConfirmedFlush
	o.insert("one")
	opts := o.options()
	opts.StatusInterval = 10 * time.Millisecond
	c := o.run(o.connect(), opts, 0)
	c.wants("one")
	go func() {
		for {
			select {
			case <-c.out:
			case <-c.done:
				return
			}
		}
	}()
	sent := c.stream.StatusUpdates()
	eventually(t, "ten status updates", func() bool { return c.stream.StatusUpdates() > sent+10 })
	if now := o.slotState().ConfirmedFlush; now != before {
		t.Errorf("the slot moved from %s to %s though nothing was confirmed", before, now)
	}
}

func TestStream_MovesAnIdleSlotAlong(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	o.exec(`CREATE TABLE elsewhere (body text)`)
	o.withSlot()
	o.consume(0).drain(0)
	for range 3 {
		o.exec(`INSERT INTO elsewhere SELECT repeat('x', 100) FROM generate_series(1, 1000)`)
		end := o.writeLSN()
		eventually(t, "slot at "+end.String(), func() bool { return o.slotState().ConfirmedFlush >= end })
	}
}

func TestStream_HoldsTheSlotBehindAnUnfinishedRow(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	o.exec(`CREATE TABLE elsewhere (body text)`)
	o.withSlot()
	c := o.consume(0)
	w := NewWatermark(0)
	o.insert("unfinished")
	var ticket Ticket
	for ticket == (Ticket{}) {
		switch it := c.next(); it.Kind {
		case ItemRow:
			var err error
			if ticket, err = w.Row(); err != nil {
				t.Fatal(err)
			}
		default:
			if err := passThrough(w, it); err != nil {
				t.Fatal(err)
			}
		}
	}
	held := w.Position().End
	o.exec(`INSERT INTO elsewhere SELECT repeat('x', 100) FROM generate_series(1, 1000)`)
	end := o.writeLSN()
	for w.Arrived() < end {
		if err := passThrough(w, c.next()); err != nil {
			t.Fatal(err)
		}
		if w.Position().End != held {
			t.Fatalf("position went from %s to %s over an unfinished row", held, w.Position().End)
		}
		if err := c.stream.Confirm(w.Position().End); err != nil {
			t.Fatal(err)
		}
	}
	w.Done(ticket)
	if w.Position().End < end {
		t.Fatalf("position %s after the row was done, want %s", w.Position().End, end)
	}
	if err := c.stream.Confirm(w.Position().End); err != nil {
		t.Fatal(err)
	}
	eventually(t, "slot at "+end.String(), func() bool { return o.slotState().ConfirmedFlush >= end })
}

// A reader that takes nothing for three times the server's patience.
func TestStream_LivesOnWhileItsReaderIsBlocked(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	const n = 20_000
	o.exec(fmt.Sprintf(`INSERT INTO events (body) SELECT repeat('x', 1000) FROM generate_series(1, %d)`, n))
	c := o.consume(0, "wal_sender_timeout=2s")
	c.nextBegin()
	pid := o.slotState().ActivePID
	select {
	case <-c.done:
		t.Fatalf("stream ended: %v", c.err)
	case <-time.After(6 * time.Second):
	}
	rows := 0
	for c.next().Kind == ItemRow {
		rows++
	}
	if rows != n {
		t.Errorf("%d rows, want %d", rows, n)
	}
	if now := o.slotState().ActivePID; now != pid || pid == 0 {
		t.Errorf("walsender %d became %d", pid, now)
	}
}

// A leader that takes long to set up has the slot, and reads nothing yet.
func TestStream_HoldKeepsTheSlotWhileNothingIsRead(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	o.exec(`INSERT INTO events (body) SELECT repeat('x', 1000) FROM generate_series(1, 20000)`)
	conn := o.connect("wal_sender_timeout=1s")
	stream, err := conn.Start(t.Context(), o.options(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close(0) }()
	pid := o.slotState().ActivePID
	ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
	defer cancel()
	if err := stream.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	if now := o.slotState().ActivePID; now != pid || pid == 0 {
		t.Errorf("walsender %d became %d", pid, now)
	}
}

// A reader that is slower than the server keeps messages half read in the
// buffer all the time.
func TestStream_AnswersASlowReaderInTheMiddleOfATransaction(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	const n = 400
	o.exec(fmt.Sprintf(`INSERT INTO events (body) SELECT string_agg(md5((i*1000+j)::text), '')
		FROM generate_series(1, %d) i, generate_series(1, 1000) j GROUP BY i`, n))
	c := o.consume(0, "wal_sender_timeout=1s")
	rows := 0
	for it := c.next(); it.Kind != ItemCommit; it = c.next() {
		if it.Kind == ItemRow {
			rows++
			time.Sleep(5 * time.Millisecond) // the reader's work
		}
	}
	if rows != n {
		t.Errorf("%d rows, want %d", rows, n)
	}
}

func TestStart_StandsByUntilTheSlotIsFree(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	first := o.consume(0)
	o.insert("one")
	x := first.wants("one")[0]
	conn := o.connect()
	for range 2 { // the same connection asks again
		_, err := conn.Start(t.Context(), o.options(), 0, 0)
		if !errors.Is(err, ErrSlotTaken) || Classify(err) != health.Standby {
			t.Fatalf("%v (%s), want ErrSlotTaken", err, Classify(err))
		}
		if pid := fmt.Sprint(o.slotState().ActivePID); !strings.Contains(err.Error(), pid) {
			t.Errorf("%v does not name the owner %s", err, pid)
		}
	}
	if err := first.stream.Confirm(x.commit.EndLSN); err != nil {
		t.Fatal(err)
	}
	if err := first.stop(waitLimit); err != nil {
		t.Fatal(err)
	}
	o.insert("two")
	o.run(conn, o.options(), 0).wants("two")
}

func TestStream_RepeatsATransactionThatBroke(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	const n = 50_000
	o.exec(fmt.Sprintf(`INSERT INTO events (body) SELECT repeat('x', 1000) FROM generate_series(1, %d)`, n))
	c := o.consume(0)
	for c.next().Kind != ItemRow {
	}
	o.exec(fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, o.slotState().ActivePID))
	err := c.failure()
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "57P01" || Classify(err) != health.ShuttingDown || !ServerGoesDown(err) {
		t.Errorf("%v (%s), want SQLSTATE 57P01", err, Classify(err))
	}
	if got := len(o.consume(0).transaction().rows); got != n {
		t.Errorf("%d rows the second time, want %d", got, n)
	}
}

func TestStream_LetsPostgreSQLShutDown(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t)
	at, err := cluster.CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	o := newOutboxAt(t, at, eventsTable).withSlot()
	o.insert("one")

	t.Run("who does not confirm holds it up", func(t *testing.T) {
		c := o.consume(0)
		c.wants("one")
		stopped := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
			defer cancel()
			stopped <- cluster.Stop(ctx, pgcluster.Fast)
		}()
		// The session that waits is told why it ends; new ones are refused.
		eventually(t, "57P01 on an ordinary session", func() bool {
			_, err := o.db.Exec(t.Context(), "SELECT 1")
			return err != nil && (ServerGoesDown(err) || o.db.IsClosed())
		})
		eventually(t, "57P03 for a new replication connection", func() bool {
			conn, err := Connect(t.Context(), o.url, "cdc-test")
			if err == nil {
				conn.Close()
				return false
			}
			return Classify(err) == health.ShuttingDown && ServerGoesDown(err)
		})
		select {
		case err := <-stopped:
			t.Fatalf("the server stopped with %v, though a consumer held it", err)
		default:
		}
		_ = c.stop(0) // letting go is what frees it
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
	})

	t.Run("who confirms keepalives does not", func(t *testing.T) {
		if err := cluster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		c := o.consume(0)
		c.drain(0)
		eventually(t, "an idle stream", func() bool { return c.stream.Received() != 0 && c.stream.Confirmed() == c.stream.Received() })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := cluster.Stop(ctx, pgcluster.Fast); err != nil {
			t.Fatalf("the server waits for an idle stream: %v", err)
		}
		<-c.done
		if state := Classify(c.err); state != health.Unreachable && state != health.ShuttingDown {
			t.Errorf("%v is %s", c.err, state)
		}
	})
}

// cable is a TCP connection that can be cut without a sign at either end.
type cable struct {
	listener net.Listener
	target   string
	cut      chan struct{}
	all      sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newCable(t *testing.T, target string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l, target: target, cut: make(chan struct{})}
	c.all.Go(c.accept)
	t.Cleanup(func() {
		_ = l.Close()
		c.mu.Lock()
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.mu.Unlock()
		c.all.Wait()
	})
	return c
}

func (c *cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.target)
		if err != nil {
			_ = near.Close()
			return
		}
		c.mu.Lock()
		c.conns = append(c.conns, near, far)
		c.mu.Unlock()
		c.all.Go(func() { c.forward(near, far) })
		c.all.Go(func() { c.forward(far, near) })
	}
}

// forward drops what comes after the cut, and passes no end on.
func (c *cable) forward(to io.Writer, from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-c.cut:
		default:
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func TestStream_NoticesACutCable(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	u, err := url.Parse(o.url)
	if err != nil {
		t.Fatal(err)
	}
	line := newCable(t, u.Host)
	u.Host = line.listener.Addr().String()
	conn, err := Connect(t.Context(), u.String(), "cdc-test")
	if err != nil {
		t.Fatal(err)
	}
	opts := o.options()
	opts.SilenceTimeout = 2 * time.Second
	c := o.run(conn, opts, 0)
	o.insert("one")
	c.wants("one")
	// An idle server answers when asked, so an idle line is not silent.
	select {
	case <-c.done:
		t.Fatalf("stream ended on an idle line: %v", c.err)
	case <-time.After(3 * time.Second):
	}
	close(line.cut)
	if err := c.failure(); !errors.Is(err, ErrSilent) || Classify(err) != health.Unreachable {
		t.Errorf("%v (%s), want ErrSilent", err, Classify(err))
	}
	if quiet := time.Since(c.stream.LastActivity()); quiet < opts.SilenceTimeout {
		t.Errorf("given up after %s of silence, want %s", quiet, opts.SilenceTimeout)
	}
}

func TestClose_LeavesTheLastConfirmationOnTheServer(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	for i := range 20 {
		body := fmt.Sprint("event ", i)
		o.insert(body)
		c := o.consume(0)
		end := c.wants(body)[0].commit.EndLSN
		c.cancel() // the context ends while a confirmation comes in
		if err := c.stream.Confirm(end); err != nil {
			t.Fatal(err)
		}
		if err := c.stop(waitLimit); err != nil {
			t.Fatalf("close: %v", err)
		}
		if !errors.Is(c.err, context.Canceled) {
			t.Errorf("run ended with %v, want the context's error", c.err)
		}
		if got := o.slotState().ConfirmedFlush; got != end {
			t.Fatalf("the slot stands at %s after Close, want %s", got, end)
		}
	}
}

func TestClose_WithoutGraceJustCloses(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable).withSlot()
	c := o.consume(0)
	if err := c.stop(0); err != nil {
		t.Error(err)
	}
	eventually(t, "a free slot", func() bool { return !o.slotState().Active })
}

func TestConnect_ReadsTheServersIdentity(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	conn := o.connect("wal_sender_timeout=1500ms")
	defer conn.Close()
	var system, database string
	var timeline int32
	var version int
	err := o.db.QueryRow(t.Context(), `SELECT (SELECT system_identifier::text FROM pg_control_system()),
		(SELECT timeline_id FROM pg_control_checkpoint()), current_database(),
		current_setting('server_version_num')::int / 10000`).Scan(&system, &timeline, &database, &version)
	if err != nil {
		t.Fatal(err)
	}
	id := conn.Identity()
	if id.SystemID != system || id.Timeline != timeline || id.Database != database || id.XLogPos == 0 {
		t.Errorf("identity %+v, want %s, timeline %d, %s", id, system, timeline, database)
	}
	if conn.ServerVersion() != version {
		t.Errorf("version %d, want %d", conn.ServerVersion(), version)
	}
	if conn.senderTimeout != 1500*time.Millisecond {
		t.Errorf("wal_sender_timeout %s, want 1.5 s", conn.senderTimeout)
	}
}

func TestConnect_ClassifiesRefusals(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	name := pgx.Identifier{"plain_" + o.slot}.Sanitize()
	o.exec("CREATE ROLE " + name + " LOGIN")
	t.Cleanup(func() {
		if _, err := o.db.Exec(context.WithoutCancel(t.Context()), "DROP ROLE "+name); err != nil {
			t.Error(err)
		}
	})
	for what, tc := range map[string]struct {
		url  string
		want health.State
	}{
		"role without REPLICATION": {strings.Replace(o.url, "postgres@", "plain_"+o.slot+"@", 1), health.Misconfigured},
		"unknown database":         {strings.Replace(o.url, "/test_", "/no_test_", 1), health.Misconfigured},
		"nobody listens":           {"postgres://postgres@127.0.0.1:1/x?sslmode=disable", health.Unreachable},
	} {
		conn, err := Connect(t.Context(), tc.url, "cdc-test")
		if err == nil {
			conn.Close()
			t.Errorf("%s: connected", what)
		} else if got := Classify(err); got != tc.want {
			t.Errorf("%s: %v is %s, want %s", what, err, got, tc.want)
		}
	}
}

func TestParseGUCDuration_ReadsWhatShowPrints(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "1min": time.Minute, "60s": time.Minute, "250ms": 250 * time.Millisecond,
		"10us": 10 * time.Microsecond, "2h": 2 * time.Hour, "3d": 72 * time.Hour, "5": 5 * time.Millisecond,
		"": 0, "never": 0, "5 fortnights": 0, "99999999999999999999s": 0} {
		if got := parseGUCDuration(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}
