// Command gosec looks for what is often a weakness in Go code, and fails when it finds something that nobody has given a reason for.
//
//	go -C tools run ./gosec ../cmd/... ../internal/...
//
// It is the published checker with all its rules, without the program around it, which brings the clients of four language
// models along and takes ten times as long to build. Files of tests are left out.
//
// A finding is let through by a comment on its line, which must name the rule and say why: // #nosec G115 -- three digits.
package main

import (
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/securego/gosec/v2"
	"github.com/securego/gosec/v2/analyzers"
	"github.com/securego/gosec/v2/rules"
)

func main() {
	faults, err := check(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "gosec:", err)
		os.Exit(2)
	}
	for _, f := range faults {
		fmt.Println(f)
	}
	if len(faults) > 0 {
		fmt.Println("gosec: change what is named above, or let it through with // #nosec GNNN -- why")
		os.Exit(1)
	}
}

// check returns what is wrong in the packages of the patterns, one text with its place for each, sorted.
func check(patterns []string) ([]string, error) {
	config := gosec.NewConfig()
	config.SetGlobal(gosec.NoSecRequireRules, "true")
	config.SetGlobal(gosec.NoSecRequireJustification, "true")
	a := gosec.NewAnalyzer(config, false, false, false, runtime.GOMAXPROCS(0), log.New(io.Discard, "", 0))
	a.LoadRules(rules.Generate(false).RulesInfo())
	a.LoadAnalyzers(analyzers.Generate(false).AnalyzersInfo())
	var packages []string
	for _, pattern := range patterns {
		found, err := gosec.PackagePaths(pattern, nil)
		if err != nil {
			return nil, fmt.Errorf("look for %s: %w", pattern, err)
		}
		packages = append(packages, found...)
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("no packages in %q", patterns)
	}
	slices.Sort(packages)
	if err := a.Process(nil, packages...); err != nil {
		return nil, err
	}
	issues, seen, errs := a.Report()
	if seen.NumFiles == 0 {
		return nil, fmt.Errorf("no files in %q", patterns)
	}
	var faults []string
	for _, i := range issues {
		faults = append(faults, fmt.Sprintf("%s:%s: %s: %s", short(i.File), i.Line, i.RuleID, i.What))
	}
	for _, file := range slices.Sorted(maps.Keys(errs)) {
		for _, e := range errs[file] {
			faults = append(faults, fmt.Sprintf("%s:%d: %s", short(file), e.Line, e.Err))
		}
	}
	slices.Sort(faults)
	return slices.Compact(faults), nil
}

// short is a file as one names it from the root of the repository, one folder above the one that this runs in.
func short(file string) string {
	wd, err := os.Getwd()
	if err != nil {
		return file
	}
	rel, err := filepath.Rel(wd, file)
	if err != nil {
		return file
	}
	return strings.TrimPrefix(rel, "../")
}
