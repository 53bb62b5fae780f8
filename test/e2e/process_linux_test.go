package e2e_test

import "syscall"

// ownGroup puts a relay into a process group of its own. It dies with the test binary.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
