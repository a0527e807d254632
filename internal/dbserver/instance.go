package dbserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// engine is what differs between the kinds of server while they run.
type engine interface {
	serve(ctx context.Context, port int) *exec.Cmd // the main process
	ping(ctx context.Context) error                // nil once it takes connections
	refusal(log string) error                      // a reason to try once more, read from the log; nil: none known
}

// instance is one private server of any kind. Its methods may be called from several goroutines.
type instance struct {
	*programs
	engine engine
	quit   syscall.Signal // ends the server in an orderly way, without waiting for sessions
	abort  string         // name of the signal that ends it at once, with all its processes
	dir    string         // everything of this server; removed by Stop
	port   int
	attr   *syscall.SysProcAttr
	keeper *keeper

	mu     sync.Mutex // held while the server is started or ended
	server *process   // nil before the first start
}

// create makes the folder, lets fill put data into it and starts the server.
func (i *instance) create(ctx context.Context, parent string, fill func() error) error {
	var err error
	if i.dir, err = makeServerDir(i.kind, parent, i.attr); err != nil {
		return err
	}
	if i.keeper, err = startKeeper(i.dir, i.abort, i.attr); err != nil {
		return err
	}
	if err := fill(); err != nil {
		return err
	}
	return i.startOnFreePort(ctx)
}

// startOnFreePort tries ports until one is still free when the server binds it.
func (i *instance) startOnFreePort(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	for {
		var err error
		if i.port, err = freePort(); err != nil {
			return err
		}
		err = i.start(ctx)
		if !errors.Is(err, errPortTaken) {
			return err
		}
	}
}

// start runs the server on its port and waits until it takes connections. The caller holds i.mu.
func (i *instance) start(ctx context.Context) error {
	log, err := os.OpenFile(i.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := i.engine.serve(context.WithoutCancel(ctx), i.port)
	// The shell leaves its process id to the keeper before it becomes the server, and fails where the folder is gone.
	cmd.Args = append([]string{"sh", "-c", `echo $$ > "$0" && exec "$@"`, filepath.Join(i.dir, "pid"), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	cmd.Dir = i.dir
	cmd.SysProcAttr = i.attr
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return &loops.Fault{Step: "start " + i.kind, Err: err}
	}
	s := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(s.exited)
		cmd.Wait()
	}()
	i.server = s
	if err := i.awaitReady(ctx); err != nil {
		s.kill()
		return err
	}
	return nil
}

// awaitReady returns when a connection succeeds, the server has exited or the context is done.
func (i *instance) awaitReady(ctx context.Context) error {
	server := i.server
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
		err := i.engine.ping(attempt)
		if err == nil {
			return nil
		}
		select {
		case <-server.exited:
			return i.startFault()
		case <-ctx.Done():
			return &loops.Fault{Step: "wait for " + i.kind + " to start", Err: fmt.Errorf("%w; last answer: %w", ctx.Err(), err)}
		case <-tick.C:
		}
	}
}

// startFault says from the server's own log why it exited.
func (i *instance) startFault() error {
	log, err := os.ReadFile(i.log())
	if err != nil {
		return err
	}
	if err := i.engine.refusal(string(log)); err != nil {
		return err
	}
	return &loops.Fault{Step: "start " + i.kind, Err: errors.New(strings.TrimSpace(string(log)))}
}

// Restart ends the server in an orderly way if it runs, and starts it again at the same address.
func (i *instance) Restart(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.server.shutdown(ctx, i.quit); err != nil {
		return fmt.Errorf("stop %s: %w", i.kind, err)
	}
	for {
		err := i.start(ctx)
		// After Kill the operating system may still be clearing the dead server away.
		if !errors.Is(err, errPortTaken) && !errors.Is(err, errStillDying) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill ends every process of the server with SIGKILL, as a crash would; Restart recovers its data.
func (i *instance) Kill() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.server.kill()
}

// Stop ends the server and removes all its data. It may be called twice.
func (i *instance) Stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.keeper != nil {
		if !i.server.running() { // its process id may be another program's by now
			os.Remove(filepath.Join(i.dir, "pid"))
		}
		i.keeper.close()
	}
	i.server.kill() // normally gone by now: only if someone killed the keeper
	if i.dir != "" {
		os.RemoveAll(i.dir)
	}
}

func (i *instance) data() string { return filepath.Join(i.dir, "data") }
func (i *instance) log() string  { return filepath.Join(i.dir, "server.log") }
