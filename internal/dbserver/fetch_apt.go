package dbserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/joho/godotenv"
)

// apt downloads packages of the machine's own release with the system's package lists, or with lists of its own where
// those are missing or out of date; those of another suite always with lists of its own. Packages are
// unpacked, not installed, which needs no rights; apt checks their signatures.
type apt struct {
	release map[string]string // /etc/os-release
	suite   string            // empty: the machine's own release
	state   string            // folder for own lists
	options []string          // empty while the system's lists are in use
}

func newApt(cache string) (*apt, error) {
	for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb", "dpkg-query"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, err
		}
	}
	release, err := godotenv.Read("/etc/os-release")
	if err != nil {
		return nil, err
	}
	return &apt{release: release, state: filepath.Join(cache, "apt")}, nil
}

// download describes packages; the last one tells whether they are offered.
func (a *apt) download(name, bin string, packages ...string) download {
	return download{
		title: "Debian package " + packages[0],
		// Its libraries fit one release of the distribution only.
		folder: strings.Join([]string{"apt", name, a.release["ID"], a.release["VERSION_ID"], runtime.GOARCH}, "-"),
		bin:    bin,
		unpack: func(ctx context.Context, into string) error { return a.fetch(ctx, packages, into) },
	}
}

// fetch downloads packages and those of their libraries that are not installed, and unpacks them.
func (a *apt) fetch(ctx context.Context, packages []string, into string) error {
	if a.suite != "" {
		if err := a.update(ctx); err != nil {
			return err
		}
	}
	last := packages[len(packages)-1]
	names := []string{"pkgnames", strings.TrimRight(last, "0123456789")} // any version: else the lists are missing
	offered, err := a.run(ctx, "", "apt-cache", names...)
	if err == nil && offered == "" && a.options == nil {
		if err = a.update(ctx); err == nil {
			offered, err = a.run(ctx, "", "apt-cache", names...)
		}
	}
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(offered), last) {
		return errors.New("not offered by this release of the distribution")
	}
	err = a.unpack(ctx, packages, into)
	if err != nil && a.options == nil {
		if err := a.update(ctx); err != nil {
			return err
		}
		err = a.unpack(ctx, packages, into)
	}
	if err == nil {
		err = os.RemoveAll(a.state) // 150 MB
	}
	return err
}

// update downloads fresh package lists into the state folder; the system's stay as they are.
func (a *apt) update(ctx context.Context) error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.state, dir), 0o755); err != nil {
			return err
		}
	}
	a.options = []string{
		"-o", "Dir::State::lists=" + filepath.Join(a.state, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(a.state, "cache"),
		"-o", "APT::Sandbox::User=", // another user could not write there
	}
	if a.suite != "" {
		if err := a.leaveRelease(ctx); err != nil {
			return err
		}
	}
	_, err := a.run(ctx, "", "apt-get", "update")
	return err
}

// leaveRelease turns to another suite on the server that the machine's own release comes from, and forgets what is installed.
func (a *apt) leaveRelease(ctx context.Context) error {
	uris, err := a.run(ctx, "", "apt-get", "update", "--print-uris")
	if err != nil {
		return err
	}
	own := regexp.MustCompile(`'(\S+)/dists/` + regexp.QuoteMeta(a.release["VERSION_CODENAME"]) + `/InRelease'`).FindStringSubmatch(uris)
	if own == nil || a.release["ID"] != "debian" {
		return fmt.Errorf("the suite %s is taken from Debian's servers only, and by Debian's apt", a.suite)
	}
	list := filepath.Join(a.state, "sources.list")
	source := "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + own[1] + " " + a.suite + " main\n"
	if err := os.WriteFile(list, []byte(source), 0o644); err != nil {
		return err
	}
	a.options = append(a.options,
		"-o", "Dir::Etc::SourceList="+list,
		"-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::Etc::Preferences=/dev/null",
		"-o", "Dir::Etc::PreferencesParts=/dev/null",
		"-o", "Dir::State::status=/dev/null",
		"-o", "APT::Default-Release=",
	)
	return nil
}

func (a *apt) unpack(ctx context.Context, server []string, into string) error {
	libraries, err := a.missingLibraries(ctx, server)
	if err != nil {
		return err
	}
	debs, err := os.MkdirTemp(into, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	if _, err := a.run(ctx, debs, "apt-get", slices.Concat([]string{"download"}, server, libraries)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", file, into).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w %s", filepath.Base(file), err, out)
		}
	}
	return nil
}

// missingLibraries follows the dependencies of packages from library to library, as far as they are not installed.
func (a *apt) missingLibraries(ctx context.Context, packages []string) ([]string, error) {
	known := map[string]bool{}
	var status string
	if a.suite == "" { // what is installed here need not fit another suite's programs
		var err error
		if status, err = a.run(ctx, "", "dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n"); err != nil {
			return nil, err
		}
	}
	for line := range strings.Lines(status) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "ii "); ok {
			known[name] = true
		}
	}
	var missing []string
	for len(packages) > 0 {
		out, err := a.run(ctx, "", "apt-cache", append([]string{"depends"}, packages...)...)
		if err != nil {
			return nil, err
		}
		packages = nil
		for _, name := range libraryNames(out) {
			if !known[name] {
				known[name] = true
				packages = append(packages, name)
			}
		}
		missing = append(missing, packages...)
	}
	return missing, nil
}

// libraryNames picks the libraries from the output of apt-cache depends, less LLVM, which is large and serves only
// the just-in-time compiler.
func libraryNames(depends string) []string {
	var names []string
	for line := range strings.Lines(depends) {
		kind, name, _ := strings.Cut(strings.Trim(line, " |\n"), ": ")
		library := strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "zlib")
		if (kind == "Depends" || kind == "PreDepends") && library && !strings.HasPrefix(name, "libllvm") {
			names = append(names, name)
		}
	}
	return names
}

// run returns a program's standard output; the error carries what it complained about.
func (a *apt) run(ctx context.Context, dir, program string, args ...string) (string, error) {
	if strings.HasPrefix(program, "apt") {
		args = append(slices.Clone(a.options), args...)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("%s: %w", program, err)
	}
	return string(out), nil
}
