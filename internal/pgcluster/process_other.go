//go:build !linux

package pgcluster

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// sessionOf puts a child into its own session. No signal tells it of the owner's death here: what a killed owner
// leaves is stopped by the next Start.
func sessionOf(a account) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: a.credential}
}

// commandOf is the argument list of a running process; empty when there is none.
func commandOf(pid int) []string {
	line, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return nil
	}
	return strings.Fields(string(line))
}
