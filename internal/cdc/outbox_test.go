package cdc

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// waitLimit is how long a test waits for what must happen.
const waitLimit = 30 * time.Second

// eventsTable is the outbox of tests that need nothing special of it.
const eventsTable = `CREATE TABLE events (id bigserial PRIMARY KEY, body text)`

// outbox is a database with a table public.events and a publication relay, and
// the names that a consumer of it needs.
type outbox struct {
	t    testing.TB
	url  string
	slot string
	pub  Publication
	db   *pgx.Conn
}

func newOutbox(t testing.TB, ddl string) *outbox {
	t.Helper()
	return newOutboxAt(t, pgtest.NewDatabase(t), ddl)
}

func newOutboxAt(t testing.TB, at, ddl string) *outbox {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	// Slots belong to the whole server, so each database has its own name.
	o := &outbox{t: t, url: at, slot: "relay_" + strings.TrimPrefix(u.Path, "/"),
		pub: Publication{Name: "relay", Schema: "public", Table: "events"}}
	o.db = o.session()
	o.exec(ddl)
	if created, err := o.pub.Ensure(t.Context(), o.db); err != nil || !created {
		t.Fatalf("created %v, %v", created, err)
	}
	return o
}

// session is one more ordinary connection.
func (o *outbox) session() *pgx.Conn {
	o.t.Helper()
	conn, err := pgx.Connect(o.t.Context(), o.url)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

// exec runs statements in one transaction.
func (o *outbox) exec(sql string) {
	o.t.Helper()
	if _, err := o.db.PgConn().Exec(o.t.Context(), sql).ReadAll(); err != nil {
		o.t.Fatalf("%s: %v", sql, err)
	}
}

func (o *outbox) insert(bodies ...string) {
	o.t.Helper()
	for _, b := range bodies {
		if _, err := o.db.Exec(o.t.Context(), `INSERT INTO events (body) VALUES ($1)`, b); err != nil {
			o.t.Fatal(err)
		}
	}
}

// writeLSN is the end of the WAL that is written by now.
func (o *outbox) writeLSN() LSN {
	o.t.Helper()
	var text string
	if err := o.db.QueryRow(o.t.Context(), `SELECT pg_current_wal_lsn()::text`).Scan(&text); err != nil {
		o.t.Fatal(err)
	}
	var lsn LSN
	if err := lsn.Scan(text); err != nil {
		o.t.Fatal(err)
	}
	return lsn
}

func (o *outbox) slotState() SlotState {
	o.t.Helper()
	s, err := InspectSlot(o.t.Context(), o.db, o.slot)
	if err != nil {
		o.t.Fatal(err)
	}
	return s
}

// connect opens a replication connection; parameters are added to the URL.
func (o *outbox) connect(parameters ...string) *Conn {
	o.t.Helper()
	u := o.url
	for _, p := range parameters {
		u += "&" + p
	}
	ctx, cancel := context.WithTimeout(o.t.Context(), waitLimit)
	defer cancel()
	conn, err := Connect(ctx, u, "cdc-test")
	if err != nil {
		o.t.Fatal(err)
	}
	return conn
}

func (o *outbox) createSlot(conn *Conn) NewSlot {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), waitLimit)
	defer cancel()
	slot, err := conn.CreateSlot(ctx, o.slot, false)
	if err != nil {
		o.t.Fatal(err)
	}
	return slot
}

// withSlot makes the slot and lets go of the connection.
func (o *outbox) withSlot() *outbox {
	o.t.Helper()
	conn := o.connect()
	defer conn.Close()
	o.createSlot(conn)
	return o
}

func (o *outbox) options() StreamOptions {
	return StreamOptions{Slot: o.slot, Publication: o.pub.Name}
}

// consumer is a Stream that runs.
type consumer struct {
	t      testing.TB
	stream *Stream
	out    chan []Item
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run, when done is closed
	spare  []Item
}

// consume starts to stream from start with all before it recorded.
func (o *outbox) consume(start LSN, parameters ...string) *consumer {
	o.t.Helper()
	return o.run(o.connect(parameters...), o.options(), start)
}

func (o *outbox) run(conn *Conn, opts StreamOptions, start LSN) *consumer {
	o.t.Helper()
	ctx, cancelStart := context.WithTimeout(o.t.Context(), waitLimit)
	defer cancelStart()
	// An abrupt end leaves the slot taken for a moment.
	stream, err := conn.Start(ctx, opts, start, start)
	for errors.Is(err, ErrSlotTaken) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		stream, err = conn.Start(ctx, opts, start, start)
	}
	if err != nil {
		conn.Close()
		o.t.Fatal(err)
	}
	runCtx, cancel := context.WithCancel(context.Background())
	c := &consumer{t: o.t, stream: stream, out: make(chan []Item, 4), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.err = stream.Run(runCtx, c.out)
	}()
	o.t.Cleanup(func() { c.stop(0) })
	return c
}

// stop ends the stream and returns Close's error.
func (c *consumer) stop(grace time.Duration) error {
	c.cancel()
	<-c.done
	return c.stream.Close(grace)
}

// next is the next item.
func (c *consumer) next() Item {
	c.t.Helper()
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	for len(c.spare) == 0 {
		select {
		case c.spare = <-c.out:
		case <-c.done:
			c.t.Fatalf("stream ended: %v", c.err)
		case <-limit.C:
			c.t.Fatal("nothing came from the stream")
		}
	}
	it := c.spare[0]
	c.spare = c.spare[1:]
	return it
}

// nextBegin passes keepalives over, which may stand in front of any transaction.
func (c *consumer) nextBegin() Item {
	c.t.Helper()
	for {
		switch it := c.next(); it.Kind {
		case ItemBegin:
			return it
		case ItemKeepalive:
		default:
			c.t.Fatalf("%+v, want a begin", it)
		}
	}
}

// failure drains the stream until it ends by itself.
func (c *consumer) failure() error {
	c.t.Helper()
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	for {
		select {
		case <-c.out:
		case <-c.done:
			return c.err
		case <-limit.C:
			c.t.Fatal("the stream goes on")
		}
	}
}

// transaction is what came between a begin and its commit.
type transaction struct {
	begin  Item
	rows   []Item // rows and messages
	commit Item
}

// bodies are the column body of each row, or the content of each message.
func (x transaction) bodies() []string {
	var all []string
	for _, it := range x.rows {
		if it.Kind == ItemMessage {
			all = append(all, "message "+string(it.Content))
			continue
		}
		all = append(all, columnOf(it, "body"))
	}
	return all
}

func columnOf(it Item, name string) string {
	i := slices.IndexFunc(it.Row.Relation.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return fmt.Sprintf("no column %s", name)
	}
	return string(it.Row.Values[i].Data)
}

// transaction is the next one; keepalives before it are passed over.
func (c *consumer) transaction() transaction {
	c.t.Helper()
	var x transaction
	for {
		switch it := c.next(); it.Kind {
		case ItemBegin:
			x.begin = it
		case ItemRow, ItemMessage:
			x.rows = append(x.rows, it)
		case ItemCommit:
			x.commit = it
			if x.begin.CommitLSN != it.CommitLSN || it.EndLSN <= it.CommitLSN {
				c.t.Fatalf("transaction %s ends as %s at %s", x.begin.CommitLSN, it.CommitLSN, it.EndLSN)
			}
			return x
		}
	}
}

// wants checks the bodies of the next transactions, one string a transaction,
// its rows joined by commas.
func (c *consumer) wants(transactions ...string) []transaction {
	c.t.Helper()
	var all []transaction
	for _, want := range transactions {
		x := c.transaction()
		if got := strings.Join(x.bodies(), ","); got != want {
			c.t.Fatalf("transaction %q, want %q", got, want)
		}
		all = append(all, x)
	}
	return all
}

// drain records everything at once, as a relay does that keeps up: it puts
// items through a Watermark and confirms its position.
func (c *consumer) drain(start LSN) {
	w := NewWatermark(start)
	go func() {
		for {
			select {
			case batch := <-c.out:
				for _, it := range batch {
					if err := passThrough(w, it); err != nil {
						c.t.Error(err)
						return
					}
				}
				if err := c.stream.Confirm(w.Position().End); err != nil {
					c.t.Error(err)
				}
			case <-c.done:
				return
			}
		}
	}()
}

func passThrough(w *Watermark, it Item) error {
	switch it.Kind {
	case ItemBegin:
		return w.Begin(it.CommitLSN)
	case ItemRow:
		ticket, err := w.Row()
		w.Done(ticket)
		return err
	case ItemCommit:
		return w.Commit(it.EndLSN, nil)
	case ItemKeepalive:
		w.Keepalive(it.EndLSN)
	}
	return nil
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(waitLimit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, waitLimit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
