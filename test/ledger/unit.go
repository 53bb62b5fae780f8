package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/outbox-relay/relay/test/faultproxy"
	"github.com/outbox-relay/relay/test/ledger/history"
	"github.com/outbox-relay/relay/test/process"
)

// faultPointCode is the exit code of a relay that a fault point ended.
const faultPointCode = 86

// unit is one relay under a supervisor: what ends without being told to is started again.
type unit struct {
	r     *runner
	name  string
	proxy *faultproxy.Proxy // its way to PostgreSQL
	file  *os.File          // its log

	mu     sync.Mutex
	proc   *process.Process // nil while it is not wanted
	addr   string
	wanted bool
	why    string // why the process that runs now will end; empty when it is not to
	armed  bool   // it has a fault point, that it may never come to
	all    sync.WaitGroup
	line   []byte // unfinished line of output
}

func newUnit(r *runner, name string) (*unit, error) {
	proxy, err := faultproxy.Listen(r.server)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(r.dir, "relay-"+name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of relay %s: %w", name, err)
	}
	return &unit{r: r, name: name, proxy: proxy, file: file}, nil
}

// start lets the unit run from now on, the first process of it with more environment.
func (u *unit) start(env ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.wanted = true
	if u.proc == nil {
		u.spawn(env)
	}
}

// spawn starts a process and a goroutine that waits for its end. u.mu is held.
func (u *unit) spawn(env []string) {
	all := append(u.r.env(u.proxy.Addr()), env...)
	u.addr, u.why = "", ""
	proc, err := process.Start(u.r.opts.Binary, all, u, "run")
	if err != nil {
		u.r.note(err)
		return
	}
	u.proc, u.armed = proc, len(env) > 0
	u.all.Go(func() { u.await(proc) })
}

// await writes down how a process ended and starts the next one.
func (u *unit) await(proc *process.Process) {
	code := proc.Code()
	standby := slices.ContainsFunc(u.r.units, func(o *unit) bool { return o != u && o.running() })
	u.mu.Lock()
	defer u.mu.Unlock()
	why := u.why
	if u.armed && code == faultPointCode { // also when it was about to end for another reason
		why = "fault point"
	}
	u.r.note(u.r.exits.Add(history.Exit{At: history.Now(), Relay: u.name, PID: proc.PID, Code: code, Wanted: why, Standby: standby}))
	u.proc = nil
	if !u.wanted {
		return
	}
	u.mu.Unlock()
	time.Sleep(100 * time.Millisecond) // as service managers do
	u.mu.Lock()
	if u.wanted && u.proc == nil {
		u.spawn(nil)
	}
}

// end sends a signal that ends the process, and waits until it has. While wanted, the next one follows.
func (u *unit) end(s syscall.Signal, why string, wanted bool) error {
	u.mu.Lock()
	u.wanted = wanted
	proc, armed := u.proc, u.armed
	u.why = why
	u.mu.Unlock()
	if proc == nil {
		return nil
	}
	_ = proc.Signal(s)
	select {
	case <-proc.Done():
	case <-time.After(45 * time.Second):
		proc.Kill()
		return fmt.Errorf("relay %s did not end within 45s of %s", u.name, s)
	}
	if code := proc.Code(); s == syscall.SIGTERM && code != 0 && !(armed && code == faultPointCode) {
		return fmt.Errorf("relay %s ended with code %d after SIGTERM", u.name, proc.Code())
	}
	return nil
}

// signal sends a signal that does not end the process.
func (u *unit) signal(s syscall.Signal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.proc != nil {
		_ = u.proc.Signal(s)
	}
}

func (u *unit) running() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.wanted
}

// peakMemory is the most memory that the process has had, in bytes; 0 when there is none.
func (u *unit) peakMemory() int64 {
	u.mu.Lock()
	proc := u.proc
	u.mu.Unlock()
	if proc == nil {
		return 0
	}
	return proc.PeakMemory()
}

// close ends the unit for good.
func (u *unit) close() {
	u.mu.Lock()
	u.wanted = false
	proc := u.proc
	if proc != nil && u.why == "" {
		u.why = "end of the run"
	}
	u.mu.Unlock()
	if proc != nil {
		_ = proc.Signal(syscall.SIGCONT)
		proc.Kill()
	}
	u.all.Wait()
	u.r.note(u.proxy.Close())
	u.r.note(u.file.Close())
}

var listenLine = regexp.MustCompile(`"msg":"relay starts".*"http":"([^"]+)"`)

// badOutput is what no relay may ever print.
var badOutput = []string{"DATA RACE", "panic:", "panic while mapping", "fatal error:", strings.TrimPrefix(secret, "whsec_")}

// Write takes the output of the unit's processes.
func (u *unit) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.line = append(u.line, b...)
	for {
		i := bytes.IndexByte(u.line, '\n')
		if i < 0 {
			break
		}
		text := string(u.line[:i])
		u.line = u.line[i+1:]
		if m := listenLine.FindStringSubmatch(text); m != nil {
			u.addr = m[1]
		}
		for _, bad := range badOutput {
			if strings.Contains(text, bad) {
				u.r.badOutput(fmt.Sprintf("relay %s prints: %.200s", u.name, text))
			}
		}
	}
	return u.file.Write(b)
}

var probe = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks the unit's process over HTTP; code 0 when it does not answer.
func (u *unit) get(ctx context.Context, path string) (int, []byte) {
	u.mu.Lock()
	addr := u.addr
	u.mu.Unlock()
	if addr == "" {
		return 0, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return 0, nil
	}
	resp, err := probe.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	return resp.StatusCode, b
}

// serves tells whether the process is so far that it takes a SIGHUP for what it is: before, the signal ends it.
func (u *unit) serves() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.addr != "" && u.proc != nil
}

func (u *unit) ready(ctx context.Context) bool {
	code, _ := u.get(ctx, "/readyz")
	return code == http.StatusOK
}

// leads tells whether the unit's process has a term.
func (u *unit) leads(ctx context.Context) bool {
	var s struct {
		Epoch int64 `json:"epoch"`
	}
	_, b := u.get(ctx, "/status")
	return json.Unmarshal(b, &s) == nil && s.Epoch > 0
}

// metric is the sum over a metric's series; 0 when there is none.
func (u *unit) metric(ctx context.Context, name string) (sum float64) {
	_, b := u.get(ctx, "/metrics")
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		fields := strings.Fields(rest)
		if v, err := strconv.ParseFloat(fields[len(fields)-1], 64); err == nil {
			sum += v
		}
	}
	return sum
}
