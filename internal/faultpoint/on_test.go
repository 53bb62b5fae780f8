//go:build faultpoints

package faultpoint

import (
	"testing"
	"time"
)

func TestParse_ReadsPointsActionsAndNumbers(t *testing.T) {
	found, err := parse("after_park_commit=exit@3; before_status_update=sleep:200ms@5+;in_load=error")
	if err != nil {
		t.Fatal(err)
	}
	if a := found[AfterParkCommit]; a == nil || a.kind != "exit" || a.at != 3 || a.again {
		t.Errorf("after_park_commit: %+v", a)
	}
	if a := found[BeforeStatusUpdate]; a == nil || a.kind != "sleep" || a.sleep != 200*time.Millisecond || a.at != 5 || !a.again {
		t.Errorf("before_status_update: %+v", a)
	}
	if a := found[InLoad]; a == nil || a.kind != "error" || a.at != 1 {
		t.Errorf("in_load: %+v", a)
	}
	for _, bad := range []string{"nowhere=exit", "in_load=run", "in_load=exit@0", "in_load=exit@x", "in_load=sleep", "in_load=sleep:long", "in_load=exit:1s"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestAction_HappensAtItsPassing(t *testing.T) {
	once, again := &action{at: 2}, &action{at: 2, again: true}
	var got [2][]bool
	for range 4 {
		got[0], got[1] = append(got[0], once.due()), append(got[1], again.due())
	}
	for i, want := range [][]bool{{false, true, false, false}, {false, true, true, true}} {
		for n := range want {
			if got[i][n] != want[n] {
				t.Errorf("action %d, passing %d: %t", i, n+1, got[i][n])
			}
		}
	}
}
