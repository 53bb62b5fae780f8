package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is this program, built once.
var binary string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "suite")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "suite")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		panic(string(out))
	}
	return m.Run()
}

// module writes a module of one package for each name, whose tests are the text, and returns its folder.
func module(t *testing.T, packages map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.com/m\n\ngo 1.26\n")
	for name, text := range packages {
		write(name+"/"+name+".go", "package "+name+"\n")
		write(name+"/"+name+"_test.go", "package "+name+"\n\n"+text)
	}
	return dir
}

func command(t *testing.T, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	return cmd
}

// mustRun runs this program in a folder, expects an exit code, and returns what it printed.
func mustRun(t *testing.T, code int, dir string, args ...string) string {
	t.Helper()
	out, err := command(t, dir, args...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == code, err == nil && code == 0:
	default:
		t.Fatalf("%v, expected exit code %d:\n%s", err, code, out)
	}
	return string(out)
}

const passes = `
import "testing"

func TestGood(t *testing.T) { t.Log("of no interest") }
`

func TestSuite_EndsWithTheNamesOfWhatFailedAndRunsTheLaterSteps(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{
		"good": passes,
		"bad": `
import "testing"

func TestBad(t *testing.T) {
	t.Run("fine", func(t *testing.T) {})
	t.Run("part", func(t *testing.T) { t.Error("two is not one") })
}
func TestFine(t *testing.T) { t.Log("of no interest") }
`,
		"nobuild": `
import "testing"

func TestNever(t *testing.T) { undefined() }
`,
		"panics": `
import "testing"

func TestPanics(t *testing.T) { panic("boom") }
`,
		"exits": `
import (
	"os"
	"testing"
)

func TestExits(t *testing.T) { os.Exit(3) }
`,
		"leaks": `
import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	m.Run()
	fmt.Println("a goroutine is left")
	os.Exit(1)
}
func TestFine(t *testing.T) {}
`,
		"slow": `
import "testing"

func TestHangs(t *testing.T) {
	t.Parallel()
	t.Run("part", func(t *testing.T) { select {} })
}
func TestFine(t *testing.T) {}
func TestQuick(t *testing.T) { t.Parallel() }
`,
		"later": passes,
	})
	out := mustRun(t, 1, dir, "--", "go", "test", "-count=1",
		"./good", "./bad", "./nobuild", "./panics", "./exits", "./leaks", "--", "go", "test", "-count=1", "-timeout", "5s", "./slow", "--", "go", "test", "-count=1", "./later")

	output, names, found := strings.Cut(out, "\nwhat failed:\n")
	if !found {
		t.Fatalf("no names:\n%s", out)
	}
	for _, want := range []string{
		`(?m)^ok  \texample.com/m/good\t`, `(?m)^ok  \texample.com/m/later\t`, `(?m)^FAIL\texample.com/m/bad\t`,
		`(?m)^FAIL\texample.com/m/nobuild \[build failed\]$`, `undefined: undefined`, `two is not one`, `a goroutine is left`,
		`(?m)^panic: boom`, `(?m)^panic: test timed out after 5s`, `(?m)^--- FAIL: TestBad/part `,
	} {
		if !regexp.MustCompile(want).MatchString(output) {
			t.Errorf("no %s before the names", want)
		}
	}
	for _, never := range []string{"of no interest", "=== RUN"} {
		if strings.Contains(output, never) {
			t.Errorf("%q is printed", never)
		}
	}
	for _, want := range []string{
		"--- FAIL: example.com/m/bad TestBad/part\n",
		"FAIL\texample.com/m/nobuild (build failed)\n",
		"--- FAIL: example.com/m/panics TestPanics (panic: boom",
		"--- FAIL: example.com/m/exits TestExits (did not end)\n",
		"FAIL\texample.com/m/leaks\n",
		"--- FAIL: example.com/m/slow TestHangs/part (running when the package timed out after 5s)\n",
	} {
		if !strings.Contains(names, want) {
			t.Errorf("no %q among the names", want)
		}
	}
	if got := strings.Count(names, "\n"); got != 2+6+1 && !t.Failed() { // two steps, the names, FAIL
		t.Errorf("%d lines of names", got)
	}
	if !strings.HasSuffix(out, "\nFAIL\n") {
		t.Error("the last line is not FAIL")
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", out)
	}
}

func TestSuite_NamesTestsWithRaces(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"races": `
import "testing"

func TestRaces(t *testing.T) {
	done := make(chan struct{})
	n := 0
	go func() { n++; close(done) }()
	n++
	<-done
}
`})
	out := mustRun(t, 1, dir, "--", "go", "test", "-race", "-count=1", "./races")
	if !strings.HasSuffix(out, "\nwhat failed:\n--- FAIL: example.com/m/races TestRaces (data race)\nFAIL\n") {
		t.Errorf("it printed:\n%s", out)
	}
}

func TestSuite_PassesAsGoTestDoes(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"good": passes})
	out := mustRun(t, 0, dir, "--", "go", "test", "-count=1", "./...")
	if !regexp.MustCompile(`^ok  \texample.com/m/good\t\S+\n$`).MatchString(out) {
		t.Errorf("it printed:\n%s", out)
	}
}

func TestSuite_FailsWhenAStepHasNoTests(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"good": passes})
	for _, args := range [][]string{
		{"--", "go", "test", "-no-such-flag", "./good"},
		{"--", "go", "test", "./nothing"},
		{"--", "no-such-program", "test", "./good"},
	} {
		out := mustRun(t, 1, dir, append(args, "--", "go", "test", "-count=1", "./good")...)
		if !strings.Contains(out, "ok  \texample.com/m/good\t") || !regexp.MustCompile(`(?s)\nwhat failed:\n.*\nFAIL\n$`).MatchString(out) {
			t.Errorf("%q printed:\n%s", args, out)
		}
	}
	for _, args := range [][]string{nil, {"--", "go", "vet"}, {"-runs", "0", "--", "go", "test"}} {
		mustRun(t, 2, dir, args...)
	}
}

// The second of three runs fails.
func TestSuite_EndsRunsUnderLoadWithATable(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"second": `
import (
	"os"
	"testing"
)

func TestEverySecond(t *testing.T) {
	f, err := os.OpenFile("runs", os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteString("x")
	if info, _ := f.Stat(); info.Size() == 2 {
		t.Error("the second run")
	}
}
`})
	out := mustRun(t, 1, dir, "-runs", "3", "-load", "--", "go", "test", "-count=1", "./second")
	if !regexp.MustCompile(`\n\nrun    took       result\n` +
		`1      \S+ +ok\n2      \S+ +FAIL, 1 named below\n3      \S+ +ok\n` +
		`\nwhat failed:\n--- FAIL: example.com/m/second TestEverySecond in run 2\nFAIL\n$`).MatchString(out) {
		t.Errorf("it printed:\n%s", out)
	}
}

// lockedBuffer is what a running program prints.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// SIGTERM goes to this program alone.
func TestSuite_StopsTheTestsAndTheLoadWhenInterrupted(t *testing.T) {
	t.Parallel()
	dir := module(t, map[string]string{"hangs": `
import (
	"os"
	"testing"
)

func TestHangs(t *testing.T) {
	if err := os.WriteFile("../started", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	select {}
}
`, "later": passes})
	cmd := command(t, dir, "-load", "--", "go", "test", "-count=1", "./hangs", "--", "go", "test", "-count=1", "./later")
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// Wait returns when nobody has the output open any more: neither the test nor the load.
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("%v", err)
	}
	text := out.String()
	if !strings.Contains(text, "--- FAIL: example.com/m/hangs TestHangs (did not end: signal: interrupt)\n") ||
		strings.Contains(text, "m/later\t") || !strings.HasSuffix(text, "\nFAIL\tinterrupted\n") {
		t.Errorf("it printed:\n%s", text)
	}
}

func TestBurn_EndsWithItsInput(t *testing.T) {
	burn(strings.NewReader(""))
}
