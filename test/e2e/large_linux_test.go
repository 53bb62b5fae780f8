package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-relay/relay/test/process"
)

// rowsVariable is how many rows the large transaction has.
const rowsVariable = "RELAY_E2E_ROWS"

func TestRelay_TakesALargeTransactionInBoundedMemory(t *testing.T) {
	rows := 1_000_000
	if text := os.Getenv(rowsVariable); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1000 {
			t.Fatalf("%s: %q is no number of rows", rowsVariable, text)
		}
		rows = n
	}
	t.Parallel()
	// The race detector multiplies memory: this is the binary as it is shipped.
	binary := filepath.Join(buildDir, "relay-static")
	if err := process.Build(binary, []string{"CGO_ENABLED=0"}, "-trimpath"); err != nil {
		t.Fatal(err)
	}
	s := newStage(t)
	wanted := s.subscribe("wanted", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := spawn(t, binary, s.env, "run")
	r.awaitListening()
	r.awaitReady()

	// Of each thousand rows ten belong to a tenant with a subscription.
	tx, err := s.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	for i := range rows / 1000 {
		if _, err := tx.Exec(t.Context(), `INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			SELECT 'silent', 'sales_order', g::text, 'sales_order.cancelled',
			       json_build_object('order_id', g::text, 'order_number', g::text, 'reason', repeat('x', 200))
			  FROM generate_series(1, 990) g`); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), emit, l.tenant, l.keys[i%len(l.keys)], 10, 200); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	committed := time.Now()
	l.add(0, 1) // the transaction after it
	l.settle(time.Duration(rows/5_000)*time.Second+time.Minute, wanted)
	peak := peakMemory(t, r.pid)
	t.Logf("%d rows in one transaction: all arrived %s after the commit, peak memory %d MiB",
		rows, time.Since(committed).Round(time.Millisecond), peak>>20)
	if peak > 256<<20 {
		t.Errorf("the relay took %d MiB", peak>>20)
	}
	if repeats := l.check(nil, wanted); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

// peakMemory is the largest resident size that a process has had, in bytes.
func peakMemory(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
