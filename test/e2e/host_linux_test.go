package e2e_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-relay/relay/test/output"
)

// startBy starts a relay through the shell, which prepares its surroundings; the command line ends with "exec RELAY run". Its
// log may go nowhere, so its address is decided before.
func (s *stage) startBy(prepare, redirect string, env ...string) *relay {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	r := spawn(s.t, "/bin/sh", append(append(s.env[:len(s.env):len(s.env)], "RELAY_HTTP_LISTEN="+addr), env...),
		"-c", fmt.Sprintf("%s exec %s run %s", prepare, relayBinary, redirect))
	r.addr = addr
	r.awaitReady()
	return r
}

func TestRelay_DeliversThoughItsLogCannotBeWritten(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	r := s.startBy("", "2>/dev/full", "RELAY_LOG_LEVEL=debug")
	l.write(2, 500)
	l.wait()
	l.settle(patience, all)
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

func TestRelay_DeliversThoughNobodyReadsItsLog(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	fifo := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	r := s.startBy("", "2>"+fifo)
	// One line in the log for each.
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'acme', 'unknown', g::text, 'unknown.type', '{}' FROM generate_series(1, 6000) g`)
	l.add(0, 3)
	l.settle(patience, all)
	eventually(t, "lines are dropped and counted", func() bool {
		_, metrics := r.get("/metrics")
		return strings.Contains(metrics, "\nrelay_log_dropped_total ") && !strings.Contains(metrics, "\nrelay_log_dropped_total 0\n")
	})
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	r.terminate()
}

// Go ends a program that writes to a standard stream whose reader is gone, with a signal that systemd takes for a clean end.
func TestRelay_OutlivesTheReaderOfItsLog(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	all := s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 10)
	fifo := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := s.startBy("", "2>"+fifo)
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	// One line in the log for each.
	s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
		SELECT 'acme', 'unknown', g::text, 'unknown.type', '{}' FROM generate_series(1, 20) g`)
	l.add(0, 3)
	l.settle(patience, all)
	eventually(t, "its lines are counted", func() bool { return r.metrics()["relay_log_dropped_total"] >= 20 })
	r.terminate()
	if repeats := l.check(nil, all); repeats != 0 {
		t.Errorf("%d repeats", repeats)
	}
	l.books(all)
}

// Any other command ends as programs do whose reader has seen enough: by the signal, without a word.
func TestCommand_EndsQuietlyWhenItsReaderHasSeenEnough(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), relayBinary, "openapi") // prints more than a pipe holds
	fault := output.Once("stderr of relay openapi")
	cmd.Stderr = fault
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	_ = out.Close()
	_ = cmd.Wait() // what the process was ended by says it all
	if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !state.Signaled() || state.Signal() != syscall.SIGPIPE {
		t.Errorf("the command ended with %s, want SIGPIPE", cmd.ProcessState)
	}
	if text := fault.Said(t); text != "" {
		t.Errorf("the command says %q", text)
	}
}

func TestRelay_LivesWithFewFileDescriptors(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	const endpoints = 100
	var subs []*subscription
	var ledgers []*ledger
	for i := range endpoints {
		tenant := fmt.Sprintf("t%03d", i)
		subs = append(subs, s.subscribe("of-"+tenant, tenant, "*"))
		s.recv.set("of-"+tenant, behaviour{status: http.StatusOK, delay: 200 * time.Millisecond})
		ledgers = append(ledgers, newLedger(s, tenant, 4))
	}
	r := s.startBy("ulimit -n 64;", "", "RELAY_DELIVER_CONCURRENCY=400")
	for _, l := range ledgers {
		for k := range l.keys {
			l.add(k, 1)
		}
	}
	for i, l := range ledgers {
		l.settle(patience, subs[i])
		if code := r.httpCode("/readyz"); code != http.StatusOK {
			t.Fatalf("/readyz answers %d", code)
		}
	}
	for i, l := range ledgers {
		repeats, complaints := compare(l.rows(), s.recv.arrivals(subs[i].name), nil, subs[i])
		if repeats != 0 || len(complaints) > 0 {
			t.Errorf("%s: %d repeats, %v", subs[i].name, repeats, complaints)
		}
	}
	r.terminate()
	if n := r.log.Count("too many open files"); n > 0 {
		t.Errorf("%d times there was no descriptor", n)
	}
}

func TestRelay_TakesReloadsUnderLoad(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.subscribe("all", "acme", "*")
	l := newLedger(s, "acme", 20)
	dir := t.TempDir()
	rewrite(t, filepath.Join(dir, "more.yaml"), `events:
  - name: invoice.issued
    description: An invoice was issued.
    schema: {type: object}
`)
	path := filepath.Join(dir, "relay.yaml")
	with := func(files string, window int) string {
		return fmt.Sprintf("version: 1\ncatalog:\n  files: [%s]\ndeliver:\n  window:\n    events: %d\n  endpoint_concurrency: %d\n",
			files, window, 2+window%7)
	}
	rewrite(t, path, with("more.yaml", 1000))
	r := s.start("RELAY_CONFIG=" + path)
	l.write(2, 4_000)
	const reloads = 30
	for i := range reloads {
		files := "more.yaml"
		if i%2 == 0 {
			files = "" // the type is taken away while its rows are on their way
		}
		s.exec(`INSERT INTO outbox.events (tenant_id, aggregate_type, aggregate_id, event_type, payload)
			SELECT 'acme', 'invoice', g::text, 'invoice.issued', '{}' FROM generate_series(1, 20) g`)
		rewrite(t, path, with(files, 100+i))
		r.signal(syscall.SIGHUP)
		eventually(t, "the reload is done", func() bool { return r.log.Count("configuration reloaded") == i+1 })
	}
	l.wait()
	eventually(t, "every row of the type arrives or is kept", func() bool {
		return s.recv.types("all")["invoice.issued"]+s.number("SELECT count(*) FROM relay.quarantine") == reloads*20
	})
	want := len(l.rows())
	eventually(t, "all other rows arrive", func() bool {
		types := s.recv.types("all")
		return types["sales_order.created"]+types["sales_order.confirmed"] == want
	})
	if n := s.number("SELECT count(*) FROM relay.quarantine WHERE reason <> 'unknown_type'"); n != 0 {
		t.Errorf("%d rows are quarantined for another reason", n)
	}
	r.terminate()
}
