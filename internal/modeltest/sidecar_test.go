package modeltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tiergate/tiergate/internal/dbserver"
)

// parallel is how many servers there are, and so how many tests run at a time at most.
const parallel = 2

// fleet is what the tests share: the sidecar's binaries, and private servers that are lent out, one to a
// test at a time, because a history crashes its server.
type fleet struct {
	once    sync.Once
	err     error
	shipped string // the sidecar
	tiny    string // one that gathers seven rows at most, and commits positions inside of transactions all the time
	servers chan *dbserver.Postgres
}

var shared = fleet{servers: make(chan *dbserver.Postgres, parallel)}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tiergate-model-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.shipped, shared.tiny = filepath.Join(dir, "sidecar"), filepath.Join(dir, "sidecar-tiny")
	code := m.Run()
	for len(shared.servers) > 0 {
		(<-shared.servers).Stop()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// build makes both binaries, and starts the servers meanwhile.
func (f *fleet) build() {
	var wg sync.WaitGroup
	errs := make([]error, parallel+1)
	for i := range parallel {
		wg.Go(func() {
			server, err := dbserver.StartPostgres(context.Background(), dbserver.Options{Fast: true,
				Settings: map[string]string{"autovacuum": "off", "shared_buffers": "32MB", "track_commit_timestamp": "on"}})
			if errs[i] = err; err == nil {
				f.servers <- server
			}
		})
	}
	for _, args := range [][]string{{"-o", f.shipped}, {"-o", f.tiny, "-tags", "tinybatches"}} {
		out, err := exec.Command("go", append(append([]string{"build"}, args...), "../../cmd/sidecar")...).CombinedOutput()
		if err != nil {
			errs[parallel] = fmt.Errorf("build the sidecar: %w\n%s", err, out)
		}
	}
	wg.Wait()
	f.err = errors.Join(append(errs, readSources())...)
}

// readSources looks at every folder that the sidecar is made of: go test forgets a result when a file
// changed that the test looked at, and does not know what a child process read.
func readSources() error {
	var errs []error
	for _, dir := range []string{"../../cmd", "../../internal", "../../sql"} {
		errs = append(errs, filepath.WalkDir(dir, func(_ string, _ fs.DirEntry, err error) error { return err }))
	}
	return errors.Join(errs...)
}

// borrow returns a running server for as long as the test lasts.
func (f *fleet) borrow(t *testing.T) *dbserver.Postgres {
	t.Helper()
	if f.once.Do(f.build); f.err != nil {
		t.Fatal(f.err)
	}
	server := <-f.servers
	t.Cleanup(func() { f.servers <- server })
	return server
}

// process is a sidecar that runs as a child.
type process struct {
	cmd      *exec.Cmd
	out      lockedBuffer
	done     chan struct{} // closed when it has ended
	doomed   atomic.Bool   // somebody ends it, now or soon
	restarts int           // of the server, before it was started
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// spawn starts a sidecar.
func spawn(t *testing.T, binary, dir string, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(binary, append(args, "-C", dir)...), done: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

// alive reports whether it runs, and nobody is about to end it.
func (p *process) alive() bool { return !p.ended() && !p.doomed.Load() }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// hungUp reports whether a SIGHUP ended it: it did not listen yet.
func (p *process) hungUp() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGHUP
}

// kill is SIGKILL, and waits until the process is gone.
func (p *process) kill() {
	p.doomed.Store(true)
	p.cmd.Process.Kill()
	<-p.done
}

// killAfter ends the process with SIGKILL a moment later, whatever it does then.
func (p *process) killAfter(d time.Duration) {
	p.doomed.Store(true)
	time.AfterFunc(d, func() { p.cmd.Process.Kill() })
}

// terminate asks the process to end, and fails if it does not do so in good order.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	p.doomed.Store(true)
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.cmd.Process.Signal(syscall.SIGQUIT)
		<-p.done
		t.Fatalf("the sidecar did not end after SIGTERM:\n%s", p.out.String())
	}
	if code := p.cmd.ProcessState.ExitCode(); code > 0 { // -1: it did not listen yet
		t.Fatalf("exit code %d after SIGTERM:\n%s", code, p.out.String())
	}
}

// environment is what a child needs: nothing of the tester's own variables but the path.
func environment(url, resend string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TZ=Asia/Kathmandu", // nothing may depend on the host's zone
		"DATABASE_URL=" + url, "RESEND_API_KEY=re_test", "RESEND_BASE_URL=" + resend, "EMAIL_FROM=Shop <hello@shop.test>",
		"UPGRADE_URL=https://shop.test/upgrade", "TIERGATE_EMAIL_RATE=1000", "TIERGATE_ADMIN_LISTEN=127.0.0.1:0", "TIERGATE_TEST_CLOCK=on",
	}
}
