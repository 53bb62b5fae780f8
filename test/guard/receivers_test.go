package guard

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/outbox-relay/relay/internal/deliver"
	"github.com/outbox-relay/relay/internal/deliver/webhook"
)

// answerRow is a row of the table of answers in docs/receivers.md.
type answerRow struct{ answer, result, attempt, again, endpoint string }

// answerRows reads the table.
func answerRows(t *testing.T) []answerRow {
	t.Helper()
	text := files(t, ".md")["docs/receivers.md"]
	_, table, found := strings.Cut(text, "| answer | result | attempt | tried again | the endpoint |\n| --- | --- | --- | --- | --- |\n")
	if !found {
		t.Fatal("docs/receivers.md has no table of answers")
	}
	var rows []answerRow
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 {
			break
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, answerRow{cells[0], cells[1], cells[2], cells[3], cells[4]})
	}
	if len(rows) < 10 {
		t.Fatalf("only %d rows in the table of answers", len(rows))
	}
	return rows
}

var (
	oneCode   = regexp.MustCompile(`^(\d{3})$`)
	codeRange = regexp.MustCompile(`^(?:other )?(\d{3}) to (\d{3})$`)
)

// rowOf finds the row of a status: that of the code, else that of its range, else
// that of other codes.
func rowOf(rows []answerRow, status int) *answerRow {
	var ranged, rest *answerRow
	for i := range rows {
		r := &rows[i]
		if m := oneCode.FindStringSubmatch(r.answer); m != nil && m[1] == strconv.Itoa(status) {
			return r
		}
		if m := codeRange.FindStringSubmatch(r.answer); m != nil && m[1] <= strconv.Itoa(status) && strconv.Itoa(status) <= m[2] {
			ranged = r
		}
		if r.answer == "other codes" {
			rest = r
		}
	}
	if ranged != nil {
		return ranged
	}
	return rest
}

func TestReceivers_TheTableOfAnswersIsWhatTheCodeDoes(t *testing.T) {
	rows := answerRows(t)
	for status := 100; status <= 999; status++ {
		r := rowOf(rows, status)
		if r == nil {
			t.Fatalf("no row for %d", status)
		}
		out := webhook.Classify(status)
		result := "delivered"
		if !out.Success() {
			result = "`" + string(out.Reason) + "`"
		}
		if !strings.HasPrefix(r.result, result) {
			t.Errorf("%d: the table says %q, the code %s", status, r.result, result)
		}
		if want := map[bool]string{true: "not spent", false: "spent"}[out.Throttled()]; r.attempt != want {
			t.Errorf("%d: the table says that the attempt is %s, the code that it is %s", status, r.attempt, want)
		}
		for what, does := range map[string]bool{"disabled": out.Gone, "paused": out.Throttled() || out.Unavailable(),
			"failed": !out.Success() && !out.Gone && !out.Throttled(), "works": out.Success()} {
			if strings.Contains(r.endpoint, what) != does {
				t.Errorf("%d: the table says that the endpoint %s, and the code says %s: %v", status, r.endpoint, what, does)
			}
		}
	}
}

func TestReceivers_TheTableOfAnswersHasEveryReason(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(root, "internal/deliver/reason.go"))
	if err != nil {
		t.Fatal(err)
	}
	code := make(map[string]bool)
	for _, m := range regexp.MustCompile(`Reason\w+ +Reason = "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		code[m[1]] = true
	}
	if !code[string(deliver.ReasonBody)] || len(code) < 10 {
		t.Fatalf("reasons found: %v", code)
	}
	table := make(map[string]bool)
	for _, r := range answerRows(t) {
		if m := regexp.MustCompile("^`(\\w+)`").FindStringSubmatch(r.result); m != nil {
			table[m[1]] = true
		}
	}
	if got, want := slices.Sorted(maps.Keys(table)), slices.Sorted(maps.Keys(code)); !slices.Equal(got, want) {
		t.Errorf("reasons in the table %v, in the code %v", got, want)
	}
}
