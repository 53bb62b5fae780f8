package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/test/process"
)

// binaryVariable names a binary to test in place of one that is built for the run.
const binaryVariable = "RELAY_E2E_BINARY"

// relayBinary is the binary under test.
var relayBinary string

// buildDir holds what is built for this run.
var buildDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	sweepBuilds()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", buildPrefix, os.Getpid()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	if relayBinary = os.Getenv(binaryVariable); relayBinary == "" {
		relayBinary = filepath.Join(dir, "relay")
		if err := process.Build(relayBinary, nil, "-race"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, "close test server:", err)
		code = max(code, 1)
	}
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

const buildPrefix = "relay-e2e-"

// sweepBuilds removes what a run that was killed has left.
func sweepBuilds() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), buildPrefix+"*"))
	for _, dir := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), buildPrefix), "-")
		if pid, err := strconv.Atoi(owner); err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			_ = os.RemoveAll(dir)
		}
	}
}

// shared is the server of the tests that do not stop it.
var shared struct {
	once    sync.Once
	cluster *pgcluster.Cluster
	err     error
}

func sharedCluster(t testing.TB) *pgcluster.Cluster {
	t.Helper()
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		shared.cluster, shared.err = pgcluster.Start(ctx, pgcluster.Options{
			Settings: map[string]string{"max_prepared_transactions": "10"},
		})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

func closeShared() error {
	if shared.cluster == nil {
		return nil
	}
	return shared.cluster.Close()
}
