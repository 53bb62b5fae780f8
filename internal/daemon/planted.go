//go:build faultpoints

package daemon

import "sync/atomic"

var passed atomic.Int64

// everyNth is true once in n calls.
func everyNth(n int64) bool { return passed.Add(1)%n == 0 }
