package pgcluster

import (
	"fmt"
	"testing"
)

func TestRestore_BringsBackTheMomentOfTheBackup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		stopped  bool
		options  RestoreOptions
		slots    string
		timeline string
	}{
		{name: "of a running server", slots: "0", timeline: "1"},
		{name: "of a running server with its slots", options: RestoreOptions{Slots: true}, slots: "1", timeline: "1"},
		{name: "of a stopped server", stopped: true, options: RestoreOptions{Slots: true}, slots: "1", timeline: "1"},
		{name: "on a new timeline", options: RestoreOptions{NewTimeline: true}, slots: "0", timeline: "2"},
		{name: "of a stopped server on a new timeline", stopped: true, options: RestoreOptions{NewTimeline: true}, slots: "0", timeline: "2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := mustStart(t, Options{})
			conn := mustConnect(t, s.URL("postgres"))
			mustExec(t, conn, "CREATE TABLE t AS SELECT generate_series(1, 20000) n")
			mustExec(t, conn, "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')")
			system := mustQuery(t, conn, "SELECT system_identifier::text FROM pg_control_system()")
			port := s.Port()
			if c.stopped {
				if err := s.Stop(deadline(t), Fast); err != nil {
					t.Fatal(err)
				}
			}
			backup, err := s.Backup(deadline(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start(deadline(t)); err != nil {
				t.Fatal(err)
			}
			later := mustConnect(t, s.URL("postgres"))
			mustExec(t, later, "INSERT INTO t VALUES (0)")
			for range 2 { // it can be restored again
				if err := s.Restore(deadline(t), backup, c.options); err != nil {
					t.Fatal(err)
				}
			}
			if s.Port() != port {
				t.Errorf("port %d, was %d", s.Port(), port)
			}
			now := mustConnect(t, s.URL("postgres"))
			mustExec(t, now, "CHECKPOINT")
			got := mustQuery(t, now, `SELECT format('%s rows, %s slots, timeline %s, system %s', (SELECT count(*) FROM t),
				(SELECT count(*) FROM pg_replication_slots), timeline_id, system_identifier)
				FROM pg_control_checkpoint(), pg_control_system()`)
			if want := fmt.Sprintf("20000 rows, %s slots, timeline %s, system %s", c.slots, c.timeline, system); got != want {
				t.Errorf("%s; want %s", got, want)
			}
		})
	}
}

func TestRestore_RefusesTheBackupOfAnother(t *testing.T) {
	t.Parallel()
	if err := (&Cluster{}).Restore(deadline(t), &Backup{of: &Cluster{}}, RestoreOptions{}); err == nil {
		t.Error("no error")
	}
}
