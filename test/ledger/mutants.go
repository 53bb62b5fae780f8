package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/outbox-relay/relay/internal/faultpoint"
	"github.com/outbox-relay/relay/internal/pgcluster"
	"github.com/outbox-relay/relay/test/ledger/check"
)

// mutant is a defect with the run that shows it.
type mutant struct {
	defect  faultpoint.Defect // empty: a relay without one, which must pass
	profile string
	by      []string // invariants, of which at least one must be broken
	since   int      // PostgreSQL major before which the defect cannot show
	twice   bool     // it shows by a chance that a run of double length has, and a shorter one may not
}

// mutants are all defects, and the same runs without any.
var mutants = []mutant{
	{defect: faultpoint.ConfirmOnReceipt, profile: "kills", by: []string{"I1", "I9"}},
	{defect: faultpoint.ConfirmKeepalives, profile: "kills", by: []string{"I1", "I9"}},
	{defect: faultpoint.ConfirmComputed, profile: "kills", by: []string{"I1", "I9"}},
	{defect: faultpoint.ConfirmBeforeDelivery, profile: "kills", by: []string{"I1", "I9"}},
	{defect: faultpoint.ForgetFailures, profile: "outages", by: []string{"I1", "I9"}},
	{defect: faultpoint.ProgressBeforeParked, profile: "between", by: []string{"I1", "I9"}},
	{defect: faultpoint.ProgressInMemory, profile: "kills", by: []string{"I9"}},
	{defect: faultpoint.KeepaliveOutOfOrder, profile: "outages", by: []string{"I1", "I9"}},
	{defect: faultpoint.FlushZero, profile: "quiet", by: []string{"I10"}},
	{defect: faultpoint.EpochUnchecked, profile: "freezes", by: []string{"I1", "I8", "I9"}, twice: true},
	{defect: faultpoint.OrderForgotten, profile: "outages", by: []string{"I4"}},
	{defect: faultpoint.SignReencoded, profile: "quiet", by: []string{"I6"}},
	{defect: faultpoint.RowOverlooked, profile: "quiet", by: []string{"I1", "I11"}},
	{defect: faultpoint.SlotRecreated, profile: "slots", by: []string{"I1", "I11"}},
	{defect: faultpoint.OtherTenant, profile: "quiet", by: []string{"I7"}},
	{defect: faultpoint.RefusalTaken, profile: "outages", by: []string{"I1", "I8"}},
	{defect: faultpoint.SettledForgotten, profile: "kills", by: []string{"I8"}},
	{defect: faultpoint.ParkedForgotten, profile: "kills", by: []string{"I1", "I10"}},
	{defect: faultpoint.NoticeIgnored, profile: "publications", by: []string{"I1", "I11"}, since: 18},
	{profile: "kills"}, {profile: "outages"}, {profile: "points"}, {profile: "freezes"}, {profile: "slots"}, {profile: "publications"}, {profile: "quiet"},
}

// runMutants runs each, and fails when a defect is not found, or something is found in a relay without one.
func runMutants(ctx context.Context, args []string, out io.Writer) int {
	flags := flag.NewFlagSet("ledger mutants", flag.ContinueOnError)
	flags.SetOutput(out)
	only := flags.String("only", "", "run only the mutants and profiles with this in their name")
	length := flags.Duration("for", 18*time.Second, "how long writers write in each run")
	seed := flags.Uint64("seed", 1, "number that decides what is done")
	binary := flags.String("binary", "", "relay with the tag faultpoints; empty: built for the run")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return codeUsage
	}
	work, err := newWorkplace("", *binary, out)
	if err != nil {
		fmt.Fprintln(out, err)
		return codeFailed
	}
	defer work.close()
	major, err := serverMajor(ctx)
	if err != nil {
		fmt.Fprintln(out, err)
		return codeFailed
	}
	failed := 0
	for i, m := range mutants {
		if !strings.Contains(m.name(), *only) {
			continue
		}
		if m.since > major {
			fmt.Fprintf(out, "%-26s only on PostgreSQL %d and later\n", m.name(), m.since)
			continue
		}
		dir := filepath.Join(work.dir, fmt.Sprintf("report-%d-%s", i, m.name()))
		if err := os.Mkdir(dir, 0o700); err != nil {
			fmt.Fprintln(out, err)
			return codeFailed
		}
		began, writing := time.Now(), *length
		if m.twice {
			writing *= 2
		}
		result, err := run(ctx, options{Seed: *seed, For: writing, Profile: profiles()[m.profile], Binary: work.binary, Dir: dir, Rate: 250,
			Writers: 8, Keys: 12, Drain: m.drain(), Defect: string(m.defect), BinDir: os.Getenv(pgcluster.BinDirEnv), Log: func(string, ...any) {}})
		if err != nil {
			fmt.Fprintf(out, "%-26s %v\n", m.name(), err)
			return codeFailed
		}
		ok, verdict := m.judge(result)
		fmt.Fprintf(out, "%-26s %-8s %-16s %4.0f s  %s\n", m.name(), m.profile, strings.Join(result.Kinds(), " "), time.Since(began).Seconds(), verdict)
		if ok {
			_ = os.RemoveAll(dir)
			continue
		}
		failed++
		work.keep = true
		if m.defect == "" {
			result.Print(out)
		}
		fmt.Fprintf(out, "report: %s\n", dir)
	}
	if failed > 0 {
		fmt.Fprintf(out, "%d failed\n", failed)
		return codeBroken
	}
	fmt.Fprintln(out, "every planted defect was found, and nothing in a relay without one")
	return 0
}

// serverMajor is the major version of the PostgreSQL that runs are made with.
func serverMajor(ctx context.Context) (int, error) {
	c, err := pgcluster.Start(ctx, pgcluster.Options{BinDir: os.Getenv(pgcluster.BinDirEnv)})
	if err != nil {
		return 0, err
	}
	return c.Version(), c.Close()
}

func (m mutant) name() string {
	if m.defect == "" {
		return "none, " + m.profile
	}
	return string(m.defect)
}

// drain is how long a run may take to come to rest. One with a defect may never do so, and need not be waited for.
func (m mutant) drain() time.Duration {
	if m.defect == "" {
		return 2 * time.Minute
	}
	return 12 * time.Second
}

func (m mutant) judge(r *check.Result) (bool, string) {
	if m.defect == "" {
		if len(r.Violations) == 0 {
			return true, "clean"
		}
		return false, "NOT CLEAN"
	}
	for _, kind := range r.Kinds() {
		if slices.Contains(m.by, kind) {
			return true, "found"
		}
	}
	return false, "NOT FOUND"
}
