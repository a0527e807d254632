package dbserver

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// assertWaitsForItsPort kills a server and takes its port for a while.
func assertWaitsForItsPort(t *testing.T, i *instance) {
	t.Helper()
	i.Kill()
	other, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(i.port))
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	err = i.start(t.Context())
	i.mu.Unlock()
	if !errors.Is(err, errPortTaken) {
		t.Errorf("error = %v, want %v", err, errPortTaken)
	}
	restarted := make(chan error, 1)
	go func() { restarted <- i.Restart(t.Context()) }()
	other.Close()
	if err := <-restarted; err != nil {
		t.Error(err)
	}
}

// assertEndsWithItsParent runs the calling test again, as a program that starts a server, and kills it.
func assertEndsWithItsParent(t *testing.T, start func() (*instance, error)) {
	t.Helper()
	const variable = "DBSERVER_TEST_CHILD"
	if os.Getenv(variable) != "" {
		i, err := start()
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString(i.dir + "\n" + strconv.Itoa(i.server.cmd.Process.Pid) + "\n.")
		select {} // until killed
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), variable+"=1")
	var out strings.Builder
	reader, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 512); !strings.HasSuffix(out.String(), "."); {
		n, err := reader.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, out.String())
		}
	}
	child.Process.Kill()
	child.Wait()
	lines := strings.Split(out.String(), "\n")
	pid, err := strconv.Atoi(lines[1])
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the server to end and its folder to go", func() bool {
		_, err := os.Stat(lines[0])
		return os.IsNotExist(err) && !alive(pid)
	})
}

func assertGone(t *testing.T, i *instance) {
	t.Helper()
	if _, err := os.Stat(i.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", i.dir, err)
	}
	if alive(i.server.cmd.Process.Pid) {
		t.Error("the server still runs")
	}
	if i.engine.ping(t.Context()) == nil {
		t.Error("the server still answers")
	}
}

// alive is false for a process that has ended, even if nobody has reaped it.
func alive(pid int) bool {
	if stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat")); err == nil {
		return !strings.Contains(string(stat), ") Z ")
	}
	return syscall.Kill(pid, 0) == nil
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !done() {
		select {
		case <-deadline:
			t.Fatalf("waited 30 s for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
