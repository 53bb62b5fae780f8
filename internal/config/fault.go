package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Fault is one thing that is wrong with the configuration. It holds no secret: Got and Excerpt are masked.
type Fault struct {
	File     string `json:"file,omitempty"`    // "" for a fault outside the file
	Line     int    `json:"line,omitempty"`    // from 1
	Column   int    `json:"column,omitempty"`  // in characters, from 1
	Source   string `json:"source,omitempty"`  // "env RELAY_LOG_LEVEL" or "flag --log-level", outside the file
	Key      string `json:"key,omitempty"`     // path of the key as written, "" for the file as a whole
	Got      string `json:"got"`               // what stood there
	Expected string `json:"expected"`          // what may stand there
	Nearest  string `json:"nearest,omitempty"` // valid key or value that was probably meant
	Excerpt  string `json:"excerpt,omitempty"` // the line, with a mark below the column
}

// String returns the fault as "place: key: got X, expected Y; did you mean Z?" and the excerpt below.
func (f Fault) String() string {
	var b strings.Builder
	switch {
	case f.Source != "":
		b.WriteString(f.Source + ": ")
	case f.File != "":
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d", f.Line)
		}
		if f.Column > 0 {
			fmt.Fprintf(&b, ":%d", f.Column)
		}
		b.WriteString(": ")
	}
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString("got " + f.Got + ", expected " + f.Expected)
	if f.Nearest != "" {
		b.WriteString("; did you mean " + f.Nearest + "?")
	}
	if f.Excerpt != "" {
		b.WriteString("\n" + f.Excerpt)
	}
	return b.String()
}

// Error holds all faults of a configuration: those of the file in the order of its lines, then those of
// the environment and of the flags. The command line exits with 3 on it.
type Error struct {
	Faults []Fault
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("invalid configuration")
	if len(e.Faults) > 1 {
		fmt.Fprintf(&b, " (%d faults)", len(e.Faults))
	}
	for _, f := range e.Faults {
		b.WriteString("\n" + f.String())
	}
	return b.String()
}

// longestExcerpt is the longest part of a line that is shown, in characters.
const longestExcerpt = 120

// excerpt returns line n of lines (from 1) with a mark below the column, or "" when there is no such line.
func excerpt(lines []string, n, column int) string {
	if n < 1 || n > len(lines) {
		return ""
	}
	text := []rune(printable(maskLine(lines[n-1])))
	if len(text) > longestExcerpt {
		text = append(text[:longestExcerpt], '…')
	}
	number := strconv.Itoa(n)
	s := "  " + number + " | " + strings.TrimRight(string(text), " ")
	if column >= 1 && column <= len(text) {
		s += "\n  " + strings.Repeat(" ", len(number)) + " | " + strings.Repeat(" ", column-1) + "^"
	}
	return s
}

// printable replaces, one for one, what would act on a terminal instead of showing on it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '�'
	}, s)
}

// quote returns a value as it stands in a message: short, printable, in quotes.
func quote(s string) string {
	text := []rune(printable(maskText(s)))
	if len(text) > 60 {
		text = append(text[:60], '…')
	}
	if strings.ContainsRune(string(text), '"') {
		return "`" + string(text) + "`"
	}
	return `"` + string(text) + `"`
}
