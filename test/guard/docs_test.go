package guard

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// files reads the repository's files with a suffix, keyed by path from the root.
func files(t *testing.T, suffix string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, suffix):
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, p))
		found[p] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no %s files below %s", suffix, root)
	}
	return found
}

var (
	fence = regexp.MustCompile("(?ms)^```.*?^```$")
	link  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	title = regexp.MustCompile(`(?m)^#{1,6} +(.+)$`)
)

// anchor is what a heading is linked by, as GitHub makes it.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		case r == ' ':
			return '-'
		}
		return -1
	}, strings.TrimSpace(heading))
}

func TestDocs_LinksLeadSomewhere(t *testing.T) {
	docs := files(t, ".md")
	for name, text := range docs {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			target, section, _ := strings.Cut(m[1], "#")
			at := name
			if target != "" {
				at = path.Join(path.Dir(name), target)
				if _, err := os.Stat(filepath.Join(root, at)); err != nil {
					t.Errorf("%s: link to %s leads nowhere", name, m[1])
					continue
				}
			}
			if section == "" {
				continue
			}
			body, ok := docs[at]
			if !ok {
				t.Errorf("%s: link to a section of %s, which is no document", name, at)
				continue
			}
			found := false
			for _, h := range title.FindAllStringSubmatch(fence.ReplaceAllString(body, ""), -1) {
				found = found || anchor(h[1]) == section
			}
			if !found {
				t.Errorf("%s: %s has no section #%s", name, at, section)
			}
		}
	}
}

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Za-z0-9]*_?[A-Za-z0-9_]*)(\\*?)`")

func TestDocs_NameTestsThatExist(t *testing.T) {
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)\(`)
	var exist []string
	for _, text := range files(t, "_test.go") {
		for _, m := range declared.FindAllStringSubmatch(text, -1) {
			exist = append(exist, m[1])
		}
	}
	for name, text := range files(t, ".md") {
		for _, m := range testName.FindAllStringSubmatch(text, -1) {
			if !slices.ContainsFunc(exist, func(s string) bool {
				return s == m[1] || m[2] == "*" && strings.HasPrefix(s, m[1])
			}) {
				t.Errorf("%s names %s%s, which no test is called", name, m[1], m[2])
			}
		}
	}
}

func TestDocs_ListEveryMetric(t *testing.T) {
	registered := regexp.MustCompile(`(?:Name:\s*|fromLoad\()"((?:relay|webhook)_[a-z0-9_]+)"`)
	code := make(map[string]bool)
	for name, text := range files(t, ".go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, m := range registered.FindAllStringSubmatch(text, -1) {
			code[m[1]] = true
		}
	}
	row := regexp.MustCompile("(?m)^\\| `((?:relay|webhook)_[a-z0-9_]+)(?:\\{[^}]*\\})?` \\|")
	listed := make(map[string]bool)
	for _, m := range row.FindAllStringSubmatch(files(t, ".md")["docs/operations.md"], -1) {
		listed[m[1]] = true
	}
	for _, name := range slices.Sorted(maps.Keys(code)) {
		if !listed[name] {
			t.Errorf("docs/operations.md does not list %s", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if !code[name] {
			t.Errorf("docs/operations.md lists %s, which nothing registers", name)
		}
	}
}

func TestDocs_KeepToWhatStrangersCanRead(t *testing.T) {
	lineNumber := regexp.MustCompile(`\.go:\d+`)
	for name, text := range files(t, ".md") {
		if m := lineNumber.FindString(text); m != "" {
			t.Errorf("%s points at a line, %s; lines move, symbols stay", name, m)
		}
	}
}
