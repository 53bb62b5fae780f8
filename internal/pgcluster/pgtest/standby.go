package pgtest

import (
	"context"
	"testing"

	"github.com/outbox-relay/relay/internal/pgcluster"
)

// NewStandby makes a streaming standby of a running server, closed when the test ends. A test of a failover is
//
//	primary := pgtest.NewCluster(t, pgcluster.Options{BinDir: pgtest.BinDir(t, 17)})
//	standby := pgtest.NewStandby(t, primary, pgcluster.StandbyOptions{SyncSlots: true})
//	url := pgcluster.PairURL("app", primary, standby) // leads to the one that takes writes
//	... a relay streams from url, writers commit ...
//	pgtest.WaitSlotSynced(t, primary, standby, "app", "relay") // leave it out: the slot may be lost
//	pgtest.WaitCaughtUp(t, primary, standby)                   // leave it out: a tail may be lost
//	primary.Stop(ctx, pgcluster.Immediate)
//	pgtest.Promote(t, standby)
//
// A tail that is lost for certain: stop the standby, commit, stop the primary, start the standby, promote it. The old primary
// comes back, beside the new one, by primary.Start.
func NewStandby(t testing.TB, primary *pgcluster.Cluster, o pgcluster.StandbyOptions) *pgcluster.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	s, err := primary.NewStandby(ctx, o)
	if err != nil {
		t.Fatalf("%v\nlog of the primary:\n%s", err, primary.LogTail(20))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the standby:\n%s", s.LogTail(40))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Promote makes a standby a primary; when it returns the standby takes writes.
func Promote(t testing.TB, standby *pgcluster.Cluster) {
	t.Helper()
	do(t, standby.Promote)
}

// WaitCaughtUp returns when the standby has replayed what the primary has written.
func WaitCaughtUp(t testing.TB, primary, standby *pgcluster.Cluster) {
	t.Helper()
	do(t, func(ctx context.Context) error { return standby.WaitCaughtUp(ctx, primary) })
}

// WaitSlotSynced returns when the standby's copy of a failover slot would survive a promotion. A consumer that confirms must
// be on the slot meanwhile.
func WaitSlotSynced(t testing.TB, primary, standby *pgcluster.Cluster, database, slot string) {
	t.Helper()
	do(t, func(ctx context.Context) error { return standby.WaitSlotSynced(ctx, primary, database, slot) })
}

// Backup copies a server's data directory as it is now.
func Backup(t testing.TB, c *pgcluster.Cluster) *pgcluster.Backup {
	t.Helper()
	var b *pgcluster.Backup
	do(t, func(ctx context.Context) (err error) { b, err = c.Backup(ctx); return err })
	return b
}

// Restore puts a backup in the place of the server's data and starts it, on the same port.
func Restore(t testing.TB, c *pgcluster.Cluster, b *pgcluster.Backup, o pgcluster.RestoreOptions) {
	t.Helper()
	do(t, func(ctx context.Context) error { return c.Restore(ctx, b, o) })
}

func do(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}
