package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/internal/pgcluster/pgtest"
	"github.com/outbox-relay/relay/test/output"
)

// The README and the tutorial are run as they are printed, in turns, on one machine: each twice, and the README while the
// demonstration of the tutorial is running; the SQL of the other pages, too. Only ports are replaced, for those that are free here; the same each time.
func TestPages_CanBePastedInAnyOrderTwice(t *testing.T) {
	t.Parallel()
	readme := newReadme(t)
	readme.paste()
	pages := []string{"docs/operations.md", "examples/backoffice/README.md", "docs/writers.md", "examples/writers/README.md"}
	for _, page := range pages {
		readme.pasteSQL(page)
	}

	demo := spawn(t, relayBinary, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "GORACE=atexit_sleep_ms=0"}, "dev", "--every", "0s")
	ended := sync.OnceFunc(func() { // it takes its PostgreSQL down
		demo.signal(syscall.SIGINT)
		<-demo.done
	})
	defer ended()
	line := regexp.MustCompile(`(?m)^  export (DEMO_RELAY=(http://\S+) DEMO_SHOP=http://\S+ DEMO_TOKEN=\S+ DEMO_RECEIVER=\S+ DEMO_SECRET=\S+)$`)
	var m []string
	eventually(t, "the demonstration says where all is", func() bool {
		m = line.FindStringSubmatch(demo.log.String())
		return m != nil
	})
	eventually(t, "its relay is ready", func() bool {
		return exec.CommandContext(t.Context(), "curl", "-sSf", "-o", os.DevNull, m[2]+"/readyz").Run() == nil
	})
	env := strings.Fields(m[1])
	first := tutorial(t, env, demo)
	for want, n := range map[string]int{
		`"event":"payment.received"`: 5, `"event":"sales_order.cancelled","aggregate_type":"sales_order"`: 1, `"event":"customer.updated"`: 1,
		`"status":"DELIVERED"`: 5, `"status":"PENDING"`: 3, `"last_error":"connect`: 2, `"last_error":"http_4xx: HTTP 401 Unauthorized`: 1,
		`"reason":"connect"`: 3, `"number":1`: 2, `webhook_deliveries_total{event="payment.received",status="delivered",tenant_id="demo"} 3`: 1,
		`"action":"replay.create"`: 1, `"action":"subscription.create"`: 1, `"found":6,"events":{`: 1,
		`"state":"DONE","found":6,"queued":6,"skipped":0,"delivered":6`: 1, `"success_rate":1`: 1, `"amount":"1500.00"`: 1,
	} {
		if got := strings.Count(first, want); got < n {
			t.Errorf("%s stands there %d times, want at least %d", want, got, n)
		}
	}
	if t.Failed() {
		t.Logf("the tutorial printed:\n%s", first)
	}

	readme.paste()
	slices.Reverse(pages)
	for _, page := range pages {
		readme.pasteSQL(page)
	}
	second := tutorial(t, env, demo)
	for _, want := range []string{`"amount":"1500.00"`, `"state":"DONE","found":12,"queued":12,"skipped":0,"delivered":12`} {
		if !strings.Contains(second, want) {
			t.Errorf("%s is not there the second time:\n%s", want, second)
		}
	}
	ended()
	told := demo.log.String()
	if demo.code != 0 || !strings.Contains(told, "\n12 events committed, 12 arrived and verified, 0 repeats, 0 refused;") {
		t.Errorf("the demonstration ended with %d:\n%s", demo.code, told)
	}
	if got := strings.Count(told, " committed\n"); got != 12 {
		t.Errorf("12 rows are said to be committed %d times:\n%s", got, told)
	}
	if !strings.Contains(told, " arrived at a subscription of yours, signature verified") {
		t.Errorf("nothing arrived at the tutorial's subscriptions:\n%s", told)
	}
}

// tutorial runs the block of docs/tutorial.md with the variables that the demonstration printed.
func tutorial(t *testing.T, env []string, demo *relay) string {
	t.Helper()
	blocks := blocks(t, "docs/tutorial.md", "", "bash")
	if len(blocks) != 1 {
		t.Fatalf("docs/tutorial.md has %d blocks of bash", len(blocks))
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", blocks[0])
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nthe demonstration:\n%s", err, out, demo.log.String())
	}
	return string(out)
}

// blocks returns the blocks of some languages in a document, from below a heading to the next of its level. Without a heading,
// those of the whole document.
func blocks(t *testing.T, document, heading string, languages ...string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", document))
	if err != nil {
		t.Fatal(err)
	}
	part := string(text)
	if heading != "" {
		var found bool
		if _, part, found = strings.Cut(part, "\n"+heading+"\n"); !found {
			t.Fatalf("%s has no %q", document, heading)
		}
		part, _, _ = strings.Cut(part, "\n## ")
	}
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$").FindAllStringSubmatch(part, -1) {
		if slices.Contains(languages, m[1]) {
			found = append(found, m[2])
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s has no block of %q", document, languages)
	}
	return found
}

// readme is the README's way to a first webhook, on a server with an empty database app.
type readme struct {
	t       *testing.T
	cluster *pgcluster.Cluster
	dir     string
	script  string
	ports   []string // of its relay and its receiver
}

func newReadme(t *testing.T) *readme {
	t.Helper()
	for _, tool := range []string{"bash", "curl", "psql", "python3"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not in PATH; install it (Debian: apt-get install bash curl postgresql-client python3) and run again", tool)
		}
	}
	r := &readme{t: t, cluster: pgtest.NewCluster(t), dir: t.TempDir()}
	if _, err := r.cluster.CreateDatabase(t.Context(), "app"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(r.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	examples, err := filepath.Abs(filepath.Join("..", "..", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"bin/relay": relayBinary, "examples": examples} {
		if err := os.Symlink(to, filepath.Join(r.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.script = strings.Join(blocks(t, "README.md", "## With your own database", "sh"), "\n")
	replace := []string{"make build\n", "", "127.0.0.1:5432", fmt.Sprintf("127.0.0.1:%d", r.cluster.Port())}
	for _, port := range []string{"8001", "9000"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		free := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
		r.ports = append(r.ports, free)
		replace = append(replace, "127.0.0.1:"+port, "127.0.0.1:"+free, `"127.0.0.1", `+port, `"127.0.0.1", `+free)
	}
	if strings.Contains(r.script, "127.0.0.1:8000") || strings.Contains(r.script, "localhost:8000") {
		t.Fatal("the README uses port 8000, where the demonstration is")
	}
	r.script = strings.NewReplacer(replace...).Replace(r.script)
	return r
}

// paste runs all of it, and sees that its event came and that it stopped what it had started.
func (r *readme) paste() {
	r.t.Helper()
	out := output.New(r.t, "the README")
	cmd := exec.CommandContext(r.t.Context(), "bash", "-euo", "pipefail", "-c", r.script)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PGHOST=127.0.0.1", fmt.Sprintf("PGPORT=%d", r.cluster.Port()), "PGUSER=postgres",
		"GORACE=atexit_sleep_ms=0")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Minute
	// Run returns when what it started has closed the output, so a relay that is left running is seen.
	if err := cmd.Run(); err != nil {
		_ = cmd.Cancel()
		r.t.Fatalf("%v\n%s", err, out)
	}
	received, err := os.ReadFile(filepath.Join(r.dir, "received.txt"))
	if err != nil {
		r.t.Fatal(err)
	}
	if got := strings.Count(string(received), `genuine {"id":`); got == 0 || strings.Contains(string(received), "FORGED") {
		r.t.Errorf("the receiver got:\n%s", received)
	}
	if strings.Contains(out.String(), "ERROR") {
		r.t.Errorf("the README printed:\n%s", out)
	}
	for _, port := range r.ports {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			r.t.Fatalf("it left something running: %v", err)
		}
		_ = l.Close()
	}
}

// pasteSQL runs the SQL of a page in the README's database.
func (r *readme) pasteSQL(page string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "psql", "-d", "app", "-v", "ON_ERROR_STOP=1", "-f", "-")
	cmd.Env = append(os.Environ(), "PGHOST=127.0.0.1", fmt.Sprintf("PGPORT=%d", r.cluster.Port()), "PGUSER=postgres")
	cmd.Stdin = strings.NewReader(strings.Join(blocks(r.t, page, "", "sql"), "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Errorf("%s: %v\n%s", page, err, out)
	}
}
