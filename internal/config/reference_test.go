package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const reference = "../../configs/relay.yaml"

// A commented-out key has no space behind its #, a sentence has one.
var commentedKey = regexp.MustCompile(`(?m)^( *)#([a-z_]+:)`)

func TestReference_StatesEveryKeyWithItsDefault(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, LoadOptions{File: reference})
	if changed := Changed(Default(), c); len(changed) > 0 {
		t.Errorf("not the default: %v", changed)
	}

	all := parseFile(reference, commentedKey.ReplaceAll(text, []byte("$1$2")))
	for _, f := range all.faults {
		t.Errorf("with all comments taken off: %s", f)
	}
	for _, key := range fileKeys {
		e := all.entries[key]
		switch s := settingOf[key]; {
		case e == nil:
			t.Errorf("%s is missing", key)
		case s != nil && s.def != "" && c.Origin(key).Source != SourceFile:
			t.Errorf("%s has a default and is commented out", key)
		case s != nil && s.def == "" && !s.list && c.Origin(key).Source == SourceFile:
			t.Errorf("%s has no default and is set", key)
		}
		if e != nil && !explained(all.lines, e.place.Line) {
			t.Errorf("%s has no comment that names its default", key)
		}
	}
}

// explained says whether the comment right above a line names a default.
func explained(lines []string, n int) bool {
	var comment string
	for i := n - 2; i >= 0 && strings.HasPrefix(strings.TrimSpace(lines[i]), "# "); i-- {
		comment = lines[i] + comment
	}
	return strings.Contains(comment, "Default: ") || strings.Contains(comment, "No default.")
}

func TestReference_HasExamplesThatAreValid(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	const noExample = "secrets.key" // somebody would use it
	// Of these, one excludes the others.
	exclusive := []string{"#secret: ", "#jwks_url: ", "#jwks_path: "}
	alternative := map[string]bool{} // to the line above it
	for key := range secretOf {
		alternative[leafOf(key)] = true
	}
	seen := make(map[string]bool)
	for _, one := range exclusive {
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			other := slices.ContainsFunc(exclusive, func(a string) bool { return a != one && strings.Contains(line, a) })
			if m := commentedKey.FindStringSubmatch(line); !other && !strings.Contains(line, "#key:") && (m == nil || !alternative[strings.TrimSuffix(m[2], ":")]) {
				lines[i] = commentedKey.ReplaceAllString(line, "$1$2")
			}
		}
		c := mustLoad(t, LoadOptions{File: write(t, "relay.yaml", strings.Join(lines, "\n"))})
		for _, s := range settings {
			seen[s.key] = seen[s.key] || c.Origin(s.key).Source == SourceFile
		}
	}
	for _, s := range settings {
		if !s.list && s.key != noExample && !seen[s.key] {
			t.Errorf("%s has no example", s.key)
		}
	}
}
