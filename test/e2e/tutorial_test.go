package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tutorial is run as it is printed, against `relay dev`, with the ports that this run has.
func TestTutorial_WalksThroughAsPrinted(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "tutorial.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "<!-- A test runs this block. -->\n```bash\n")
	script, _, found := strings.Cut(rest, "\n```\n")
	if !found {
		t.Fatal("docs/tutorial.md has no block")
	}
	demo := spawn(t, relayBinary, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "GORACE=atexit_sleep_ms=0"}, "dev", "--every", "0s")
	defer func() { // it takes its PostgreSQL down
		demo.signal(syscall.SIGINT)
		<-demo.done
	}()
	line := regexp.MustCompile(`(?s)relay +http://(\S+)/metrics.*tenant API \S+ +\(Authorization: Bearer (\S+)\).*backoffice http://(\S+) .*receiver +(\S+) .* secret (\S+)\n`)
	var m []string
	eventuallyWithin(t, time.Minute, "the demonstration says where all is", func() bool {
		m = line.FindStringSubmatch(demo.log.String())
		return m != nil
	})
	eventuallyWithin(t, time.Minute, "its relay is ready", func() bool {
		return exec.CommandContext(t.Context(), "curl", "-sSf", "-o", os.DevNull, "http://"+m[1]+"/readyz").Run() == nil
	})
	script = strings.NewReplacer("localhost:8000", m[1], "localhost:8080", m[3]).Replace(script)
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Env = append(os.Environ(), "TOKEN="+m[2], "RECEIVER="+m[4], "SECRET="+m[5])
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nthe demonstration:\n%s", err, out, demo.log.String())
	}
	for want, n := range map[string]int{
		`"event":"payment.received"`: 5, `"event":"sales_order.cancelled","aggregate_type":"sales_order"`: 1, `"event":"customer.updated"`: 1,
		`"status":"DELIVERED"`: 5, `"status":"PENDING"`: 3, `"last_error":"connect`: 2, `"last_error":"http_4xx: HTTP 401 Unauthorized`: 1,
		`"reason":"connect"`: 3, `"number":1`: 2, `webhook_deliveries_total{event="payment.received",status="delivered",tenant_id="demo"} 3`: 1,
		`"action":"replay.create"`: 1, `"action":"subscription.create"`: 1, `"found":6,"events":{`: 2,
		`"state":"DONE","found":6,"queued":6,"skipped":0,"delivered":6`: 1, `"success_rate":1`: 1, `"amount":"1500.00"`: 1,
	} {
		if got := strings.Count(string(out), want); got < n {
			t.Errorf("%s stands there %d times, want at least %d", want, got, n)
		}
	}
	if t.Failed() {
		t.Logf("the tutorial printed:\n%s", out)
	}
}
