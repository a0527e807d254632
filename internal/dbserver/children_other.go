//go:build !linux

package dbserver

import (
	"os/exec"
	"strconv"
	"strings"
)

// children returns the ids of a process's direct children.
func children(parent int) []int {
	var pids []int
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(parent)).Output()
	for _, field := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
