package pgcluster

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// sessionOf puts a child into its own session and has the kernel quit it when the owner dies. The signal is the one
// of an immediate stop: the postmaster ends its own children and shared memory, which SIGKILL would leave.
func sessionOf(a account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGQUIT, Credential: a.credential}
}

// commandOf is the argument list of a running process; empty when there is none (a zombie has none either).
func commandOf(pid int) []string {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(line) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
}
