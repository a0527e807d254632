package dbserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/joho/godotenv"
)

// debianPackages lists the servers that the distribution may offer. Packages are unpacked, not installed, which
// needs no rights; apt checks their signatures.
func debianPackages(cache string) func(majors []string) ([]download, error) {
	return func(majors []string) ([]download, error) {
		for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb", "dpkg-query"} {
			if _, err := exec.LookPath(program); err != nil {
				return nil, err
			}
		}
		release, err := godotenv.Read("/etc/os-release")
		if err != nil {
			return nil, err
		}
		a := &apt{state: filepath.Join(cache, "apt")}
		var list []download
		for _, major := range majors {
			list = append(list, download{
				title: "Debian package postgresql-" + major,
				// Its libraries fit one release of the distribution only.
				folder: strings.Join([]string{"apt", major, release["ID"], release["VERSION_ID"], runtime.GOARCH}, "-"),
				bin:    "usr/lib/postgresql/" + major + "/bin",
				unpack: func(ctx context.Context, into string) error { return a.fetch(ctx, major, into) },
			})
		}
		return list, nil
	}
}

// apt downloads packages with the system's package lists, or with lists of its own where those are
// missing or out of date.
type apt struct {
	state   string   // folder for own lists
	options []string // empty while the system's lists are in use
}

// fetch downloads the server and those of its libraries that are not installed, and unpacks them.
func (a *apt) fetch(ctx context.Context, major, into string) error {
	server := []string{"postgresql-" + major, "postgresql-client-" + major}
	offered, err := a.run(ctx, "", "apt-cache", "pkgnames", "postgresql-client-")
	if err == nil && offered == "" && a.options == nil {
		if err = a.update(ctx); err == nil {
			offered, err = a.run(ctx, "", "apt-cache", "pkgnames", "postgresql-client-")
		}
	}
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(offered), server[1]) {
		return errors.New("not offered by this release of the distribution")
	}
	err = a.unpack(ctx, server, into)
	if err != nil && a.options == nil {
		if err := a.update(ctx); err != nil {
			return err
		}
		err = a.unpack(ctx, server, into)
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
	_, err := a.run(ctx, "", "apt-get", "update")
	return err
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
	status, err := a.run(ctx, "", "dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Package}\n")
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
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
