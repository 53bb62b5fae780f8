//go:build matrix

package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/outbox-relay/relay/internal/pgcluster"
)

// A slot that is synchronised can be read after the promotion of the standby; one that is not (a slot without FAILOVER) is gone.
func TestWaitSlotSynced_MeansThatThePromotedStandbyHasTheSlot(t *testing.T) {
	for _, major := range []int{17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			primary := NewCluster(t, pgcluster.Options{BinDir: BinDir(t, major)})
			conn := mustConnect(t, primary.URL("postgres"))
			for _, sql := range []string{
				"CREATE PUBLICATION p FOR ALL TABLES",
				"SELECT pg_create_logical_replication_slot('kept', 'pgoutput', false, false, true)",
				"SELECT pg_create_logical_replication_slot('left', 'pgoutput')",
			} {
				if _, err := conn.Exec(deadline(t), sql); err != nil {
					t.Fatal(err)
				}
			}
			standby := NewStandby(t, primary, pgcluster.StandbyOptions{SyncSlots: true})
			confirm(t, primary.URL("postgres"), "kept")
			WaitSlotSynced(t, primary, standby, "postgres", "kept")
			WaitCaughtUp(t, primary, standby)
			if err := primary.Stop(deadline(t), pgcluster.Immediate); err != nil {
				t.Fatal(err)
			}
			Promote(t, standby)
			var slots string
			err := mustConnect(t, standby.URL("postgres")).QueryRow(deadline(t),
				"SELECT string_agg(slot_name, ',') FROM pg_replication_slots").Scan(&slots)
			if err != nil || slots != "kept" {
				t.Errorf("slots on the new primary: %q, %v; want kept", slots, err)
			}
		})
	}
}

func TestBinDir_HasTheMajorThatItSays(t *testing.T) {
	for _, major := range []int{16, 17, 18} {
		if got := NewCluster(t, pgcluster.Options{BinDir: BinDir(t, major)}).Version(); got != major {
			t.Errorf("version %d in the folder of %d", got, major)
		}
	}
}

// confirm consumes a slot and confirms all that it gets, until the test or the server ends.
func confirm(t *testing.T, url, slot string) {
	t.Helper()
	conn, err := pgconn.Connect(deadline(t), url+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	err = pglogrepl.StartReplication(deadline(t), conn, slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", "publication_names 'p'", "messages 'true'"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
		_ = conn.Close(context.Background()) // the server may have gone first
	})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			soon, stop := context.WithTimeout(ctx, 50*time.Millisecond)
			msg, err := conn.ReceiveMessage(soon)
			stop()
			if err != nil && !pgconn.Timeout(err) {
				return
			}
			data, ok := msg.(*pgproto3.CopyData)
			if !ok || data.Data[0] != pglogrepl.PrimaryKeepaliveMessageByteID {
				continue
			}
			alive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data.Data[1:])
			if err != nil {
				return
			}
			err = pglogrepl.SendStandbyStatusUpdate(ctx, conn, pglogrepl.StandbyStatusUpdate{WALWritePosition: alive.ServerWALEnd})
			if err != nil {
				return
			}
		}
	}()
}
