//go:build matrix

package daemon_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

func TestFailover_WithTheSlotGoesOn(t *testing.T) {
	for _, major := range []int{17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			p := newPair(t, pgtest.BinDir(t, major), pgcluster.StandbyOptions{SyncSlots: true})
			d := p.start()
			p.orders(0, 50)
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 50 })
			p.audited(d)
			pgtest.WaitSlotSynced(t, p.primary, p.standby, p.database, p.slot())
			p.orders(50, 60)
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 60 })
			p.audited(d)
			pgtest.WaitCaughtUp(t, p.primary, p.standby)
			p.crash(p.primary)
			pgtest.Promote(t, p.standby)
			p.follow()
			p.orders(60, 90)
			p.eventuallyWithin(time.Minute, "the new rows arrive", func() bool { return p.rec.orderNumbers(t)[89] > 0 })
			p.audited(d)
			phantoms, repeats := p.mustHaveAll(p.rec)
			if len(phantoms) > 0 || repeats > 10 {
				t.Errorf("phantoms %v, %d repeats", phantoms, repeats)
			}
			if what := p.text("SELECT string_agg(kind || ': ' || detail, '; ') FROM relay.incidents"); !strings.HasPrefix(what, "failover: the server was promoted from timeline 1 to 2") || strings.Contains(what, ";") {
				t.Errorf("incidents: %s; want the failover alone", what)
			}
		})
	}
}

// A synchronised slot is temporary until the primary's slot has moved on, and a promotion
// drops it.
func TestFailover_WhileTheSlotIsTemporaryIsRescued(t *testing.T) {
	for _, major := range []int{17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			p := newPair(t, pgtest.BinDir(t, major), pgcluster.StandbyOptions{SyncSlots: true})
			d := p.start()
			p.orders(0, 30)
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 30 })
			p.audited(d)
			d.stop() // nobody moves the slot on any more
			p.orders(30, 40)
			pgtest.WaitCaughtUp(t, p.primary, p.standby)
			p.crash(p.primary)
			pgtest.Promote(t, p.standby)
			p.follow()
			kept := p.number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND NOT temporary", p.slot())
			p.orders(40, 60)
			d = p.start()
			p.eventuallyWithin(time.Minute, "the new rows arrive", func() bool { return len(p.rec.orderNumbers(t)) == 60 })
			p.audited(d)
			phantoms, repeats := p.mustHaveAll(p.rec)
			if len(phantoms) > 0 || repeats > 0 {
				t.Errorf("phantoms %v, %d repeats", phantoms, repeats)
			}
			rescues := p.number("SELECT count(*) FROM relay.incidents WHERE kind = 'rescue'")
			if kept+rescues != 1 {
				t.Errorf("%d slots came along, %d rescues", kept, rescues)
			}
			t.Logf("slots that came along: %d", kept)
		})
	}
}

func TestFailover_ToAStandbyWithoutSlotSyncIsRescuedOnEachMajor(t *testing.T) {
	for _, major := range []int{16, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			p := newPair(t, pgtest.BinDir(t, major), pgcluster.StandbyOptions{})
			d := p.start()
			p.orders(0, 40)
			p.eventually("rows arrive", func() bool { return len(p.rec.arrivals()) == 40 })
			p.audited(d)
			pgtest.WaitCaughtUp(t, p.primary, p.standby)
			p.crash(p.primary)
			pgtest.Promote(t, p.standby)
			p.follow()
			p.orders(40, 60)
			p.eventuallyWithin(time.Minute, "the new rows arrive", func() bool { return len(p.rec.orderNumbers(t)) == 60 })
			p.audited(d)
			if phantoms, repeats := p.mustHaveAll(p.rec); len(phantoms) > 0 || repeats > 0 {
				t.Errorf("phantoms %v, %d repeats", phantoms, repeats)
			}
		})
	}
}
