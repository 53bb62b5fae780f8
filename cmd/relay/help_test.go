package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// everyCommand calls f with each command that is ours and the words that call it.
func everyCommand(t *testing.T, f func(t *testing.T, c *cobra.Command, words []string)) {
	t.Helper()
	var walk func(c *cobra.Command, words []string)
	walk = func(c *cobra.Command, words []string) {
		t.Run(strings.Join(append([]string{"relay"}, words...), "_"), func(t *testing.T) { f(t, c, words) })
		for _, sub := range c.Commands() {
			if sub.Name() != "help" && sub.Name() != "completion" {
				walk(sub, append(append([]string(nil), words...), sub.Name()))
			}
		}
	}
	walk(newRoot(), nil)
}

func TestHelp_IsWhatTheGoldenFilesSay(t *testing.T) {
	known := make(map[string]bool)
	everyCommand(t, func(t *testing.T, _ *cobra.Command, words []string) {
		r := call(t, append(append([]string(nil), words...), "--help")...).exits(0).quiet()
		golden := filepath.Join("testdata", "help", strings.Join(append([]string{"relay"}, words...), "_")+".txt")
		known[golden] = true
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, []byte(r.out), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatalf("%v; write it with -update", err)
		}
		if r.out != string(want) {
			t.Errorf("relay %s says\n%s\nwant (rewrite with -update)\n%s", r.args, r.out, want)
		}
	})
	files, err := filepath.Glob("testdata/help/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[f] && !t.Failed() {
			t.Errorf("%s is of no command", f)
		}
	}
}

func TestCommands_HaveAnExampleThatIsOne(t *testing.T) {
	everyCommand(t, func(t *testing.T, c *cobra.Command, _ []string) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("summary %q: expected a phrase without a full stop", c.Short)
		}
		if !strings.Contains(c.Example, c.CommandPath()) && c.HasParent() && c.Parent().HasParent() {
			t.Errorf("example %q does not call %q", c.Example, c.CommandPath())
		}
		if c.Example == "" {
			t.Error("no example")
		}
	})
}

func TestCommands_PrintJSONWhereTheyPrintData(t *testing.T) {
	without := map[string]bool{"relay config schema": true, "relay secrets generate-key": true, "relay run": true, "relay dev": true, "relay version": true, "relay openapi": true}
	everyCommand(t, func(t *testing.T, c *cobra.Command, _ []string) {
		if c.HasSubCommands() || without[c.CommandPath()] {
			return
		}
		if c.Flags().ShorthandLookup("o") == nil {
			t.Errorf("%s has no -o", c.CommandPath())
		}
	})
}
