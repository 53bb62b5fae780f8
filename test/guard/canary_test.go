package guard

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// unwatched may start a relay without anything of test/output, each for its reason.
var unwatched = map[string]string{
	"internal/daemon/bench_test.go BenchmarkDaemon_Drain": "its daemon logs nothing",
	"test/ledger/unit.go spawn":                           "unit.Write looks at each line for what no relay may print, its receivers' secret among it",
}

// A suite that starts the relay, or its API, in whatever way, has secrets looked for in what that says: the function that
// starts it makes an output.Buffer, or gets one.
func TestSuites_LookForSecretsInWhatTheyStart(t *testing.T) {
	starts := 0
	for name, text := range files(t, ".go") {
		if !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "test/") || strings.HasPrefix(name, "test/guard/") {
			continue
		}
		for _, f := range starters(t, name, text) {
			starts++
			if !f.watched && unwatched[name+" "+f.name] == "" {
				t.Errorf("%s: %s starts a relay (%s), and what that says is not looked through: give it an output.Buffer", name, f.name, f.by)
			}
		}
	}
	if starts < 8 {
		t.Errorf("only %d places that start a relay are found", starts)
	}
}

func TestSuites_AreSeenWhenTheyLookForNothing(t *testing.T) {
	for body, want := range map[string]bool{
		`d, _ := daemon.New(daemon.Options{Log: slog.Default()})`:                           true,
		`log := output.New(t, "x"); d, _ := daemon.New(daemon.Options{Log: slog.New(log)})`: false,
		`p, _ := process.Start(binary, nil, os.Stderr, "run")`:                              true,
		`p, _ := process.Start(binary, nil, output.New(t, "x"), "run")`:                     false,
		`out, _ := exec.Command(relayBinary, "status").Output()`:                            true,
		`r := spawn(t, relayBinary, nil, "run")`:                                            false,
		`func() { _ = dev.Run(ctx, dev.Options{Out: &out}) }()`:                             true,
		`a := New(Options{DB: db})`:                                                         true,
		`a := New(1)`:                                                                       false,
		`_ = output.Count`:                                                                  false,
	} {
		found := starters(t, "internal/api/x_test.go", "package x\nfunc f(t *testing.T) {\n"+body+"\n}\n")
		if got := slices.ContainsFunc(found, func(s starter) bool { return !s.watched }); got != want {
			t.Errorf("%s: unwatched %t, want %t", body, got, want)
		}
	}
	for param, watched := range map[string]bool{"*output.Buffer": true, "io.Writer": false} {
		found := starters(t, "cmd/relay/x_test.go", "package x\nfunc f(out "+param+") { execute(nil, nil, nil) }")
		if len(found) != 1 || found[0].watched != watched {
			t.Errorf("one that is given an %s: %+v", param, found)
		}
	}
}

// starter is a function that starts a relay.
type starter struct {
	name, by string
	watched  bool
}

func starters(t *testing.T, name, text string) (found []starter) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		s := starter{name: f.Name.Name, watched: slices.ContainsFunc(f.Type.Params.List, func(p *ast.Field) bool {
			at, ok := p.Type.(*ast.StarExpr)
			return ok && called(at.X) == "output.Buffer"
		})}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			switch what := called(call.Fun); {
			case what == "output.New" || what == "output.Once":
				s.watched = true
			case what == "daemon.New" || what == "api.New" || what == "dev.Run" || what == "process.Start",
				what == "execute" && strings.HasPrefix(name, "cmd/relay/"),
				what == "New" && strings.HasPrefix(name, "internal/api/") && len(call.Args) == 1 && isOptions(call.Args[0]),
				strings.HasPrefix(what, "exec.Command") && slices.ContainsFunc(call.Args, func(a ast.Expr) bool { return called(a) == "relayBinary" }):
				s.by = what
			}
			return true
		})
		if s.by != "" {
			found = append(found, s)
		}
	}
	return found
}

// called is the name of what an expression names, with its package; "" of anything else.
func called(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			return x.Name + "." + e.Sel.Name
		}
	}
	return ""
}

func isOptions(e ast.Expr) bool {
	lit, ok := e.(*ast.CompositeLit)
	return ok && called(lit.Type) == "Options"
}
