package guard

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// securityRules is how many rules docs/security.md has to answer.
const securityRules = 38

// TestDocs_NameTestsThatExist sees to it that every test in the tables exists.
func TestSecurity_EveryRuleHasATestOrAReason(t *testing.T) {
	text := files(t, ".md")["docs/security.md"]
	row := regexp.MustCompile(`(?m)^\| (S\d+) \| (.*) \| (.*?) ?\| (.*) \|$`)
	seen := make(map[string]bool)
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		name := m[1]
		if seen[name] {
			t.Errorf("%s stands twice", name)
		}
		seen[name] = true
		reason, waived := strings.CutPrefix(m[4], "not yet: ")
		switch {
		case strings.TrimSpace(m[2]) == "":
			t.Errorf("%s does not say what is asked", name)
		case waived && len(reason) < 10:
			t.Errorf("%s: %q is no reason", name, reason)
		case waived:
		case len(testName.FindAllString(m[4], -1)) == 0:
			t.Errorf("%s names neither a test nor a reason: %s", name, m[4])
		case strings.TrimSpace(m[3]) == "":
			t.Errorf("%s does not say what is done", name)
		}
	}
	for n := range securityRules {
		if name := "S" + strconv.Itoa(n+1); !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}
