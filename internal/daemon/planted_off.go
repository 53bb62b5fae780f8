//go:build !faultpoints

package daemon

func everyNth(int64) bool { return false }
