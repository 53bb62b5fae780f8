package deliver

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestNumbers_KnowWhatIsOnRecord holds numbers against a set, in random order.
func TestNumbers_KnowWhatIsOnRecord(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 7))
		n, set := numbers{}, make(map[int64]bool)
		for range 300 {
			v := 1 + r.Int64N(200)
			n.add(v)
			set[v] = true
			whole := int64(0)
			for set[whole+1] {
				whole++
			}
			var ahead []string
			for v := whole + 1; v <= 201; v++ {
				if set[v] && !set[v-1] {
					to := v
					for set[to+1] {
						to++
					}
					ahead = append(ahead, fmt.Sprintf("[%d,%d]", v, to))
				}
			}
			if want := "{" + strings.Join(ahead, ",") + "}"; n.whole != whole || n.multirange() != want {
				t.Fatalf("seed %d: %d %s, want %d %s", seed, n.whole, n.multirange(), whole, want)
			}
		}
		// What a new leader gives out is what is missing, and then what follows.
		p, ep := &Dispatcher{}, &Endpoint{lanes: laneSet{given: n.whole, taken: slices.Clone(n.ahead)}}
		given := make(map[int64]bool)
		for range 300 {
			v := p.nextNumber(ep)
			if set[v] || given[v] || v <= n.whole {
				t.Fatalf("seed %d: %d is given out twice", seed, v)
			}
			given[v] = true
		}
		for v := int64(1); v <= 250; v++ {
			if !set[v] && !given[v] {
				t.Fatalf("seed %d: %d is never given out", seed, v)
			}
		}
	}
}
