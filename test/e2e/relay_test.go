package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-relay/relay/test/output"
	"github.com/outbox-relay/relay/test/process"
)

// relay is one process of the binary under test.
type relay struct {
	t    testing.TB
	pid  int
	addr string // of health, status and metrics
	log  *output.Buffer
	done chan struct{} // closed when the process is reaped
	code int           // exit code, -1 after a signal; read after done
}

// spawn starts a binary; the process ends with the test.
func spawn(t testing.TB, binary string, env []string, args ...string) *relay {
	t.Helper()
	r := &relay{t: t, log: output.New(t, "the relay"), done: make(chan struct{})}
	p, err := process.Start(binary, env, r.log, args...)
	if err != nil {
		t.Fatal(err)
	}
	r.pid = p.PID
	go func() {
		r.code = p.Code()
		close(r.done)
	}()
	t.Cleanup(r.cleanUp)
	return r
}

func (r *relay) cleanUp() {
	r.kill()
	text := r.log.String()
	for _, bad := range []string{"DATA RACE", "panic: ", "panic while mapping"} {
		if strings.Contains(text, bad) {
			r.t.Errorf("%q in the output of the relay", bad)
		}
	}
	if r.t.Failed() {
		const most = 40 << 10
		if len(text) > most {
			text = text[:most/4] + "\n[...]\n" + text[len(text)-3*most/4:]
		}
		r.t.Logf("relay %d:\n%s", r.pid, text)
	}
}

// kill ends the process as a crash does.
func (r *relay) kill() {
	_ = syscall.Kill(-r.pid, syscall.SIGKILL)
	<-r.done
}

func (r *relay) signal(s syscall.Signal) {
	r.t.Helper()
	if err := syscall.Kill(r.pid, s); err != nil {
		r.t.Fatal(err)
	}
}

// terminate asks the process to stop and expects exit code 0.
func (r *relay) terminate() {
	r.t.Helper()
	began := time.Now()
	r.signal(syscall.SIGTERM)
	r.awaitExit(0)
	r.t.Logf("the relay stopped in %s", time.Since(began).Round(time.Millisecond))
}

func (r *relay) awaitExit(code int) {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatal("the relay did not stop")
	}
	if r.code != code {
		r.t.Fatalf("the relay ended with code %d, want %d", r.code, code)
	}
}

func (r *relay) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

var listenLine = regexp.MustCompile(`"msg":"relay starts".*"http":"([^"]+)"`)

// awaitListening waits until the process serves its state.
func (r *relay) awaitListening() {
	r.t.Helper()
	eventually(r.t, "the relay says where it listens", func() bool {
		if r.ended() {
			r.t.Fatalf("the relay ended with code %d", r.code)
		}
		m := listenLine.FindStringSubmatch(r.log.String())
		if m == nil {
			return false
		}
		r.addr = m[1]
		return true
	})
}

func (r *relay) awaitReady() {
	r.t.Helper()
	eventually(r.t, "the relay is ready", func() bool { return r.httpCode("/readyz") == http.StatusOK })
}

// get returns the answer of the relay; code 0 when there is none.
func (r *relay) get(path string) (code int, body string) {
	resp, err := probe.Get("http://" + r.addr + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	output.Check(r.t, path, string(text))
	return resp.StatusCode, string(text)
}

func (r *relay) httpCode(path string) int {
	code, _ := r.get(path)
	return code
}

var probe = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// state is the daemon's state by its own account.
func (r *relay) state() string {
	var s struct {
		State string `json:"state"`
	}
	_, body := r.get("/status")
	_ = json.Unmarshal([]byte(body), &s)
	return s.State
}

// eventually waits for a condition.
// patience is how long a condition is waited for: it ends a test that would hang, and says nothing of speed.
const patience = 2 * time.Minute

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, f)
}

func eventuallyWithin(t testing.TB, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
