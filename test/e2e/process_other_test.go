//go:build !linux

package e2e_test

import "syscall"

// ownGroup puts a relay into a process group of its own.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
