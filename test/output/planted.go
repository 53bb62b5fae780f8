package output

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// planted is the argument by which a child knows that it plants a leak, whatever becomes of its environment.
const planted = "planted"

// MustNotice runs the calling test once more, in a process of its own and there with the leak, and fails when that test does
// not fail because of it: a suite that looks for secrets has to find one. More environment is given to the process.
func MustNotice(t *testing.T, leak func(), env ...string) {
	t.Helper()
	if flag.Arg(0) == planted {
		leak()
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.timeout", "3m", planted)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "shows a secret") || !strings.Contains(string(out), "--- FAIL: "+t.Name()) {
		t.Errorf("a leak that was planted is not noticed: %v\n%s", err, out)
	}
}
