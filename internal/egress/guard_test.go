package egress

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// unguarded are the names that open connections past the policy.
var unguarded = map[string][]string{
	"net/http":   {"Client", "Transport", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm", "ProxyFromEnvironment"},
	"net":        {"Dial", "DialTimeout", "DialTCP", "DialUDP", "DialIP", "DialUnix", "Dialer"},
	"crypto/tls": {"Dial", "DialWithDialer", "Dialer"},
}

// exempt are the folders whose connections do not go to receivers of webhooks.
var exempt = []string{
	"internal/egress",    // makes the guarded ones
	"internal/postgres",  // PostgreSQL
	"internal/pgcluster", // PostgreSQL, on this machine
	"internal/dev",       // the demonstration's own receiver and example service
}

func TestNoOtherPackageOpensConnections(t *testing.T) {
	eachSource(t, exempt, func(name string, src []byte) error {
		found, err := findUnguarded(name, src)
		for _, f := range found {
			t.Errorf("%s: connections to receivers come from egress.Policy (Client, Transport, DialContext)", f)
		}
		return err
	})
}

// loosening are the fields that take away what a connection is safe by, wherever they are set.
var loosening = map[string]string{
	"InsecureSkipVerify": "certificates are checked in every build",
	"Got1xxResponse":     "net/http no longer counts informational answers against its limit of header bytes",
	"ProxyConnectHeader": "the proxy is egress' business",
}

func TestNothingLoosensConnections(t *testing.T) {
	eachSource(t, nil, func(name string, src []byte) error {
		found, err := findLoosening(name, src)
		for _, f := range found {
			t.Error(f)
		}
		return err
	})
	for code, want := range map[string]int{
		"var _ = tls.Config{InsecureSkipVerify: true}":           1,
		"func f(c *tls.Config) { c.InsecureSkipVerify = debug }": 1,
		"// InsecureSkipVerify is never set":                     0,
	} {
		if found, err := findLoosening("x.go", []byte("package x\n"+code+"\n")); err != nil || len(found) != want {
			t.Errorf("%s: found %q, %v", code, found, err)
		}
	}
}

func findLoosening(name string, src []byte) (found []string, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && loosening[id.Name] != "" {
			found = append(found, fmt.Sprintf("%s: uses %s; %s", set.Position(id.Pos()), id.Name, loosening[id.Name]))
		}
		return true
	})
	return found, nil
}

// eachSource calls look with every Go file of the product, tests and some folders left out.
func eachSource(t *testing.T, without []string, look func(name string, src []byte) error) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, dir := range []string{"internal", "cmd"} {
		err := fs.WalkDir(os.DirFS(root), dir, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (slices.Contains(without, name) || d.Name() == "testdata"):
				return fs.SkipDir
			case d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go"):
				return nil
			}
			src, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				return err
			}
			files++
			return look(name, src)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Error("no file was looked at")
	}
}

// findUnguarded gives each use of a name that opens connections, with its position. A type that is only
// pointed to, as in *http.Client, is one that somebody else made, and fine.
func findUnguarded(name string, src []byte) ([]string, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []string
	imported := map[string]string{} // the name in this file to the path
	for _, spec := range file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if unguarded[p] == nil {
			continue
		}
		local := path.Base(p)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == "." {
			found = append(found, fmt.Sprintf("%s: imports %s with a dot", set.Position(spec.Pos()), p))
		}
		imported[local] = p
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if star, ok := n.(*ast.StarExpr); ok {
			_, isType := star.X.(*ast.SelectorExpr)
			return !isType
		}
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && slices.Contains(unguarded[imported[pkg.Name]], sel.Sel.Name) {
			found = append(found, fmt.Sprintf("%s: uses %s.%s", set.Position(sel.Pos()), pkg.Name, sel.Sel.Name))
		}
		return true
	})
	return found, nil
}

func TestGuard_SeesWhatItShould(t *testing.T) {
	for _, tc := range []struct {
		imports, code string
		want          int
	}{
		{`"net/http"`, "var _, _ = http.Get(u)", 1},
		{`"net/http"`, "var _ = http.DefaultClient.Do", 1},
		{`"net/http"`, "var _ = &http.Client{}", 1},
		{`"net/http"`, "var _ = new(http.Client)", 1},
		{`"net/http"`, "var _ http.Client", 1},
		{`"net/http"`, "type t struct { c http.Client }", 1},
		{`"net/http"`, "var _ = http.Transport{}", 1},
		{`"net/http"`, "var _ = http.DefaultTransport.(*http.Transport).Clone()", 1},
		{`h "net/http"`, "var _, _ = h.Post(u, t, b)", 1},
		{`. "net/http"`, "var _, _ = Get(u)", 1},
		{`"net"`, "var _, _ = net.Dial(a, b)", 1},
		{`"net"`, "var _ = (&net.Dialer{}).DialContext", 1},
		{`"crypto/tls"`, "var _, _ = tls.Dial(a, b, c)", 1},

		{`"net/http"`, "func f(c *http.Client) { c.Do(nil) }", 0},
		{`"net/http"`, "type t struct { c *http.Client; tr *http.Transport }", 0},
		{`"net/http"`, "var _ = http.Server{Handler: http.NotFoundHandler()}", 0},
		{`"net/http"`, "var _ = http.MethodGet", 0},
		{`"net"`, "var _, _ = net.Listen(a, b)", 0},
		{`http "example.com/other"`, "var _, _ = http.Get(u)", 0},
	} {
		found, err := findUnguarded("x.go", []byte("package x\nimport "+tc.imports+"\n"+tc.code+"\n"))
		if err != nil || len(found) != tc.want {
			t.Errorf("%s; %s: found %q, %v, want %d", tc.imports, tc.code, found, err, tc.want)
		}
	}
}
