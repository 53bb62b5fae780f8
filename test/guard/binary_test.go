package guard

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/outbox-relay/relay/internal/faultpoint"
)

// release builds the binary as make build does, and returns its path.
func release(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "relay")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, module+"/cmd/relay")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// What is shipped cannot be hurt, whatever its environment says.
func TestBinary_HasNoFaultPoints(t *testing.T) {
	path := release(t)
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(binary, []byte("RELAY_CONFIG")) {
		t.Fatal("the binary does not hold a name that it uses: this test would find nothing")
	}
	names := []string{"RELAY_FAULTPOINTS", "RELAY_DEFECT", "faultpoint.parse", "faultpoint.mustParse"}
	for _, p := range faultpoint.Points() {
		names = append(names, string(p))
	}
	for _, d := range faultpoint.Defects() {
		names = append(names, string(d))
	}
	for _, name := range names {
		if bytes.Contains(binary, []byte(name)) {
			t.Errorf("the binary holds %s", name)
		}
	}
}
