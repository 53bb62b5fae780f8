package guard

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/outbox-relay/relay"

// root is the repository, seen from this package.
const root = "../.."

// goPackage is what the sources of one folder say, tests left out.
type goPackage struct {
	name    string
	doc     string
	imports map[string]bool
}

// packages parses every folder of the repository that holds Go files, keyed by its path from the root.
func packages(t *testing.T) map[string]*goPackage {
	t.Helper()
	found := make(map[string]*goPackage)
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, p), nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir := path.Dir(p)
		pkg := found[dir]
		if pkg == nil {
			pkg = &goPackage{name: file.Name.Name, imports: make(map[string]bool)}
			found[dir] = pkg
		}
		pkg.read(file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Fatalf("only %d packages found below %s", len(found), root)
	}
	return found
}

func (p *goPackage) read(file *ast.File) {
	if file.Doc != nil {
		p.doc += file.Doc.Text()
	}
	for _, spec := range file.Imports {
		if name, err := strconv.Unquote(spec.Path.Value); err == nil {
			p.imports[name] = true
		}
	}
}

func TestPackages_SayWhatTheyAreInASentence(t *testing.T) {
	sentence := regexp.MustCompile(`(?s)^(Package [a-z0-9]+|Command [a-z]+) [^.].*?\.(\s|$)`)
	for dir, pkg := range packages(t) {
		m := sentence.FindStringSubmatch(pkg.doc)
		if m == nil {
			t.Errorf("%s: the package comment does not begin with a sentence: %.60q", dir, pkg.doc)
			continue
		}
		if want := "Package " + pkg.name; pkg.name != "main" && m[1] != want {
			t.Errorf("%s: the package comment begins with %q, expected %q", dir, m[1], want)
		}
	}
}

func TestImports_FollowTheData(t *testing.T) {
	all := packages(t)
	for _, rule := range []struct {
		from   string
		never  []string // folders below the root; also what lies below them
		reason string
	}{
		{"internal/cdc", []string{"internal", "examples", "cmd"}, "the stream knows relations and tuples, and nothing of webhooks"},
		{"internal/outbox", []string{"internal/deliver", "internal/daemon", "internal/config", "cmd"}, "an event does not know who gets it"},
		{"internal/deliver", []string{"internal/cdc", "internal/daemon", "internal/config", "cmd"}, "settlement flows back as a value"},
		{"internal/progress", []string{"internal/deliver", "internal/outbox", "internal/daemon"}, "it is about positions only"},
		{"internal/signature", []string{"internal"}, "receivers' tests use it alone"},
		{"internal/egress", []string{"internal"}, "one rule for every outgoing byte, whoever sends"},
		{"examples", []string{"internal", "cmd"}, "a writer needs plain SQL and nothing of ours"},
	} {
		checked := 0
		for dir, pkg := range all {
			if !inside(dir, rule.from) {
				continue
			}
			checked++
			for imported := range pkg.imports {
				local, ours := strings.CutPrefix(imported, module+"/")
				if !ours || inside(local, rule.from) ||
					local == "internal/faultpoint" || // nothing, in a normal build
					local == "internal/postgres" || // a connection is nobody's
					local == "internal/health" { // names of states, and what SQLSTATEs mean: below everything
					continue
				}
				for _, never := range rule.never {
					if inside(local, never) {
						t.Errorf("%s imports %s: %s", dir, local, rule.reason)
					}
				}
			}
		}
		if checked == 0 {
			t.Errorf("no package in %s", rule.from)
		}
	}
}

func TestPackages_AreWiredInOnePlace(t *testing.T) {
	// What may import the daemon: the command, and what runs it whole.
	may := map[string]bool{"cmd/relay": true, "internal/dev": true}
	for dir, pkg := range packages(t) {
		if pkg.imports[module+"/internal/daemon"] && !may[dir] && !inside(dir, "test") && !inside(dir, "bench") {
			t.Errorf("%s imports internal/daemon; only the command wires", dir)
		}
	}
}

func inside(dir, parent string) bool { return dir == parent || strings.HasPrefix(dir, parent+"/") }

// One package makes the configurations of connections: what it pins holds for every session.
func TestConnections_AreOpenedInOnePlace(t *testing.T) {
	opens := regexp.MustCompile(`\b(pgx|pgconn|pgxpool)\.(Connect|New|ParseConfig)\(`)
	files := 0
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		ours := strings.HasPrefix(p, "internal/") || strings.HasPrefix(p, "cmd/")
		if err != nil || !ours || strings.HasSuffix(p, "_test.go") || !strings.HasSuffix(p, ".go") ||
			strings.HasPrefix(p, "internal/postgres/") || strings.HasPrefix(p, "internal/pgcluster/") {
			return err
		}
		files++
		text, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			return err
		}
		if call := opens.FindString(string(text)); call != "" {
			t.Errorf("%s calls %s...); internal/postgres does that", p, call)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Fatalf("only %d files were looked at", files)
	}
}
