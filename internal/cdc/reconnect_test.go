package cdc

import (
	"runtime"
	"testing"
	"time"
)

func TestStream_LeavesNothingBehindAfterAThousandConnections(t *testing.T) {
	o := newOutbox(t, eventsTable).withSlot()
	o.insert("one")
	before := runtime.NumGoroutine()
	for i := range 1000 {
		conn, err := Connect(t.Context(), o.url, "cdc-test")
		if err != nil {
			t.Fatal(err)
		}
		c := o.run(conn, o.options(), 0)
		c.wants("one") // never confirmed: it comes each time
		if i%2 == 0 {  // a break, and an orderly end
			err = c.stop(0)
		} else {
			err = c.stop(waitLimit)
		}
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	var sessions int
	for deadline := time.Now().Add(waitLimit); ; {
		err := o.db.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'cdc-test'").Scan(&sessions)
		if err != nil {
			t.Fatal(err)
		}
		if n := runtime.NumGoroutine(); sessions == 0 && n <= before {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before; %d sessions on the server", n, before, sessions)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
