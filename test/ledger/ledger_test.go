package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/test/ledger/history"
	"github.com/outbox-relay/relay/test/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The short run: the same as `make soak` does for long, with a seed that stays.
func TestLedger_FindsNothingWrongWithTheRelay(t *testing.T) {
	dir := t.TempDir()
	binary := os.Getenv("RELAY_E2E_BINARY")
	if binary == "" {
		binary = filepath.Join(dir, "relay")
		if err := process.Build(binary, nil, "-race"); err != nil {
			t.Fatal(err)
		}
	}
	report := filepath.Join(dir, "report")
	if err := os.Mkdir(report, 0o700); err != nil {
		t.Fatal(err)
	}
	result, err := run(t.Context(), options{Seed: 20261125, For: 30 * time.Second, Kills: 20, Profile: profiles()["short"], Binary: binary,
		Dir: report, Rate: 150, Writers: 6, Keys: 12, Drain: 2 * time.Minute, BinDir: os.Getenv(pgcluster.BinDirEnv), Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	result.Print(&text)
	t.Log(text.String())
	if len(result.Violations) > 0 {
		kept, err := os.MkdirTemp("", "relay-ledger-")
		if err == nil {
			err = os.CopyFS(kept, os.DirFS(report))
		}
		t.Errorf("%d violations; report kept in %s (%v)", len(result.Violations), kept, err)
	}
	if result.Figures.Kills < 20 || result.Figures.Events < 1_000 {
		t.Errorf("%d kills and %d events are no test", result.Figures.Kills, result.Figures.Events)
	}
}

func TestRecheck_JudgesAKeptReport(t *testing.T) {
	for _, c := range []struct {
		code int
		want string
		h    history.History
	}{
		{0, "PASS", history.History{End: history.End{Drained: true}}},
		{codeBroken, "I10: not drained", history.History{}},
		{codeBroken, "I2: arrival 1: it did not commit", history.History{End: history.End{Drained: true},
			Subscriptions: []history.Subscription{{ID: "1", Name: "all", Events: []string{"*"}}},
			Arrivals:      []history.Arrival{{N: 1, At: 5, Sub: "all", Event: "e"}}}},
	} {
		dir := t.TempDir()
		for _, err := range []error{
			history.Write(dir, history.FileRun, []history.Run{c.h.Run}),
			history.Write(dir, history.FileEnd, []history.End{c.h.End}),
			history.Write(dir, history.FileSubscriptions, c.h.Subscriptions),
			history.Write(dir, history.FileArrivals, c.h.Arrivals),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		var out strings.Builder
		if code := ledger(t.Context(), []string{"recheck", dir}, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("code %d, want %d and %q:\n%s", code, c.code, c.want, out.String())
		}
	}
	var out strings.Builder
	if code := ledger(t.Context(), []string{"recheck", t.TempDir()}, &out); code != codeFailed {
		t.Errorf("code %d for an empty directory: %s", code, out.String())
	}
}

func TestNemesis_DoesTheSameForTheSameSeed(t *testing.T) {
	draw := func(seed uint64) string {
		n := &nemesis{r: &runner{opts: options{Profile: profiles()["soak"]}}, random: rand.New(rand.NewPCG(seed, 1))}
		var names []string
		for range 50 {
			names = append(names, n.choose(n.names()))
		}
		return strings.Join(names, " ")
	}
	first := draw(1)
	if again := draw(1); again != first {
		t.Errorf("one seed, two orders:\n%s\n%s", first, again)
	}
	if draw(2) == first {
		t.Error("two seeds, one order")
	}
}

func TestProfiles_NameActionsAndPointsThatExist(t *testing.T) {
	all := actions()
	for _, p := range profiles() {
		for name := range p.Weights {
			if all[name].do == nil {
				t.Errorf("profile %s: no action is called %s", p.Name, name)
			}
		}
	}
	for name := range all {
		if everything[name] == 0 {
			t.Errorf("the long run never does %s", name)
		}
	}
	for _, m := range mutants {
		if _, ok := profiles()[m.profile]; !ok {
			t.Errorf("%s: no profile is called %s", m.name(), m.profile)
		}
	}
}

func TestEnvelope_KeepsThePayloadAsItWasWritten(t *testing.T) {
	created := time.Date(2026, 11, 25, 9, 0, 0, 120_000_000, time.FixedZone("", 3600))
	got := string(envelope("id-1", "sales_order.created", "Müller & <Söhne>", created, `{ "b":1e400,"a":1.0 }`))
	want := `{"id":"id-1","type":"sales_order.created","timestamp":"2026-11-25T08:00:00.12Z","tenant_id":"Müller & <Söhne>","data":{ "b":1e400,"a":1.0 }}`
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestJournal_KeepsTheOrderInWhichNumbersWereDrawn(t *testing.T) {
	dir := t.TempDir()
	j, err := history.OpenJournal(dir, history.FileArrivals)
	if err != nil {
		t.Fatal(err)
	}
	n, done := 0, make(chan error)
	const writers, each = 8, 50
	for range writers {
		go func() {
			var err error
			for range each {
				if e := j.Sync(func() any { n++; return history.Arrival{N: n} }); e != nil {
					err = e
				}
			}
			done <- err
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	// All is on disk before the journal is closed.
	b, err := os.ReadFile(filepath.Join(dir, history.FileArrivals))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != writers*each {
		t.Fatalf("%d lines, want %d", len(lines), writers*each)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, fmt.Sprintf(`{"n":%d,`, i+1)) {
			t.Fatalf("line %d is %s", i+1, line)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
