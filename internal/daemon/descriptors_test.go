package daemon

import "testing"

func TestEndpointConnections_LeaveDescriptorsForTheRest(t *testing.T) {
	for _, c := range []struct {
		limit uint64
		want  int
	}{{1 << 63, 1 << 20}, {1 << 20, 524_272}, {1024, 496}, {64, 16}, {34, 1}, {32, 1}, {0, 1}} {
		got := endpointConnections(c.limit, 8)
		if got != c.want {
			t.Errorf("limit %d: %d connections, want %d", c.limit, got, c.want)
		}
	}
}
