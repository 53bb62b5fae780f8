package audit

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-relay/relay/internal/migrate"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
)

// A block range that has no summary is read whole by every audit. A table that is only inserted into is vacuumed
// seldom, so the index must not wait for that.
func TestCompare_ReadsAFreshlyWrittenPartitionInPart(t *testing.T) {
	t.Parallel()
	cluster := pgtest.NewCluster(t)
	url, err := cluster.CreateDatabase(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, url: url, lsn: 100}
	f.conn = f.connect()
	for _, sql := range []string{"ALTER SYSTEM SET autovacuum_naptime = '1s'",
		"ALTER SYSTEM SET autovacuum_vacuum_insert_threshold = -1", "SELECT pg_reload_conf()"} {
		if _, err := f.conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	f.j = NewJournal(columns, f.snapshot(), nil)
	for range 20 {
		f.write(5_000, 0)
	}
	from := f.snapshot()
	f.write(10, 0)
	to := f.snapshot()
	var pages int
	if err := f.conn.QueryRow(t.Context(), "SELECT pg_relation_size('outbox.events_default') / 8192").Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := f.conn.Exec(t.Context(), "SET enable_seqscan = off"); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		var text string
		err := f.conn.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+events.sums(false),
			pgx.QueryExecModeSimpleProtocol, to.String(), from.String()).Scan(&text)
		if err != nil {
			t.Fatal(err)
		}
		var plan []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		if err := json.Unmarshal([]byte(text), &plan); err != nil {
			t.Fatal(err)
		}
		// The last range, which is not full yet, and what is still to be summarized.
		if read := plan[0].Plan.Hit + plan[0].Plan.Read; read < pages/4 {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("a window of 10 rows reads %d of %d pages", read, pages)
		}
		time.Sleep(200 * time.Millisecond)
	}
}
