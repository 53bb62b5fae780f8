package pgcluster

import (
	"strings"
	"testing"
)

func mustStandby(t *testing.T, primary *Cluster, o StandbyOptions) *Cluster {
	t.Helper()
	s, err := primary.NewStandby(deadline(t), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, primary.LogTail(20))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the standby:\n%s", s.LogTail(30))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStandby_HasWhatThePrimaryHasAndTakesOver(t *testing.T) {
	t.Parallel()
	primary := mustStart(t, Options{Settings: map[string]string{"max_connections": "60"}})
	conn := mustConnect(t, primary.URL("postgres"))
	mustExec(t, conn, "CREATE TABLE t AS SELECT generate_series(1, 50000) n")
	mustExec(t, conn, "SELECT pg_create_logical_replication_slot('its_own', 'pgoutput')")
	standby := mustStandby(t, primary, StandbyOptions{})

	mustExec(t, conn, "INSERT INTO t VALUES (0)")
	if err := standby.WaitCaughtUp(deadline(t), primary); err != nil {
		t.Fatal(err)
	}
	reader := mustConnect(t, standby.URL("postgres"))
	if n := mustQuery(t, reader, "SELECT count(*)::text FROM t"); n != "50001" {
		t.Errorf("%s rows on the standby", n)
	}
	if got := mustQuery(t, reader, "SHOW max_connections"); got != "60" {
		t.Errorf("max_connections %s on the standby", got)
	}
	if n := mustQuery(t, reader, "SELECT count(*)::text FROM pg_replication_slots"); n != "0" {
		t.Errorf("%s slots of the primary on the standby", n)
	}
	if _, err := reader.Exec(deadline(t), "INSERT INTO t VALUES (1)"); err == nil || !strings.Contains(err.Error(), "25006") {
		t.Errorf("a write on the standby: %v", err)
	}
	if got := mustQuery(t, mustConnect(t, PairURL("postgres", standby, primary)), "SELECT pg_is_in_recovery()::text"); got != "false" {
		t.Error("the URL of the pair leads to the standby")
	}

	if err := primary.Stop(deadline(t), Immediate); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(deadline(t)); err != nil {
		t.Fatal(err)
	}
	promoted := mustConnect(t, PairURL("postgres", primary, standby))
	mustExec(t, promoted, "INSERT INTO t VALUES (1)")
	if got := mustQuery(t, promoted, "SELECT timeline_id::text FROM pg_control_checkpoint()"); got != "1" && got != "2" {
		t.Errorf("timeline %s", got)
	}
	mustExec(t, promoted, "CHECKPOINT")
	if got := mustQuery(t, promoted, "SELECT timeline_id::text FROM pg_control_checkpoint()"); got != "2" {
		t.Errorf("timeline %s after the promotion", got)
	}
	if err := primary.Start(deadline(t)); err != nil {
		t.Fatal("the old primary does not come back:", err)
	}
}

func TestStandby_ThatWasStoppedLosesTheTailOfADeadPrimary(t *testing.T) {
	t.Parallel()
	primary := mustStart(t, Options{})
	conn := mustConnect(t, primary.URL("postgres"))
	mustExec(t, conn, "CREATE TABLE t (n int)")
	standby := mustStandby(t, primary, StandbyOptions{Name: "late"})
	mustExec(t, conn, "INSERT INTO t VALUES (1)")
	if err := standby.WaitCaughtUp(deadline(t), primary); err != nil {
		t.Fatal(err)
	}
	if err := standby.Stop(deadline(t), Fast); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "INSERT INTO t VALUES (2)")
	if err := primary.Stop(deadline(t), Immediate); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(deadline(t)); err != nil {
		t.Fatal(err)
	}
	if got := mustQuery(t, mustConnect(t, standby.URL("postgres")), "SELECT string_agg(n::text, ',') FROM t"); got != "1" {
		t.Errorf("rows %s, want the first alone", got)
	}
}

func TestStandby_RefusesToSynchroniseSlotsBefore17(t *testing.T) {
	t.Parallel()
	c := &Cluster{major: 16}
	if _, err := c.NewStandby(deadline(t), StandbyOptions{SyncSlots: true}); err == nil || !strings.Contains(err.Error(), "17 or later") {
		t.Errorf("error is %v", err)
	}
}
