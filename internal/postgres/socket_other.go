//go:build !linux

package postgres

import "time"

// boundUnanswered does nothing where TCP_USER_TIMEOUT does not exist.
func boundUnanswered(uintptr, time.Duration) {}
