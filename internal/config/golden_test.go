package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Each file of testdata holds one mistake (many_faults more), and the message stands beside it.
func TestLoad_TellsEachMistakeWithPlaceAndWayOut(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("glob: %d files, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			_, err := Load(LoadOptions{File: path})
			invalid, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("got %v, want an *Error", err)
			}
			got := invalid.Error() + "\n"
			if strings.Contains(got, "hunter2") {
				t.Errorf("the message shows the password:\n%s", got)
			}
			for _, f := range invalid.Faults {
				if f.File != path || f.Line == 0 || f.Got == "" || f.Expected == "" || f.Excerpt == "" {
					t.Errorf("incomplete fault: %+v", f)
				}
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".want"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v; write it with -update", err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}
