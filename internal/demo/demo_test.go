package demo

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the sidecar, built once for all tests.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tiergate-demo-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "sidecar")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "../../cmd/sidecar").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// performance is one run of the demo as a process.
type performance struct {
	cmd    *exec.Cmd
	dir    string // its temporary folder
	out    io.Closer
	lines  *bufio.Scanner
	seen   strings.Builder
	stderr bytes.Buffer
}

// perform starts the demo in a temporary folder of its own, with variables that must not matter to it.
func perform(t *testing.T, args ...string) *performance {
	t.Helper()
	dir, err := os.MkdirTemp("", "tiergate-demo-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil { // as /tmp: root's server runs as another user
		t.Fatal(err)
	}
	p := &performance{cmd: exec.Command(binary, append([]string{"demo"}, args...)...), dir: dir}
	p.cmd.Env = append(os.Environ(), "TMPDIR="+dir, "DATABASE_URL=postgres://nobody@127.0.0.1:1/production",
		"DIRECT_URL=postgres://nobody@127.0.0.1:1/production", "SMTP_URL=smtp://127.0.0.1:1", "TIERGATE_EMAIL_MODE=off")
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out, p.lines = out, bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

// until reads the story up to a line that matches.
func (p *performance) until(t *testing.T, pattern string) {
	t.Helper()
	line := regexp.MustCompile(pattern)
	for p.lines.Scan() {
		fmt.Fprintln(&p.seen, p.lines.Text())
		if line.MatchString(p.lines.Text()) {
			return
		}
	}
	t.Fatalf("no line like %q in:\n%s%s", pattern, p.seen.String(), p.stderr.String())
}

// end reads the rest and returns the exit code.
func (p *performance) end() int {
	for p.lines.Scan() {
		fmt.Fprintln(&p.seen, p.lines.Text())
	}
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// leftovers lists files and processes that are still there.
func (p *performance) leftovers() (left []string) {
	left, _ = filepath.Glob(filepath.Join(p.dir, "*"))
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range processes {
		if line, err := os.ReadFile(name); err == nil && bytes.Contains(line, []byte(p.dir)) {
			left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}

func TestStory(t *testing.T) {
	p := perform(t)
	code := p.end()
	t.Log("\n" + p.seen.String() + p.stderr.String())
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for _, line := range []string{
		`ann +call \d+ → 402, [\d.]+ ms after the commit of call 100 \(flag: [\d.]+ ms\)`,
		`mail +→ ann@example.com “You've reached your free limit of 100 for features”`,
		`ann +call \d+ served, [\d.]+ ms after paying`,
		`ann +conversion: free → paid at the wall of features, \d+ of 100 used, prompt sent`,
		`sidecar +kill -9`,
		`sidecar +started again, \d+ ms after the kill: \d+ calls came meanwhile, all counted`,
		`mail +the restarted sidecar sent it again under the same key: 3 requests, 2 mails`,
		`dan +call \d+ → 402, `,
		`bob +is free again: call \d+ → 402`,
		`mail +→ bob@example.com`,
		`eve +\d+ calls?, never bothered`,
		`fay +99 calls of 100, never bothered`,
		`mails +4 +ann, bob, cyd, dan; 5 requests`,
		`mailed twice +0`,
		`conversions +1 +ann`,
		`verify +✓ +6 rows compared; clean`,
	} {
		if !regexp.MustCompile(`(?m)^.*` + line).MatchString(p.seen.String()) {
			t.Errorf("no line like %q", line)
		}
	}
	if strings.Contains(p.seen.String(), "\x1b") {
		t.Error("colours though this is no terminal")
	}
	if left := p.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	for _, c := range []struct {
		when   string
		signal syscall.Signal
		code   int
	}{
		{"starting a private PostgreSQL", syscall.SIGINT, 1},
		{"PostgreSQL .* is up", syscall.SIGTERM, 1},
		{"sidecar run follows", syscall.SIGHUP, 1},
		{"follows the link", syscall.SIGINT, 1},
		{"kill -9", syscall.SIGINT, 1},
		{"sidecar verify compares", syscall.SIGINT, 1},
		{"kill -9", syscall.SIGKILL, -1},
		{"after paying", syscall.SIGKILL, -1},
	} {
		t.Run(fmt.Sprintf("%s at %s", c.signal, c.when), func(t *testing.T) {
			p := perform(t)
			p.until(t, c.when)
			p.cmd.Process.Signal(c.signal)
			if code := p.end(); code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, p.stderr.String())
			}
			if c.code == 1 {
				if left := p.leftovers(); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
				if !strings.Contains(p.stderr.String(), "interrupted") {
					t.Errorf("it says %q", p.stderr.String())
				}
				return
			}
			deadline := time.After(30 * time.Second)
			for len(p.leftovers()) > 0 {
				select {
				case <-deadline:
					t.Fatalf("left behind: %q", p.leftovers())
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
}

func TestAReaderWhoLeaves(t *testing.T) {
	p := perform(t)
	p.until(t, "setup")
	p.out.Close()
	if code := p.end(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if left := p.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestKeptForLookingAround(t *testing.T) {
	p := perform(t, "--keep")
	p.until(t, "Ctrl-C ends it")
	saas := find(t, p, `(http\S+)/api/features/report`)

	for _, c := range []struct {
		method, url, token string
		status             int
		body               string
	}{
		{http.MethodPost, saas + "/api/features/report", "eve", 200, "report"},
		{http.MethodPost, saas + "/api/features/report", "dan", 402, "You've reached"},
		{http.MethodPost, saas + "/api/features/report", "zoe", 401, "who is there"},
		{http.MethodGet, saas + "/upgrade?user=dan", "", 200, "Pay"},
		{http.MethodPost, saas + "/webhooks/stripe", "", 400, "not signed"},
		{http.MethodGet, find(t, p, `the inbox +(\S+)`), "", 200, "ann@example.com"},
		{http.MethodGet, find(t, p, `curl (\S+/) `) + "readyz", "", 200, "ready"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != c.status || !strings.Contains(string(body), c.body) {
			t.Errorf("%s %s as %q: %d %s %v, want %d %s", c.method, c.url, c.token, answer.StatusCode, body, err, c.status, c.body)
		}
	}
	p.cmd.Process.Signal(syscall.SIGINT)
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	if left := p.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func find(t *testing.T, p *performance, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(p.seen.String())
	if match == nil {
		t.Fatalf("no %q in:\n%s", pattern, p.seen.String())
	}
	return match[1]
}

func TestASidecarThatEndsIsShown(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sidecar")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho no can do >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := Run(t.Context(), Options{Executable: program, Out: &out})
	if err == nil || !strings.Contains(err.Error(), "the sidecar ended by itself") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error = %v", err)
	}
	if !strings.Contains(out.String(), "no can do") {
		t.Errorf("its log is not in:\n%s", out.String())
	}
}

func TestEveryBrokenPromiseIsNamed(t *testing.T) {
	four := []string{"ann", "bob", "cyd", "dan"}
	whole := ending{walls: four, blocked: four[1:], converted: four[:1], mailed: four}
	if err := whole.judge(); err != nil {
		t.Errorf("a whole story: %v", err)
	}
	for name, c := range map[string]struct {
		spoil func(*ending)
		want  string
	}{
		"a mail twice":     {func(e *ending) { e.mailed = []string{"ann", "bob", "bob", "cyd", "dan"} }, "mailed: [ann bob bob"},
		"a mail lost":      {func(e *ending) { e.mailed = four[:3] }, "mailed: [ann bob cyd]"},
		"not let in again": {func(e *ending) { e.blocked = four }, "blocked at the end: [ann"},
		"never blocked":    {func(e *ending) { e.walls = four[:2] }, "blocked at some time: [ann bob]"},
		"no conversion":    {func(e *ending) { e.converted = nil }, "converted: []"},
		"not clean":        {func(e *ending) { e.verified, e.verifyErr = "lost", io.EOF }, "sidecar verify: EOF: lost"},
	} {
		e := whole
		c.spoil(&e)
		if err := e.judge(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
