package guard

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The document is read from the binary; the list beside it comes from the packages that it imports.
func TestSBOM_NamesEveryModuleInTheBinary(t *testing.T) {
	run := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("go", args...)
		cmd.Dir = root
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, &stderr)
		}
		return out
	}
	binary := release(t)
	text := run("-C", "tools", "run", "./sbom", "-version", "v1.2.3", binary)
	if again := run("-C", "tools", "run", "./sbom", "-version", "v1.2.3", binary); !bytes.Equal(again, text) {
		t.Error("the same binary gives two documents")
	}
	var doc struct {
		BOMFormat, SpecVersion string
		Metadata               struct {
			Component struct{ Name, Version, Purl string }
		}
		Components   []struct{ Name, Version, Purl string }
		Dependencies []struct{ DependsOn []string }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	about := doc.Metadata.Component
	if doc.BOMFormat != "CycloneDX" || doc.SpecVersion != "1.6" || about.Name != module || about.Purl != "pkg:golang/"+module+"@v1.2.3" {
		t.Errorf("it is %s %s about %+v", doc.BOMFormat, doc.SpecVersion, about)
	}
	var named, refs []string
	for _, c := range doc.Components {
		if c.Purl != "pkg:golang/"+c.Name+"@"+strings.ReplaceAll(c.Version, "+", "%2B") {
			t.Errorf("%s %s has the purl %s", c.Name, c.Version, c.Purl)
		}
		if refs = append(refs, c.Purl); c.Name != "std" {
			named = append(named, c.Name+" "+c.Version)
		}
	}
	if len(doc.Dependencies) != 1 || !slices.Equal(doc.Dependencies[0].DependsOn, refs) || len(named) != len(refs)-1 {
		t.Errorf("the dependencies are %v, the components %v", doc.Dependencies, refs)
	}
	t.Setenv("CGO_ENABLED", "0")
	imported := strings.Split(strings.TrimSpace(string(run("list", "-deps", "-f",
		"{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}", "./cmd/relay"))), "\n")
	slices.Sort(imported)
	slices.Sort(named)
	if imported = slices.Compact(imported); !slices.Equal(named, imported) {
		t.Errorf("the document names\n%s\nthe binary imports\n%s", strings.Join(named, "\n"), strings.Join(imported, "\n"))
	}
}

// What is required directly has somebody who wanted it, and a reason that can be read.
func TestSecurity_ListsEveryDirectDependency(t *testing.T) {
	mod := files(t, ".mod")["go.mod"]
	required := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(mod, -1) {
		required[m[1]] = true
	}
	_, section, found := strings.Cut(files(t, ".md")["docs/security.md"], "### Dependencies\n")
	if !found || len(required) < 10 {
		t.Fatalf("docs/security.md has a section: %t; go.mod requires %d modules", found, len(required))
	}
	section, _, _ = strings.Cut(section, "\n#")
	listed := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.{10,}) \\|$").FindAllStringSubmatch(section, -1) {
		listed[m[1]] = true
		if !required[m[1]] {
			t.Errorf("docs/security.md lists %s, which go.mod does not require", m[1])
		}
	}
	for name := range required {
		if !listed[name] {
			t.Errorf("docs/security.md does not say what %s is for", name)
		}
	}
}
