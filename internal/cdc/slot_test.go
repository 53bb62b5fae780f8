package cdc

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/health"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// Writers go on while the slot is made: what the snapshot shows and what the
// stream brings are the whole table, and nothing twice.
func TestCreateSlot_ExportsASnapshotThatTheStreamCompletes(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	stop := make(chan struct{})
	var inserted atomic.Int64
	writers := make(chan error, 3)
	for range cap(writers) {
		db := o.session()
		go func() {
			for {
				select {
				case <-stop:
					writers <- nil
					return
				default:
				}
				if _, err := db.Exec(context.WithoutCancel(t.Context()), `INSERT INTO events (body) VALUES ('x')`); err != nil {
					writers <- err
					return
				}
				inserted.Add(1)
			}
		}()
	}
	eventually(t, "writers at work", func() bool { return inserted.Load() > 200 })
	conn := o.connect()
	slot := o.createSlot(conn)
	if slot.ConsistentPoint == 0 {
		t.Error("no consistent point")
	}
	before := map[string]bool{}
	tx, err := o.db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SET TRANSACTION SNAPSHOT '"+slot.Snapshot+"'"); err != nil {
		t.Fatal(err)
	}
	ids, err := tx.Query(t.Context(), `SELECT id::text FROM events`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(ids, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range list {
		before[id] = true
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := inserted.Load()
	eventually(t, "more rows", func() bool { return inserted.Load() > at+200 })
	close(stop)
	for range cap(writers) {
		if err := <-writers; err != nil {
			t.Fatal(err)
		}
	}
	c := o.run(conn, o.options(), 0)
	streamed := map[string]bool{}
	for len(before)+len(streamed) < int(inserted.Load()) {
		for _, row := range c.transaction().rows {
			id := columnOf(row, "id")
			if before[id] || streamed[id] {
				t.Errorf("row %s comes twice", id)
			}
			streamed[id] = true
		}
	}
	if len(before) == 0 || len(streamed) == 0 {
		t.Errorf("%d rows in the snapshot, %d in the stream: nothing was shown", len(before), len(streamed))
	}
	// Nothing more may come but what is written now.
	o.insert("last")
	c.wants("last")
}

func TestCreateSlot_RefusesNamesThatPostgreSQLWould(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	conn := o.connect()
	defer conn.Close()
	for _, name := range []string{"", "Upper", "with space", "a-b", `a"b`, "x LOGICAL pgoutput; DROP", strings.Repeat("a", 64)} {
		if _, err := conn.CreateSlot(t.Context(), name, false); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	o.createSlot(conn)
	if _, err := conn.CreateSlot(t.Context(), o.slot, false); err == nil {
		t.Error("a slot was made twice")
	}
}

func TestCreateSlot_LeavesFailoverOutWhereItIsUnknown(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	conn := o.connect()
	defer conn.Close()
	if _, err := conn.CreateSlot(t.Context(), o.slot, true); err != nil {
		t.Fatal(err)
	}
	if conn.ServerVersion() < 17 {
		return
	}
	var failover bool
	if err := o.db.QueryRow(t.Context(), `SELECT failover FROM pg_replication_slots WHERE slot_name = $1`, o.slot).Scan(&failover); err != nil {
		t.Fatal(err)
	}
	if !failover {
		t.Error("standbys do not get the slot")
	}
}

func TestInspectSlot_TellsWhatTheServerKnows(t *testing.T) {
	t.Parallel()
	o := newOutbox(t, eventsTable)
	if s := o.slotState(); s != (SlotState{}) {
		t.Errorf("a slot that is not there: %+v", s)
	}
	conn := o.connect()
	point := o.createSlot(conn).ConsistentPoint
	s := o.slotState()
	if !s.Exists || s.Plugin != plugin || "relay_"+s.Database != o.slot || s.Active || s.ActivePID != 0 ||
		s.ConfirmedFlush != point || s.RestartLSN == 0 || s.RestartLSN > point || s.WALStatus != "reserved" || s.Invalidated ||
		s.SafeWALSize != nil {
		t.Errorf("fresh slot: %+v", s)
	}
	o.exec(`INSERT INTO events (body) SELECT repeat('x', 1000) FROM generate_series(1, 1000)`)
	if s := o.slotState(); s.RetainedBytes < 1_000_000 {
		t.Errorf("%d bytes retained, want a megabyte and more", s.RetainedBytes)
	}
	o.run(conn, o.options(), 0)
	if s := o.slotState(); !s.Active || s.ActivePID == 0 {
		t.Errorf("slot in use: %+v", s)
	}
}

func TestInspectSlot_SeesALostSlot(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t, pgcluster.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1MB"}})
	at, err := cluster.CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	o := newOutboxAt(t, at, eventsTable).withSlot()
	if s := o.slotState(); s.SafeWALSize == nil || s.Invalidated {
		t.Fatalf("slot under a limit: %+v", s)
	}
	for i := range 20 {
		o.exec(fmt.Sprintf(`INSERT INTO events (body) VALUES ('%d')`, i))
		o.exec(`SELECT pg_switch_wal()`)
		o.exec(`CHECKPOINT`)
		if o.slotState().Invalidated {
			break
		}
	}
	if s := o.slotState(); !s.Exists || !s.Invalidated || s.WALStatus != "lost" {
		t.Fatalf("slot beyond the limit: %+v", s)
	}
	conn := o.connect()
	defer conn.Close()
	_, err = conn.Start(t.Context(), o.options(), 0, 0)
	if Classify(err) != health.SlotLost {
		t.Errorf("%v is %s, want %s", err, Classify(err), health.SlotLost)
	}
}
