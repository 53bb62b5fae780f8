package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// gap is what stands in the table when the relay finds that its slot is gone.
type gap struct {
	name     string
	recorded float64 // share of the rows that were delivered, and are on record, before the slot was lost
	// markers is the marker interval of the relay that delivers those: no marker may prove them, or they would be none of
	// the gap.
	markers time.Duration
	scanned float64 // goal in rows a second, 0 for none
}

var gaps = []gap{
	// What the reading costs. It takes a marker of its own before, so that what is on record is what one marker
	// interval leaves.
	{name: "1 % missing", recorded: 0.99, markers: 40 * time.Second, scanned: 20_000},
	// What the deliveries cost.
	{name: "all missing"},
}

// rescued is what one rescue showed.
type rescued struct {
	ready    time.Duration // from the start of the process until it was ready
	received time.Duration // until the last row that was missing had been received
	scan     float64       // rows a second that were read from the table
	read     int           // rows
	missing  int           // of them, those that had not been delivered
	repeats  int
	commit   time.Duration // longest of a writer meanwhile
	peak     float64       // MiB
}

// rescue measures how fast a relay makes good for a slot that was lost while it was stopped.
func (b *bench) rescue(ctx context.Context, _ []path) error {
	for _, g := range gaps {
		r, err := b.rescueOnce(ctx, g)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		name := "rescue, " + g.name + ": "
		b.report.add(figure{Name: name + "rows in the gap", Relay: float64(r.read)})
		b.report.add(figure{Name: name + "of them not delivered before", Relay: float64(r.missing)})
		speed := figure{Name: name + "speed", Unit: "rows/s", Relay: r.scan}
		if g.scanned > 0 {
			speed = speed.noLess(g.scanned)
		}
		b.report.add(speed)
		b.report.add(figure{Name: name + "start to ready", Unit: "s", Relay: r.ready.Seconds()})
		b.report.add(figure{Name: name + "start to the last missing row", Unit: "s", Relay: r.received.Seconds()})
		b.report.add(figure{Name: name + "repeats", Unit: "events", Relay: float64(r.repeats)}.atMost(0))
		b.report.add(figure{Name: name + "longest commit meanwhile", Unit: "ms", Relay: r.commit.Seconds() * 1000}.atMost(1000))
		b.report.add(figure{Name: name + "peak RSS", Unit: "MiB", Relay: r.peak})
	}
	return nil
}

func (b *bench) rescueOnce(ctx context.Context, g gap) (r rescued, err error) {
	if err := b.freshRelay(ctx); err != nil {
		return r, err
	}
	if err := b.deliverBefore(ctx, g); err != nil {
		return r, err
	}
	if err := b.dropSlot(ctx); err != nil {
		return r, err
	}
	url := b.cluster.URL("relay")
	n := b.gap - b.recordedRows(g)
	say("rescue, %s: writing %d rows without a slot ...", g.name, n)
	mark, err := b.backlog(ctx, url, n)
	if err != nil {
		return r, err
	}
	missing, err := idsSince(ctx, url, mark)
	if err != nil {
		return r, err
	}
	r.missing = len(missing)
	if _, err := b.receiver.take(ctx); err != nil {
		return r, err
	}

	say("rescue, %s: starting the relay ...", g.name)
	began := time.Now()
	proc, err := b.spawnRelay("")
	if err != nil {
		return r, err
	}
	stop := sync.OnceValue(proc.stop)
	defer func() { err = errors.Join(err, stop()) }()
	recorded, err := proc.record(b.profile, "rescue-"+strings.Fields(g.name)[0])
	if err != nil {
		return r, err
	}
	// Somebody goes on writing meanwhile, a little: the making of a slot and the reading must not hold him up.
	writing, enough := context.WithCancel(ctx)
	defer enough()
	written := make(chan trickle, 1)
	go func() { written <- b.write(writing) }()
	err = b.ready(ctx, proc)
	r.ready = time.Since(began)
	if err == nil {
		err = b.rescueEnded(ctx, proc, &r)
	}
	enough()
	w := <-written
	if err := errors.Join(err, w.err, recorded()); err != nil {
		return r, err
	}
	if err := b.settled(ctx, proc); err != nil {
		return r, err
	}
	_, r.peak = proc.memory()
	r.commit = w.longest
	got, err := b.receiver.await(ctx, proc, len(missing)+len(w.ids))
	if err != nil {
		return r, err
	}
	last, lost := int64(0), 0
	for _, id := range slices.Concat(missing, w.ids) {
		if _, ok := got.First[id]; !ok {
			lost++
		}
	}
	if lost > 0 {
		return r, fmt.Errorf("%d of %d rows did not arrive", lost, len(missing)+len(w.ids))
	}
	for _, id := range missing {
		last = max(last, got.First[id])
	}
	r.received = time.Unix(0, last).Sub(began)
	// What had been delivered before is forgotten by the receiver, and comes as if it were new.
	r.repeats = got.Repeats + len(got.First) - len(missing) - len(w.ids)
	return r, nil
}

func (b *bench) recordedRows(g gap) int { return int(float64(b.gap) * g.recorded) }

// deliverBefore lets a relay run as usual, and deliver what is to be on record when the slot is lost.
func (b *bench) deliverBefore(ctx context.Context, g gap) (err error) {
	url := b.cluster.URL("relay")
	settings := ""
	if g.markers > 0 {
		settings = "cdc:\n  marker_interval: " + g.markers.String() + "\n"
	}
	proc, err := b.spawnRelay(settings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proc.stop()) }()
	if err := b.ready(ctx, proc); err != nil {
		return err
	}
	if _, err := b.receiver.take(ctx); err != nil {
		return err
	}
	proved, err := b.provedAt(ctx)
	if err != nil {
		return err
	}
	// A few rows as a cause for a marker.
	warm, _, err := b.load(ctx, url, warmUp)
	if err != nil {
		return err
	}
	if _, err := b.receiver.await(ctx, proc, len(warm)); err != nil || g.recorded == 0 {
		return err
	}
	say("rescue, %s: waiting for a marker ...", g.name)
	err = poll(ctx, 50*time.Millisecond, 3*g.markers, "a marker", proc, func() (bool, error) {
		now, err := b.provedAt(ctx)
		return now.After(proved), err
	})
	if err != nil {
		return err
	}
	n := b.recordedRows(g)
	say("rescue, %s: delivering %d rows ...", g.name, n)
	if _, err := b.backlog(ctx, url, n); err != nil {
		return err
	}
	if _, err := b.receiver.await(ctx, proc, n); err != nil {
		return err
	}
	return b.settled(ctx, proc)
}

// dropSlot drops the relay's slot, as soon as the server has noticed that the relay is gone.
func (b *bench) dropSlot(ctx context.Context) error {
	err := with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		return poll(ctx, 20*time.Millisecond, 30*time.Second, "the slot to be free", nil, func() (bool, error) {
			done, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'relay' AND NOT active")
			return done.RowsAffected() == 1, err
		})
	})
	if err != nil {
		return fmt.Errorf("drop the slot: %w", err)
	}
	return nil
}

// provedAt is when the last marker was found in order.
func (b *bench) provedAt(ctx context.Context) (at time.Time, err error) {
	err = with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT coalesce(marker_at, to_timestamp(0)) FROM relay.progress").Scan(&at)
	})
	if err != nil {
		return at, fmt.Errorf("read the last marker: %w", err)
	}
	return at, nil
}

// idsSince are the rows that were written since mark.
func idsSince(ctx context.Context, url string, mark time.Time) (ids []string, err error) {
	err = with(ctx, url, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT id::text FROM outbox.events WHERE created_at >= $1", mark)
		if err != nil {
			return err
		}
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read ids: %w", err)
	}
	return ids, nil
}

// rescueEnded waits until the rescue has read the gap and all of it is recorded.
func (b *bench) rescueEnded(ctx context.Context, proc *process, r *rescued) error {
	return with(ctx, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		return poll(ctx, 50*time.Millisecond, 10*time.Minute, "the end of the rescue", proc, func() (bool, error) {
			var took *float64
			err := conn.QueryRow(ctx, `SELECT extract(epoch FROM ended_at - began_at)::float8, rows_read FROM relay.incidents
				WHERE kind = 'rescue' ORDER BY id DESC LIMIT 1`).Scan(&took, &r.read)
			if errors.Is(err, pgx.ErrNoRows) || err == nil && took == nil {
				return false, nil
			}
			if err != nil {
				return false, fmt.Errorf("look at the rescue: %w", err)
			}
			r.scan = float64(r.read) / *took
			return true, nil
		})
	})
}

// trickle is what one writer wrote.
type trickle struct {
	ids     []string
	longest time.Duration // of an INSERT with its COMMIT
	err     error
}

// trickleEvery is the pause between two of its rows.
const trickleEvery = 20 * time.Millisecond

// write commits a row every now and then until ctx ends.
func (b *bench) write(ctx context.Context) (t trickle) {
	whole := context.WithoutCancel(ctx) // a row that is begun is counted
	t.err = with(whole, b.cluster.URL("relay"), func(conn *pgx.Conn) error {
		insert := fmt.Sprintf(insertEvent, "$1::int") + " RETURNING id::text"
		for i := 0; ctx.Err() == nil; i++ {
			began := time.Now()
			e, err := commitEvent(whole, conn, insert, i)
			if err != nil {
				return err
			}
			t.longest = max(t.longest, time.Since(began))
			t.ids = append(t.ids, e.id)
			_ = pause(ctx, trickleEvery)
		}
		return nil
	})
	return t
}
