package dbserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"syscall"
)

var (
	errPortTaken  = errors.New("the port is taken")
	errStillDying = errors.New("a killed server's processes still hold its memory")
)

// process is one life of a server, from start to exit.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed once the main process has been reaped
}

func (s *process) running() bool {
	if s == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// shutdown ends the server with the signal that it takes for an orderly end: open sessions are cut, everything is written down.
func (s *process) shutdown(ctx context.Context, quit syscall.Signal) error {
	if !s.running() {
		return nil
	}
	if err := s.cmd.Process.Signal(quit); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kill ends the main process and its children with SIGKILL and waits for the main one. Each
// child leads a process group of its own, so the children are looked up while their parent stands still.
func (s *process) kill() {
	if !s.running() {
		return
	}
	s.cmd.Process.Signal(syscall.SIGSTOP)
	for _, pid := range children(s.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	s.cmd.Process.Kill()
	<-s.exited
}

// freePort picks a port below the range from which systems take those of outgoing connections, so
// that it is still free when the server starts again.
func freePort() (int, error) {
	var err error
	for range 100 {
		var l net.Listener
		port := 20000 + rand.IntN(10000)
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port on 127.0.0.1: %w", err)
}
