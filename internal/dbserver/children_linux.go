package dbserver

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// children returns the ids of a process's direct children, read from /proc: a bare machine has no ps.
func children(parent int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		// "pid (name) state ppid …": the name may hold spaces and brackets.
		text := string(stat)
		pid, _ := strconv.Atoi(text[:strings.IndexByte(text, ' ')])
		after := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if after[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}
