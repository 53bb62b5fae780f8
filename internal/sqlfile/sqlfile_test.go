package sqlfile

import (
	"testing"
	"testing/fstest"
)

func TestReader_ReadsTheFileOfAName(t *testing.T) {
	t.Parallel()
	query := Reader(fstest.MapFS{"queries/one.sql": {Data: []byte("SELECT 1")}})
	if got := query("one"); got != "SELECT 1" {
		t.Errorf("%q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a name without a file did not panic")
		}
	}()
	query("two")
}
