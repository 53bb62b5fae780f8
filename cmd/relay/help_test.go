package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
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

// What cannot be undone is asked for twice, and tells before what it would cost.
func TestCommands_ThatDestroyWantYes(t *testing.T) {
	destructive := regexp.MustCompile(`(?i)\b(remove|delete|discard|erase|revoke|cancel|drop|give up|end a replay)\b`)
	harmless := map[string]bool{
		"relay deliveries": true, "relay quarantine": true, "relay token": true, "relay tenant": true, // groups
	}
	found := 0
	everyCommand(t, func(t *testing.T, c *cobra.Command, _ []string) {
		if c.HasSubCommands() && !c.Runnable() || harmless[c.CommandPath()] || !destructive.MatchString(c.Name()+" "+c.Short) {
			return
		}
		found++
		for _, name := range []string{"yes", "dry-run"} {
			if c.Flags().Lookup(name) == nil {
				t.Errorf("%s has no --%s", c.CommandPath(), name)
			}
		}
		if !strings.Contains(c.Example, "--yes") {
			t.Errorf("the example of %s has no --yes", c.CommandPath())
		}
	})
	if found < 7 {
		t.Errorf("only %d commands that destroy something are found", found)
	}
}

func TestHelp_ExplainsGlobalFlagsOnOnePage(t *testing.T) {
	everyCommand(t, func(t *testing.T, c *cobra.Command, words []string) {
		out := call(t, append(append([]string(nil), words...), "--help")...).exits(0).out
		explained := strings.Contains(out, "lowest level that is logged")
		if named := strings.Contains(out, "--log-level"); !named || explained != !c.HasParent() {
			t.Errorf("%s names the global flags: %t, explains them: %t", c.CommandPath(), named, explained)
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
