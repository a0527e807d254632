package dbserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tiergate/tiergate/internal/loops"
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

// start runs the server on its port and waits until it takes connections. The caller holds p.mu.
func (p *Postgres) start(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(p.dir, "server.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := p.Command(context.WithoutCancel(ctx), "postgres", "-D", p.data(), "-p", strconv.Itoa(p.port))
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return &loops.Fault{Step: "start PostgreSQL", Err: err, Hint: installHint()}
	}
	s := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(s.exited)
		cmd.Wait()
	}()
	p.server = s
	if err := p.awaitReady(ctx); err != nil {
		p.server.kill()
		return err
	}
	return nil
}

// awaitReady returns when a connection succeeds, the server has exited or the context is done.
func (p *Postgres) awaitReady(ctx context.Context) error {
	server := p.server
	attempt, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // whoever took the port may accept a connection and stay silent
		select {
		case <-server.exited:
			cancel()
		case <-attempt.Done():
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(attempt, p.URL(""))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-server.exited:
			return p.startFault()
		case <-ctx.Done():
			return &loops.Fault{Step: "wait for PostgreSQL to start", Err: fmt.Errorf("%w; last answer: %w", ctx.Err(), err)}
		case <-tick.C:
		}
	}
}

// startFault says from the server's own log why it exited.
func (p *Postgres) startFault() error {
	log, err := os.ReadFile(filepath.Join(p.dir, "server.log"))
	if err != nil {
		return err
	}
	switch text := string(log); {
	case strings.Contains(text, "could not create any TCP/IP sockets"):
		return errPortTaken
	case strings.Contains(text, "pre-existing shared memory block"):
		return errStillDying
	default:
		return &loops.Fault{Step: "start PostgreSQL", Err: errors.New(strings.TrimSpace(text))}
	}
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

// shutdown ends the server in an orderly way: open sessions are cut, everything is written down.
func (s *process) shutdown(ctx context.Context) error {
	if !s.running() {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	select {
	case <-s.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop PostgreSQL: %w", ctx.Err())
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

// forget removes the process id that a dead server left in its folder: another program may own it now.
func (s *process) forget(data string) {
	if !s.running() {
		os.Remove(filepath.Join(data, "postmaster.pid"))
	}
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
