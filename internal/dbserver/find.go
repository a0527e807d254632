package dbserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/tiergate/tiergate/internal/loops"
)

// ErrMissing is behind the *loops.Fault of a machine that has no server and cannot fetch one.
var ErrMissing = errors.New("none is installed here and none was fetched")

// product is one kind of server, as far as finding its programs goes.
type product struct {
	kind      string                                             // "PostgreSQL", "MySQL" or "MariaDB"
	variable  string                                             // environment variable that names a folder with its programs
	server    string                                             // the main program
	creator   []string                                           // the program that creates the data: where it may be, seen from the server's folder
	installed []string                                           // patterns of folders where the programs usually are
	version   func(answer string) (string, error)                // reads the answer to --version; an error: will not do
	downloads func(f *finder) (list []download, refused []error) // best first
	hint      string                                             // how to install it here
}

// programs are a server's programs on this machine.
type programs struct {
	kind    string
	bin     string // folder with the server
	server  string // paths
	creator string
	version string // "17", "10.11.14-MariaDB-0+deb12u2"
}

// finder looks for a server's programs. Three variables steer it: the product's own, TIERGATE_CACHE (where fetched ones are kept) and
// TIERGATE_FETCH ("apt" or "npm": only fetched ones, from there; "off": nothing is fetched).
type finder struct {
	product
	given   string // value of the product's variable
	source  string // $TIERGATE_FETCH
	cache   string
	log     *slog.Logger
	attr    *syscall.SysProcAttr // who will run the programs
	refused []error              // places looked at, and why they would not do
}

func newFinder(p product, log *slog.Logger, attr *syscall.SysProcAttr) *finder {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &finder{
		product: p,
		given:   os.Getenv(p.variable),
		source:  os.Getenv("TIERGATE_FETCH"),
		cache:   cacheDir(),
		log:     log,
		attr:    attr,
	}
}

// cacheDir returns the folder of fetched servers. Root's own is closed to the user that runs them.
func cacheDir() string {
	if dir := os.Getenv("TIERGATE_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	switch {
	case os.Geteuid() == 0:
		dir = "/var/cache"
	case err != nil:
		dir = os.TempDir()
	}
	return filepath.Join(dir, "tiergate")
}

// find returns the first suitable programs: the given ones, installed ones, cached ones, fetched ones.
// Installed ones come before the cache because they bring tools such as pgbench along.
func (f *finder) find(ctx context.Context) (*programs, error) {
	if f.given != "" {
		if p := f.suitable(ctx, f.given); p != nil {
			return p, nil
		}
		return nil, &loops.Fault{Step: "use " + f.variable + "=" + f.given, Err: errors.Join(f.refused...),
			Hint: "name a folder that holds " + f.server + " and what came with it, or unset it"}
	}
	if f.source == "" || f.source == "off" {
		for _, bin := range f.folders() {
			if p := f.suitable(ctx, bin); p != nil {
				return p, nil
			}
		}
	}
	return f.fetch(ctx)
}

// folders lists where the server's programs are installed, newest version first.
func (f *finder) folders() []string {
	var dirs []string
	for _, pattern := range f.installed {
		found, _ := filepath.Glob(pattern)
		slices.Reverse(found) // two digits each, so names sort by version
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath(f.server); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return dirs
}

// suitable runs the server of a folder for its version, as the user that will run it. It returns nil if it
// will not do; the reason goes to f.refused.
func (f *finder) suitable(ctx context.Context, bin string) *programs {
	p := &programs{kind: f.kind, bin: bin, server: filepath.Join(bin, f.server)}
	err := func() error {
		_, err := os.Stat(p.server)
		if err != nil {
			return err
		}
		if p.creator, err = existing(bin, f.creator); err != nil {
			return err
		}
		cmd := p.command(ctx, p.server, "--version")
		cmd.Dir = "/"
		cmd.SysProcAttr = f.attr
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w %s", p.server, err, out)
		}
		if p.version, err = f.version(string(out)); err != nil {
			return fmt.Errorf("%s: %w", p.server, err)
		}
		return nil
	}()
	if err != nil {
		f.refused = append(f.refused, err)
		return nil
	}
	return p
}

// existing returns the first of some files that is there.
func existing(dir string, names []string) (string, error) {
	var refused error
	for _, name := range names {
		path := filepath.Join(dir, name)
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		refused = errors.Join(refused, err)
	}
	return "", refused
}

// command prepares a program with nothing of the caller's locale and connection variables, and with the
// libraries that were fetched with it. Libraries that came with a loader of their own fit no other.
func (p *programs) command(ctx context.Context, path string, args ...string) *exec.Cmd {
	env := []string{"PATH=" + p.bin + ":" + os.Getenv("PATH"), "LC_ALL=C", "TMPDIR=" + os.TempDir()}
	root := fetchedRoot(p.bin)
	libs := strings.Join(files(root, "native/lib", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*"), ":")
	if loader := files(root, "usr/lib/*-linux-gnu*/ld-linux*.so.*"); loader != nil {
		args = append([]string{"--library-path", libs, path}, args...)
		path = loader[0]
	} else if libs != "" {
		env = append(env, "LD_LIBRARY_PATH="+libs)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	return cmd
}

// fetchedRoot returns the folder that fetched packages were unpacked into, for the folder of their programs;
// empty for installed ones.
func fetchedRoot(bin string) string {
	match := regexp.MustCompile(`^(.+)/(usr/sbin|usr/lib/postgresql/\d+/bin|native/bin)$`).FindStringSubmatch(bin)
	if match == nil {
		return ""
	}
	return match[1]
}

// files returns what matches patterns under a folder; nothing without a folder.
func files(root string, patterns ...string) []string {
	if root == "" {
		return nil
	}
	var found []string
	for _, pattern := range patterns {
		more, _ := filepath.Glob(filepath.Join(root, pattern))
		found = append(found, more...)
	}
	return found
}

// installHint returns the entry of this machine's package manager ("brew" on macOS).
func installHint(otherwise string, hints map[string]string) string {
	if runtime.GOOS == "darwin" {
		return hints["brew"]
	}
	for _, manager := range []string{"apt-get", "dnf", "apk"} {
		if _, err := exec.LookPath(manager); err == nil {
			return hints[manager]
		}
	}
	return otherwise
}
