package deliver

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// TestNumbers_KnowWhatIsOnRecord holds numbers against a set, in random order.
func TestNumbers_KnowWhatIsOnRecord(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 7))
		n, set := numbers{}, make(map[int64]bool)
		for range 300 {
			v := 1 + r.Int64N(200)
			n.add(v, time.Time{})
			set[v] = true
			whole := int64(0)
			for set[whole+1] {
				whole++
			}
			var ahead []string
			for v := whole + 1; v <= 201; v++ {
				if set[v] && !set[v-1] {
					to := v
					for set[to+1] {
						to++
					}
					ahead = append(ahead, fmt.Sprintf("[%d,%d]", v, to))
				}
			}
			if want := "{" + strings.Join(ahead, ",") + "}"; n.whole != whole || n.multirange() != want {
				t.Fatalf("seed %d: %d %s, want %d %s", seed, n.whole, n.multirange(), whole, want)
			}
		}
		// What a new leader gives out is what is missing, and then what follows.
		p, ep := &Dispatcher{}, &Endpoint{lanes: laneSet{given: n.whole, taken: slices.Clone(n.ahead)}}
		given := make(map[int64]bool)
		for range 300 {
			v := p.nextNumber(ep)
			if set[v] || given[v] || v <= n.whole {
				t.Fatalf("seed %d: %d is given out twice", seed, v)
			}
			given[v] = true
		}
		for v := int64(1); v <= 250; v++ {
			if !set[v] && !given[v] {
				t.Fatalf("seed %d: %d is never given out", seed, v)
			}
		}
	}
}

// TestAfter_FindsEveryNumberThatIsOnRecord writes deliveries whose commit times are out of order as they come, some of them late by
// hours, one after another as a rescue brings them, takes some away as retention does, and pages through what is left.
func TestAfter_FindsEveryNumberThatIsOnRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sub, other := w.subscribe("a.test"), w.subscribe("b.test")
	r := rand.New(rand.NewPCG(3, 1)) //nolint:gosec // a test
	begin := time.Now().Add(-48 * time.Hour).Truncate(time.Millisecond)
	const n = 3000
	there, late, parked := make(map[int64]bool), 0, 0
	p := &Dispatcher{}
	for _, id := range []uuid.UUID{sub, other} {
		ep := &Endpoint{id: id, lanes: newLaneSet()}
		batch := &pgx.Batch{}
		for i := range n {
			at := begin.Add(time.Duration(i)*200*time.Millisecond + time.Duration(r.IntN(4500))*time.Millisecond)
			if i >= 1000 && i < 1400 || r.IntN(40) == 0 {
				at = begin.Add(time.Duration(r.IntN(i+1)) * 100 * time.Millisecond)
			}
			f := &Flight{EventID: uuid.New(), CommitTime: at, CommitLSN: uint64(i + 1)}
			d := &Delivery{id: deliveryID(f, id), flight: f, ep: ep}
			p.number(d)
			var mark *int64
			if d.mark != 0 {
				mark = &d.mark
			}
			if d.mark < 0 {
				late++
			}
			gone := at.Before(begin.Add(100*time.Second)) && i < 1000 || i >= 2000 && i < 2300 || i >= 2890 && i < 2960 // by retention, and for whatever reason
			switch {
			case gone:
				continue
			case r.IntN(50) == 0:
				parked++
				batch.Queue(`WITH b AS (INSERT INTO relay.bodies (commit_lsn, event_id, tenant_id, event_type, aggregate_type, aggregate_id, committed_at, body)
					VALUES ('0/1'::pg_lsn + $2, $1, 'acme', 'x', 'y', 'z', $3, '{}'))
					INSERT INTO relay.parked (subscription_id, commit_lsn, row_index, event_id, id, lane, created_at, sequence, mark)
					VALUES ($4, '0/1'::pg_lsn + $2, 0, $1, $5, $2, $3, $6, $7)`, f.EventID, i, at, id, d.id, d.number, mark)
			default:
				batch.Queue(`INSERT INTO relay.deliveries (id, created_at, tenant_id, subscription_id, event_id, event_type, aggregate_type, aggregate_id,
					commit_lsn, row_index, status, attempts, ended_at, sequence, mark)
					VALUES ($1, $2, 'acme', $3, $4, 'x', 'y', 'z', '0/1', 0, 'DELIVERED', 1, now(), $5, $6)`, d.id, at, id, f.EventID, d.number, mark)
			}
			if id == sub {
				there[d.number] = true
			}
		}
		batch.Queue("INSERT INTO relay.sequences VALUES ($1, $2, '{}', now())", id, n)
		if err := w.pool.SendBatch(t.Context(), batch).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if late < 500 || parked < 50 || len(there) < 1500 || len(there) > 2500 {
		t.Fatalf("%d are late, %d wait, %d are on record: this shows little", late, parked, len(there))
	}
	records := Records{DB: w.pool}.Of("acme")
	for _, many := range []int{3, 7, 64, 200} {
		found, calls := make(map[int64]bool), 0
		for after := int64(0); after < n; calls++ {
			list, last, watermark, err := records.After(t.Context(), sub, after, many)
			if err != nil {
				t.Fatal(err)
			}
			if last <= after || watermark != n || len(list) > many {
				t.Fatalf("after %d: looked up to %d of %d, %d found", after, last, watermark, len(list))
			}
			before := after
			for i := range list {
				v := *list[i].Sequence
				if v <= before || v > last || list[i].SubscriptionID != sub {
					t.Fatalf("after %d: number %d of %s behind %d, up to %d", after, v, list[i].SubscriptionID, before, last)
				}
				found[v], before = true, v
			}
			after = last
		}
		if !maps.Equal(found, there) {
			for v := int64(1); v <= n; v++ {
				if found[v] != there[v] {
					t.Fatalf("%d at a time: number %d is found: %v, is there: %v; %d and %d in all", many, v, found[v], there[v], len(found), len(there))
				}
			}
		}
		if calls > n/many+2 || many == 7 && calls > (n-200)/many {
			t.Errorf("%d at a time: %d calls", many, calls)
		}
	}
	if list, _, _, err := (Records{DB: w.pool}).Of("globex").After(t.Context(), sub, 0, 100); err != nil || len(list) != 0 {
		t.Errorf("another tenant sees %d, %v", len(list), err)
	}
}
