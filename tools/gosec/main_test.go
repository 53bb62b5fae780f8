package main

import (
	"regexp"
	"slices"
	"testing"
)

// Without this a checker that sees nothing, for example because its own API has changed, would look like good code.
func TestCheck_SeesWhatHasNoReason(t *testing.T) {
	faults, err := check([]string{"./testdata/weak"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range faults {
		got = append(got, regexp.MustCompile(`^testdata/weak/weak\.go:(\d+)(: G\d+|: invalid)?`).FindString(f))
	}
	const file = "testdata/weak/weak.go:"
	want := []string{file + "13: G404", file + "13: invalid", file + "16: G404", file + "16: invalid", file + "19: G404", file + "7: G404"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", faults, want)
	}
	if _, err := check([]string{"./testdata/none/..."}); err == nil {
		t.Error("nothing to look at is no error")
	}
}
