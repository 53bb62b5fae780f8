package guard

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// faults is how many rows the fault matrix of docs/reliability.md has.
const faults = 132

// leastShown is the share of them, in percent, that tests must show.
const leastShown = 90

// TestDocs_NameTestsThatExist sees to it that every test in the table exists.
func TestFaultMatrix_HasEveryRowWithATestOrAReason(t *testing.T) {
	text := files(t, ".md")["docs/reliability.md"]
	_, text, ok := strings.Cut(text, "\n## Fault matrix\n")
	if !ok {
		t.Fatal("docs/reliability.md has no section Fault matrix")
	}
	text, _, _ = strings.Cut(text, "\n## ")
	row := regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \| (.*) \| (.*) \|$`)
	rows := make(map[int]bool)
	shown, last := 0, 0
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil || n != last+1 {
			t.Errorf("row %s follows row %d", m[1], last)
		}
		last = n
		rows[n] = true
		reason, waived := strings.CutPrefix(m[4], "not yet: ")
		switch {
		case strings.TrimSpace(m[2]) == "":
			t.Errorf("row %d names no fault", n)
		case waived && len(reason) < 10:
			t.Errorf("row %d: %q is no reason", n, reason)
		case waived:
		case len(testName.FindAllString(m[4], -1)) == 0:
			t.Errorf("row %d names neither a test nor a reason: %s", n, m[4])
		case strings.TrimSpace(m[3]) == "":
			t.Errorf("row %d does not say what happens", n)
		default:
			shown++
		}
	}
	for n := 1; n <= faults; n++ {
		if !rows[n] {
			t.Errorf("row %d is missing", n)
		}
	}
	if want := fmt.Sprintf("\n%d of %d rows are shown by tests.\n", shown, faults); !strings.Contains(text, want) {
		t.Errorf("the text should say: %s", strings.TrimSpace(want))
	}
	t.Logf("%d of %d rows are shown by tests", shown, faults)
	if shown*100 < faults*leastShown {
		t.Errorf("%d of %d rows are shown by tests, want %d %%", shown, faults, leastShown)
	}
}
