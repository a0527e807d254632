package demo

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

//go:embed skene.config.ts
var loopsFile []byte

//go:embed guard.sh
var guardScript string

// sidecar is the real one: the same binary, as a process of its own that knows nothing of the demo.
type sidecar struct {
	exe    string
	dir    string // holds skene.config.ts and the log; removed by close
	env    []string
	admin  string // host:port
	client *http.Client
	died   func(error) // told when it ends unasked

	guard *exec.Cmd
	lives io.Closer // the guard's input: it cleans up when this closes, however the demo ends

	mu     sync.Mutex
	cmd    *exec.Cmd
	asked  bool
	exited chan struct{}
}

// newSidecar makes its folder. Settings are all that it gets of an environment: whoever tries the demo
// may have their own DATABASE_URL and keys around.
func newSidecar(exe string, client *http.Client, died func(error), settings ...string) (*sidecar, error) {
	dir, err := os.MkdirTemp("", "tiergate-demo-")
	if err != nil {
		return nil, err
	}
	s := &sidecar{exe: exe, dir: dir, client: client, died: died}
	if s.admin, err = freeAddress(); err == nil {
		err = os.WriteFile(filepath.Join(dir, "skene.config.ts"), loopsFile, 0o600)
	}
	if err == nil {
		err = s.startGuard()
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s.env = append(settings, "TIERGATE_ADMIN_LISTEN="+s.admin, "PATH="+os.Getenv("PATH"), "HOME="+dir, "TMPDIR="+os.TempDir())
	return s, nil
}

func (s *sidecar) startGuard() (err error) {
	s.guard = exec.Command("/bin/sh", "-c", guardScript, "tiergate-guard", s.dir)
	s.guard.Dir = os.TempDir()
	s.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.lives, err = s.guard.StdinPipe(); err != nil {
		return err
	}
	return s.guard.Start()
}

// start runs it in a process group of its own, so that Ctrl-C reaches only the demo.
func (s *sidecar) start() error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.exe, "run", "-C", s.dir)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the sidecar: %w", err)
	}
	s.cmd, s.asked, s.exited = cmd, false, make(chan struct{})
	go s.wait(cmd, s.exited)
	return os.WriteFile(s.pid(), fmt.Appendln(nil, cmd.Process.Pid), 0o600)
}

func (s *sidecar) wait(cmd *exec.Cmd, exited chan struct{}) {
	err := cmd.Wait()
	os.Remove(s.pid())
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		s.died(errors.Join(errors.New("the sidecar ended by itself"), err))
	}
	close(exited)
}

// ready returns once it follows the change stream.
func (s *sidecar) ready(ctx context.Context) error {
	return await(ctx, "the sidecar to be ready", func() (bool, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.admin+"/readyz", nil)
		if err != nil {
			return false, err
		}
		response, err := s.client.Do(r)
		if err != nil {
			return false, nil // not listening yet
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK, nil
	})
}

// end sends a signal and waits; one that does not end in time is killed.
func (s *sidecar) end(signal os.Signal) {
	s.mu.Lock()
	s.asked = true
	cmd, exited := s.cmd, s.exited
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Signal(signal)
	select {
	case <-exited:
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		<-exited
	}
}

// close ends it and removes its folder.
func (s *sidecar) close() {
	s.end(syscall.SIGTERM)
	s.lives.Close()
	s.guard.Wait()
}

// command runs another of the binary's commands beside it, and returns what it printed.
func (s *sidecar) command(ctx context.Context, name string) (string, error) {
	cmd := exec.CommandContext(ctx, s.exe, name, "-C", s.dir)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

// tail returns the last lines of its log.
func (s *sidecar) tail() string {
	text, err := os.ReadFile(s.log())
	if err != nil {
		return err.Error()
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-25):], nil))
}

func (s *sidecar) log() string { return filepath.Join(s.dir, "sidecar.log") }
func (s *sidecar) pid() string { return filepath.Join(s.dir, "pid") }

// freeAddress picks a port for a process that starts later, and starts again: below the range from
// which systems take the ports of outgoing connections, so that it is still free by then.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		var l net.Listener
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(10000)))
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port on 127.0.0.1: %w", err)
}
